"""What comes out for one logged row, and the means over some."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rewards.types import JudgeReply
from videor2_rl.evaluation.judged import NOT_ASKED, Replies
from videor2_rl.evaluation.log_results import evaluate_row, result_row, summarise
from videor2_rl.evaluation.official.cases import Case
from videor2_rl.evaluation.official.reading import PLAIN
from videor2_rl.evaluation.tac import Consistency, Readings

CASE = Case(
    kind="letter",
    letters=PLAIN,
    doc_id=0,
    question="Which?",
    options=("red", "green", "blue"),
    truth="A",
    response="",
    think="So it is green (B).",
    answer="A",
    logged="C",
    logged_prediction="C",
)
OPEN = replace(CASE, kind="open", options=(), truth="a red car", think="So it is a dog.", answer="a car")
DOWN = JudgeReply(None, "the server is down")


def said(text: str) -> JudgeReply:
    return JudgeReply(text, None)


def replies(**given: JudgeReply) -> Replies:
    return replace(NOT_ASKED, **given)


def test_rules_read_both_blocks_where_nobody_was_asked() -> None:
    result = evaluate_row({}, CASE, NOT_ASKED)
    assert result.readings == Readings("B", "A")
    assert result.consistency == Consistency(think_right=0.0, answer_right=1.0, same_answer=0.0)
    assert (result.think_status, result.answer_status) == ("read", "read")
    assert (result.vas, result.vas_failed, result.official_vas) == (None, False, None)
    # The paper's readers get what ours read.
    official = result.official
    assert (official.lmms.prediction, official.answer.prediction, official.think.prediction) == ("C", "A", "B")
    assert (official.lmms.score, official.answer.score, official.think.score) == (0.0, 1.0, 0.0)


def test_a_judge_s_reading_counts_instead_for_the_block_it_is_about() -> None:
    think = evaluate_row({}, CASE, replies(think=said('{"answer": "C"}')))
    assert (think.readings, think.official.think.prediction) == (Readings("C", "A"), "C")
    answer = evaluate_row({}, CASE, replies(answer=said('{"answer": "C"}')))
    assert (answer.readings, answer.official.answer.prediction) == (Readings("B", "C"), "C")


@pytest.mark.parametrize(
    ("block", "reply", "status"),
    [
        ("So it is green (B).", None, "read"),
        ("Hard to say.", None, "unreadable"),
        ("Hard to say.", said('{"answer": "B"}'), "read"),
        ("So it is green (B).", said('{"answer": null}'), "unreadable"),
        ("So it is green (B).", DOWN, "failed"),
        ("", said('{"answer": "B"}'), "empty"),  # It says nothing, whatever a judge reads into it.
        ("", DOWN, "empty"),
        ("", None, "empty"),
    ],
)
def test_the_status_of_a_reading_says_why_there_is_none(block: str, reply: JudgeReply | None, status: str) -> None:
    think = evaluate_row({}, replace(CASE, think=block), replace(NOT_ASKED, think=reply))
    assert (think.think_status, think.answer_status) == (status, "read")
    assert think.readings == Readings("B" if status == "read" else None, "A")
    answer = evaluate_row({}, replace(CASE, answer=block), replace(NOT_ASKED, answer=reply))
    assert (answer.think_status, answer.answer_status) == ("read", status)
    assert answer.readings == Readings("B", "B" if status == "read" else None)


def test_the_paper_s_reader_is_given_bare_answers() -> None:
    judged = replies(think=said('{"answer": null}'), answer=said('{"answer": "a truck"}'))
    official = evaluate_row({}, OPEN, judged).official
    assert (official.think.prediction, official.answer.prediction) == ("UNKNOWN", "a truck")
    # Where nothing could be read there is nothing to give.
    empty = evaluate_row({}, replace(OPEN, think="", answer=""), NOT_ASKED).official
    assert (empty.think.prediction, empty.answer.prediction) == ("", "")
    # Any other reply goes through as it is, and a failed one is empty.
    other = replies(think=said('{"answer": "a", "reason": "b"}'), answer=DOWN)
    official = evaluate_row({}, OPEN, other).official
    assert (official.think.prediction, official.answer.prediction) == ('{"answer": "a", "reason": "b"}', "")


def test_a_number_that_rules_read_reaches_the_paper_s_reader_unrounded() -> None:
    asked = replace(CASE, kind="vsi_number", options=(), truth=12345.678, logged=None, logged_prediction=None)
    case = replace(asked, think="So 12345.678.", answer="0.001")
    official = evaluate_row({}, case, NOT_ASKED).official
    assert (official.think.prediction, official.answer.prediction) == (12345.678, 0.001)
    assert (official.think.score, official.answer.score) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("given", "vas", "failed", "official"),
    [
        ({"vas": said('{"score": 7}')}, 7.0, False, 7),
        ({"vas": said("7/10"), "vas_retry": said('{"score": 3}')}, 7.0, False, 3),  # We read "7/10", the script not.
        ({"vas": said("high"), "vas_retry": said('{"score": 3}')}, 3.0, False, 3),
        ({"vas": said("high"), "vas_retry": said("high")}, None, True, 0),
        ({"vas": DOWN}, None, True, 0),
    ],
)
def test_the_first_score_that_can_be_read_counts(
    given: dict[str, JudgeReply], vas: float | None, failed: bool, official: int
) -> None:
    result = evaluate_row({"input": "Which?"}, CASE, replies(**given))
    assert (result.vas, result.vas_failed) == (vas, failed)
    assert result.official_vas is not None and result.official_vas.score == official
    # Without its prompt the paper's script leaves a row out.
    assert evaluate_row({}, CASE, replies(**given)).official_vas is None


def test_the_reply_that_counted_is_kept_for_the_paper_s_file() -> None:
    retried = replies(vas=said("high"), vas_retry=said('{"score": 3, "rationale": "r"}'))
    score = evaluate_row({"input": "Which?"}, CASE, retried).official_vas
    assert score is not None
    assert (score.raw, score.rationale) == ('{"score": 3, "rationale": "r"}', "r")


def test_a_summary_counts_what_it_leaves_out() -> None:
    judged: list[tuple[Case, Replies]] = [
        (CASE, replies(vas=said('{"score": 8}'))),
        (replace(CASE, logged="A", logged_prediction="A"), replies(vas=said('{"score": 2}'))),
        (replace(CASE, think=""), replies(vas=said("high"), vas_retry=said("high"))),
        (replace(CASE, think="Hard to say.", answer=""), replies(answer=DOWN)),
    ]
    summary = summarise([evaluate_row({}, case, given) for case, given in judged], resamples=10, seed=0)
    assert summary["num_samples"] == 4
    # lmms-eval's own predictions C, A, C, C, of which A is right.
    assert summary["logged_accuracy"]["mean"] == 0.25
    assert summary["tac"]["answer_accuracy"]["mean"] == 1.0
    assert summary["tac"]["think_blocks"] == {"read": 2, "empty": 1, "unreadable": 1, "failed": 0}
    assert summary["tac"]["answer_blocks"] == {"read": 3, "empty": 1, "unreadable": 0, "failed": 0}
    # Three were judged: 8, 2, and one that failed.
    vas = summary["vas"]
    assert (vas["mean"], vas["num_scored"], vas["num_failed"]) == (5.0, 2, 1)
    assert summarise([evaluate_row({}, CASE, NOT_ASKED)], resamples=10, seed=0)["vas"] is None


def test_a_line_of_readings_has_both_blocks_apart_and_the_raw_replies() -> None:
    row: dict[str, Any] = {"doc_id": 7}
    given = replies(answer=said('{"answer": "A"}'), vas=DOWN)
    line = result_row("f.jsonl", 2, 5, row, evaluate_row(row, CASE, given), given)
    assert line == {
        "file": "f.jsonl",
        "row": 2,
        "line": 5,
        "doc_id": 7,
        "think": {"answer": "B", "status": "read"},
        "answer": {"answer": "A", "status": "read"},
        "think_right": 0.0,
        "answer_right": 1.0,
        "agreement": 0.0,
        "same_answer": 0.0,
        "vas": None,
        "vas_failed": True,
        "judge": {
            "answer": {"text": '{"answer": "A"}', "failure": None},
            "vas": {"text": None, "failure": "the server is down"},
        },
    }
