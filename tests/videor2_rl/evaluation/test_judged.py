"""Replies about logged responses: those stored in the rows, and those asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rewards.judge import JudgePrompt
from rewards.types import JudgeReply
from videor2_rl.evaluation.judged import (
    NOT_ASKED,
    Replies,
    complete_replies,
    judge_prompt_versions,
    needs_retry,
    stored_replies,
)
from videor2_rl.evaluation.official.cases import Case
from videor2_rl.evaluation.official.reading import PLAIN

SCORE, NO_JSON = '{"score": 3, "rationale": "r"}', "I would give it a three"
CASE = Case(
    kind="letter",
    letters=PLAIN,
    doc_id=0,
    question="Which?",
    options=("red", "green"),
    truth="A",
    response="<think>So red.</think><answer>A</answer>",
    think="So red.",
    answer="A",
    logged="A",
    logged_prediction="A",
)


def said(text: str) -> JudgeReply:
    return JudgeReply(text, None)


class Scripted:
    """A judge that says which prompt it answers, and keeps what it was asked."""

    def __init__(self, score: str = SCORE) -> None:
        self.calls: list[list[JudgePrompt]] = []
        self._score = score

    def ask(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply]:
        self.calls.append(list(prompts))
        return [said(self._reply(prompt)) for prompt in prompts]

    def _reply(self, prompt: JudgePrompt) -> str:
        if prompt.purpose == "vas":
            return SCORE if "JSON object alone" in prompt.user else self._score
        return f"{prompt.purpose} of {json.loads(prompt.user).get('reasoning') or json.loads(prompt.user)['text']}"


@pytest.mark.parametrize(
    ("vas", "first", "retry"),
    [
        (None, None, None),
        (SCORE, SCORE, None),
        ([SCORE], SCORE, None),
        ([SCORE, "unused"], SCORE, None),  # A score that can be read is not asked for again.
        ([NO_JSON, SCORE], NO_JSON, SCORE),
        ([NO_JSON, None], NO_JSON, None),
        (NO_JSON, NO_JSON, NO_JSON),  # A judge at temperature 0 repeats itself.
    ],
)
def test_stored_replies_are_those_of_the_row(vas: Any, first: str | None, retry: str | None) -> None:
    found = stored_replies({"judge": {"think": "t", "answer": "a", "vas": vas, "other": 5}})
    assert (found.think, found.answer) == (said("t"), said("a"))
    assert found.vas == (None if first is None else said(first))
    assert found.vas_retry == (None if retry is None else said(retry))


def test_a_row_without_replies_was_not_asked_about() -> None:
    assert stored_replies({}) == stored_replies({"judge": {}}) == NOT_ASKED


@pytest.mark.parametrize(
    "judge", ["text", ["t"], {"think": 3}, {"answer": {}}, {"vas": []}, {"vas": ["a", "b", "c"]}, {"vas": [1]}]
)
def test_stored_replies_in_another_form_are_refused(judge: Any) -> None:
    with pytest.raises(ValueError, match=r"^judge "):
        stored_replies({"judge": judge})


def test_only_a_reply_that_holds_no_score_is_asked_for_again() -> None:
    assert needs_retry(said(NO_JSON))
    assert not needs_retry(said(SCORE))
    assert not needs_retry(JudgeReply(None, "the server is down"))
    assert not needs_retry(None)


def test_each_row_gets_the_reply_to_its_own_prompts_in_one_call() -> None:
    cases = [replace(CASE, think="first", answer="A1"), replace(CASE, think="second", answer="A2")]
    judge = Scripted()
    assert complete_replies([NOT_ASKED] * 2, cases, [{}, {}], judge=judge) == [
        Replies(said("conclusion of first"), said("answer of A1"), said(SCORE), None),
        Replies(said("conclusion of second"), said("answer of A2"), said(SCORE), None),
    ]
    assert len(judge.calls) == 1


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        (replace(NOT_ASKED, think=said("t")), ["answer", "vas"]),
        (replace(NOT_ASKED, answer=said("a")), ["conclusion", "vas"]),
        (replace(NOT_ASKED, vas=said(SCORE)), ["conclusion", "answer"]),
        (replace(NOT_ASKED, think=said("t"), answer=said("a"), vas=said(NO_JSON), vas_retry=said(NO_JSON)), []),
    ],
)
def test_what_is_stored_is_kept_and_not_asked(stored: Replies, asked: list[str]) -> None:
    judge = Scripted()
    (found,) = complete_replies([stored], [CASE], [{}], judge=judge)
    assert [prompt.purpose for call in judge.calls for prompt in call] == asked
    assert found.think == (stored.think or said("conclusion of So red."))
    assert found.answer == (stored.answer or said("answer of A"))
    assert (found.vas, found.vas_retry) == (stored.vas or said(SCORE), stored.vas_retry)


def test_a_score_that_cannot_be_read_is_asked_for_once_more_with_a_word_on_the_form() -> None:
    judge = Scripted(score=NO_JSON)
    (found,) = complete_replies([NOT_ASKED], [CASE], [{}], judge=judge)
    assert (found.vas, found.vas_retry) == (said(NO_JSON), said(SCORE))
    first, (again,) = judge.calls
    assert again.user.startswith(first[-1].user) and again.user.endswith("Reply with the JSON object alone.")
    assert replace(again, user=first[-1].user) == first[-1]


@pytest.mark.parametrize(
    ("kind", "options", "lettered"),
    [
        ("letter", ("red", "green"), {"A": "red", "B": "green"}),
        ("vsi_letter", ("A. chair", "B. table"), {"A": "chair", "B": "table"}),
        ("vsi_number", ("A. chair",), {}),
        ("open", (), {}),
    ],
)
def test_a_prompt_shows_its_block_the_question_and_each_option_with_one_letter(
    kind: Any, options: tuple[str, ...], lettered: dict[str, str]
) -> None:
    judge = Scripted()
    complete_replies([NOT_ASKED], [replace(CASE, kind=kind, options=options)], [{"input": "As logged?"}], judge=judge)
    conclusion, answer, vas = (json.loads(prompt.user) for prompt in judge.calls[0])
    assert conclusion == {"question": "Which?", "options": lettered, "reasoning": "So red."}
    assert answer == {"question": "Which?", "options": lettered, "text": "A"}
    # The score is given to the prompt as it was logged, which the paper's script reads.
    assert vas == {"question": "As logged?", "reasoning": "So red."}


def test_the_card_names_the_text_of_each_purpose() -> None:
    versions = judge_prompt_versions()
    assert set(versions) == {"conclusion", "answer", "vas"}
    assert all(version.startswith(f"{purpose}.v") for purpose, version in versions.items())


def test_the_official_form_of_the_score_shows_the_whole_response_and_leaves_the_other_prompts_alone() -> None:
    judge, plain = Scripted(), Scripted()
    complete_replies([NOT_ASKED], [CASE], [{"input": "As logged?"}], judge=judge, vas_form="official")
    complete_replies([NOT_ASKED], [CASE], [{"input": "As logged?"}], judge=plain)
    *others, vas = judge.calls[0]
    assert json.loads(vas.user) == {"input": "As logged?", "response": CASE.response}
    assert (vas.purpose, vas.version, vas.schema) == ("vas", "vas_official.v1", None)
    assert others == plain.calls[0][:-1]
    assert judge_prompt_versions("official") == {**judge_prompt_versions(), "vas": "vas_official.v1"}
