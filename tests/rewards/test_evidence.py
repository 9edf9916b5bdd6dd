"""Claims and judge replies that are handed to the scoring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rewards.compose import score_response, sentences_to_encode
from rewards.types import NO_EVIDENCE, Evidence, JudgeReply, Similarity, Target

RESPONSE = "<think>Nothing is said of any time, the answer is A.</think><answer>A</answer>"
CLAIMS = {"0:02": "A red square appears", "from 8 s to 9 s": "A yellow circle appears", "later": "A cat appears"}

PRECISION = "reward.temporal_alignment.statistic=precision"


def said(text: str) -> JudgeReply:
    return JudgeReply(text, None)


def test_claims_that_are_given_win_over_parser_and_judge(
    reward_config: Callable[..., Any], toy_target: Target, by_words: Similarity
) -> None:
    judge = reward_config("video_r2", PRECISION, "reward.temporal_alignment.claims=judge")
    evidence = Evidence(CLAIMS, {"claims": said('{"00:02": "A cow appears."}')})
    for settings in (reward_config("video_r2", PRECISION), judge):
        scored = score_response(RESPONSE, toy_target, settings, similarity=by_words, evidence=evidence)
        alignment = scored.terms["temporal_alignment"]
        assert [claim["quote"] for claim in alignment.detail["claims"]] == ["0:02", "from 8 s to 9 s"]
        assert alignment.value == pytest.approx(0.95)  # The second range is a second longer than its event
        assert sentences_to_encode([RESPONSE], [toy_target], settings, [evidence])[:2] == [
            "A red square appears.",
            "A yellow circle appears.",
        ]


def test_the_judges_claims_are_read_from_its_raw_reply(
    reward_config: Callable[..., Any], toy_target: Target, by_words: Similarity
) -> None:
    config = reward_config("video_r2", PRECISION, "reward.temporal_alignment.claims=judge")
    reply = said('Sure: {"00:02": "A red square appears.", "00:12": "A red square appears."}')
    scored = score_response(
        RESPONSE, toy_target, config, similarity=by_words, evidence=Evidence(None, {"claims": reply})
    )
    assert scored.metrics["tar_precision"] == 0.5
    assert scored.reward == 2.5


@pytest.mark.parametrize("judge", [{}, {"claims": JudgeReply(None, "cut")}, {"claims": said("I cannot.")}])
def test_a_claims_reply_that_failed_fails_alignment_and_the_reward(
    judge: dict[str, JudgeReply], reward_config: Callable[..., Any], toy_target: Target, by_words: Similarity
) -> None:
    config = reward_config("video_r2", PRECISION, "reward.temporal_alignment.claims=judge")
    scored = score_response(RESPONSE, toy_target, config, similarity=by_words, evidence=Evidence(None, judge))
    assert scored.reward is None
    assert scored.terms["temporal_alignment"].status == "failure"
    assert scored.terms["accuracy"].value == 1.0
    assert scored.metrics["num_claims"] is None


@pytest.mark.parametrize(
    ("reply", "consistency", "alignment"),
    [
        ("TRUE\nThey agree.", 1.0, 1.0),
        ("FALSE", 0.0, 0.0),
        ("NOT TRUE", 0.0, 0.0),
        ("hard to say", None, None),
        (None, None, None),
    ],
)
def test_the_judge_reads_consistency_and_a_failed_reply_fails_the_gate(
    reply: str | None,
    consistency: float | None,
    alignment: float | None,
    reward_config: Callable[..., Any],
    toy_target: Target,
    by_words: Similarity,
) -> None:
    config = reward_config("video_r2", PRECISION, "reward.consistency.reader=judge")
    judge = {"consistency": JudgeReply(reply, None if reply else "connection refused")}
    evidence = Evidence({"00:02": "A red square appears."}, judge)
    scored = score_response(RESPONSE, toy_target, config, similarity=by_words, evidence=evidence)
    assert scored.terms["consistency"].value == consistency
    assert scored.terms["temporal_alignment"].value == alignment
    if consistency is None:
        assert {scored.terms[name].status for name in ("consistency", "temporal_alignment")} == {"failure"}
        assert scored.reward is None
    ungated = reward_config(
        "video_r2", PRECISION, "reward.consistency.reader=judge", "reward.temporal_alignment.gate=false"
    )
    assert score_response(RESPONSE, toy_target, ungated, similarity=by_words, evidence=evidence).reward == 3.0


def test_an_empty_block_needs_no_judge(
    reward_config: Callable[..., Any], toy_target: Target, by_words: Similarity
) -> None:
    config = reward_config(
        "video_r2", PRECISION, "reward.consistency.reader=judge", "reward.temporal_alignment.claims=judge"
    )
    scored = score_response("<answer>A</answer>", toy_target, config, similarity=by_words, evidence=NO_EVIDENCE)
    assert scored.terms["consistency"].status == "abstention"
    assert scored.terms["temporal_alignment"].value == 0.0
    assert scored.reward == 1.0


def test_claims_that_are_given_keep_their_order(
    reward_config: Callable[..., Any], toy_target: Target, by_words: Similarity
) -> None:
    evidence = Evidence({"00:12": "A blue triangle appears.", "00:02": "A red square appears."}, {})
    scored = score_response(RESPONSE, toy_target, reward_config("video_r2"), similarity=by_words, evidence=evidence)
    claims = scored.terms["temporal_alignment"].detail["claims"]
    assert [(claim["quote"], claim["reference"]) for claim in claims] == [("00:12", 2), ("00:02", 0)]


def test_without_references_a_missing_judge_costs_alignment_nothing(
    reward_config: Callable[..., Any], toy_target: Target, by_words: Similarity
) -> None:
    config = reward_config("video_r2", "reward.temporal_alignment.claims=judge")
    for grounding in (None, {"later": "A cat appears."}):
        target = Target(toy_target.question, toy_target.solution, temporal_grounding=grounding)
        scored = score_response(RESPONSE, target, config, similarity=by_words)
        assert (scored.terms["temporal_alignment"].status, scored.reward) == ("abstention", 2.0)
