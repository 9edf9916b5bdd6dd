"""The official reward against figures that the paper's own code gave for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.compose import METRICS, TERMS, score_response, sentences_to_encode, term_weights
from rewards.official.alignment import interval_of, match, reply_object
from rewards.official.answers import first_block, question_type
from rewards.official.compose import read_decision
from rewards.official.porter import stem
from rewards.official.text import mean_rouge, word_error_rate
from rewards.types import NO_EVIDENCE, Evidence, JudgeReply, OfficialConfig, Scored, Similarity, Target

CASES = [json.loads(line) for line in (Path(__file__).parent / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def official(reward_config: Callable[..., Any]) -> OfficialConfig:
    config = reward_config("video_r2_official")
    assert isinstance(config, OfficialConfig)
    return config


def similarity_of(table: dict[str, dict[str, float]]) -> Similarity:
    def similarity(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        return np.array([[table[claim][reference] for reference in references] for claim in claims], dtype=np.float64)

    return similarity


def scored_case(case: dict[str, Any], config: OfficialConfig) -> Scored:
    row = case["row"]
    config = replace(
        config,
        temporal_alignment=replace(
            config.temporal_alignment,
            buffer_seconds=float(case["buffer_seconds"]),
            similarity_threshold=case["similarity_threshold"],
        ),
    )
    replies = {name: JudgeReply(text, None if text is not None else "down") for name, text in row["judge"].items()}
    return score_response(
        row["response"],
        Target(row["question"], row["solution"], temporal_grounding=row.get("temporal_grounding")),
        config,
        similarity=similarity_of(row["similarity"]),
        evidence=Evidence(row.get("claims"), replies),
    )


def test_there_are_several_hundred_cases_of_every_sort() -> None:
    expected = [case["expected"] for case in CASES]
    assert len(CASES) >= 400
    assert {figures["type"] for figures in expected} == {
        "multiple choice",
        "numerical",
        "regression",
        "OCR",
        "free-form",
    }
    assert sum(figures["temporal_alignment"] > 0 for figures in expected) >= 80
    assert sum(0 < figures["accuracy"] < 1 for figures in expected) >= 80


@pytest.mark.parametrize("case", CASES, ids=[case["row"]["id"] for case in CASES])
def test_every_figure_is_the_papers_to_the_last_bit(case: dict[str, Any], official: OfficialConfig) -> None:
    scored, expected = scored_case(case, official), case["expected"]
    terms = scored.terms
    assert terms["accuracy"].detail["type"] == expected["type"]
    assert {name: terms[name].value for name in ("format", "accuracy", "temporal_alignment")} == {
        name: expected[name] for name in ("format", "accuracy", "temporal_alignment")
    }
    assert scored.reward == expected["reward"]
    # None: the call for this verdict failed.
    assert terms["consistency"].value == expected["consistency"]
    if "precision" in terms["temporal_alignment"].detail:
        assert terms["temporal_alignment"].detail["precision"] == expected["tar"]
    else:
        assert expected["tar"] is None or expected["consistency"] is None


def test_without_claims_and_replies_our_rules_read_both(official: OfficialConfig, by_words: Similarity) -> None:
    target = Target(
        "Which? A. red B. blue", "<answer>B</answer>", temporal_grounding={"00:05": "A red square appears."}
    )
    response = "<think>At 5.4 s a red square appears. So the answer is B.</think><answer>{}</answer>"
    right = score_response(response.format("B"), target, official, similarity=by_words)
    assert right.reward == 3.0
    assert sentences_to_encode([response.format("B")], [target], official) == ["A red square appears."]
    at_odds = score_response(response.format("A"), target, official, similarity=by_words)
    assert {name: verdict.value for name, verdict in at_odds.terms.items()} == {
        "format": 1.0,
        "accuracy": 0.0,
        "consistency": 0.0,
        "temporal_alignment": 0.0,
    }
    assert at_odds.metrics["tar_precision"] == 1.0
    assert tuple(right.terms) == tuple(TERMS)
    assert tuple(right.metrics) == METRICS


@pytest.mark.parametrize(
    ("solution", "think", "answer", "gate"),
    [
        ("12", "I count twelve cars, so the total is 12.", "12", 1.0),
        ("12", "I count twelve cars, so the total is 11.", "12", 0.0),
        ("TAXI", "So the sign says TAXI in yellow.", "taxi", 1.0),
        ("TAXI", "So the sign says BUS.", "taxi", 0.0),
        ("TAXI", "", "taxi", 0.0),
    ],
)
def test_the_rules_read_consistency_of_numbers_and_words(
    solution: str, think: str, answer: str, gate: float, official: OfficialConfig, by_words: Similarity
) -> None:
    response = f"<think>{think}</think><answer>{answer}</answer>"
    scored = score_response(response, Target("What?", solution), official, similarity=by_words)
    assert scored.terms["consistency"].value == gate


def test_with_a_judge_as_reader_a_missing_reply_pays_nothing(
    reward_config: Callable[..., Any], by_words: Similarity
) -> None:
    target = Target("Which?", "B", temporal_grounding={"00:05": "A red square appears."})
    response = "<think>At 5 s a red square appears. So the answer is B.</think><answer>B</answer>"
    for override in ("temporal_alignment.claims", "consistency.reader"):
        config = reward_config("video_r2_official", f"reward.{override}=judge")
        scored = score_response(response, target, config, similarity=by_words)
        assert scored.reward == 2.0
        assert "judge was not asked" in scored.terms["temporal_alignment"].detail["reason"]


def test_weights_are_the_papers_and_can_be_changed(reward_config: Callable[..., Any], by_words: Similarity) -> None:
    assert term_weights(reward_config("video_r2_official")) == {
        "format": 1.0,
        "accuracy": 1.0,
        "consistency": 0.0,
        "temporal_alignment": 1.0,
    }
    config = reward_config("video_r2_official", "reward.accuracy.weight=3")
    response = "<think></think><answer>B</answer>"
    assert score_response(response, Target("", "B"), config, similarity=by_words, evidence=NO_EVIDENCE).reward == 4.0


@pytest.mark.parametrize(
    ("key", "interval"),
    [
        ("00:05", (5, 5)),
        ("1:02:03", (3723, 3723)),
        ("4.5", (4, 4)),
        ("5.5", (6, 6)),
        ("0:02.5 to 0:03.5", (2, 4)),
        ("9 \u2013 5", (5, 9)),
        ("5TO8", (5, 8)),
        ("+5,", (5, 5)),
        ("0:75", (75, 75)),
        ("5-end", None),
        ("5-", None),
        ("-5", None),
        ("5-6-7", None),
        ("5 s", None),
        ("[00:05]", None),
        ("nan", None),
        ("1:2:3:4", None),
    ],
)
def test_time_keys_are_read_as_the_code_reads_them(key: str, interval: tuple[int, int] | None) -> None:
    assert interval_of(key) == interval


def test_an_unbounded_time_is_an_error_and_the_reward_0() -> None:
    with pytest.raises(OverflowError):
        interval_of("inf")


@pytest.mark.parametrize(
    ("reply", "decision"),
    [
        ("TRUE\nboth say B", True),
        ("\n true", True),
        ("NOT TRUE", True),
        ("FALSE, not TRUE", False),
        ("It is false", False),
        ("TRUE or FALSE?", True),
        ("either TRUE or FALSE", None),
        ("yes\nTRUE", None),
        ("", None),
    ],
)
def test_consistency_replies_are_read_as_the_code_reads_them(reply: str, decision: bool | None) -> None:
    assert read_decision(reply) is decision


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"00:05": "x"}', {"00:05": "x"}),
        ('Sure: {"00:05": "x"} Done.', {"00:05": "x"}),
        ('{note} {"00:05": "x"}', {}),
        ("none", {}),
        ("[1]", [1]),
    ],
)
def test_a_reply_is_json_or_what_stands_between_its_outer_braces(reply: str, value: Any) -> None:
    assert reply_object(reply) == value


def test_greedy_matching_takes_the_first_of_equals_and_never_what_is_no_number() -> None:
    assert match({(0, 0): 0.8, (0, 1): 0.8, (1, 0): 0.9, (1, 1): 0.7}, threshold=0.75) == {0: 0}
    assert match({(0, 0): float("nan"), (1, 0): 0.75}, threshold=0.75) == {1: 0}
    assert match({}, threshold=0.75) == {}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("blue", "multiple choice"),
        ("E) five", "multiple choice"),
        ("F", "OCR"),
        ("yes it is so now", "OCR"),
        ("yes it is so now then", "free-form"),
        ("it's", "free-form"),
        ("1,234", "numerical"),
        ("1.234", "numerical"),
        ("1.2345", "regression"),
        ("", "free-form"),
    ],
)
def test_types_are_guessed_as_the_code_guesses_them(answer: str, kind: str) -> None:
    assert question_type(answer) == kind


def test_the_first_block_ends_at_the_first_closing_tag_behind_it() -> None:
    assert first_block("</answer><answer> a <answer> b </answer> c</answer>", "answer") == "a <answer> b"
    assert first_block("<answer>a", "answer") == ""


def test_word_error_rate_of_hand_worked_texts() -> None:
    assert word_error_rate("the red car", "red car") == pytest.approx(1 / 3)
    assert word_error_rate("go", "no go area") == 2.0
    assert word_error_rate("", "x") == 1.0
    assert word_error_rate("a b c", "") == 1.0


def test_rouge_of_a_hand_worked_text() -> None:
    # Unigrams: 3 of 4 and 3 of 3; bigrams: 1 of 3 and 1 of 2; longest common subsequence: the, cat, mat.
    f1, f2, longest = 2 * 0.75 / 1.75, 2 * (1 / 3) * 0.5 / (5 / 6), 2 * 0.75 / 1.75
    assert mean_rouge("the cat sat mat", "The cats, MAT!") == pytest.approx((f1 + f2 + longest) / 3)
    assert mean_rouge("", "x") == mean_rouge("x", "") == 0.0


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        # The examples of Porter's paper, and the words that NLTK reads otherwise.
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("ties", "tie"),
        ("cats", "cat"),
        ("feed", "feed"),
        ("agreed", "agre"),
        ("plastered", "plaster"),
        ("motoring", "motor"),
        ("sing", "sing"),
        ("sized", "size"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("filing", "file"),
        ("happy", "happi"),
        ("enjoy", "enjoy"),
        ("relational", "relat"),
        ("conditional", "condit"),
        ("vietnamization", "vietnam"),
        ("hopefulness", "hope"),
        ("adoption", "adopt"),
        ("probate", "probat"),
        ("cease", "ceas"),
        ("controll", "control"),
        ("roll", "roll"),
        ("dying", "die"),
        ("skies", "sky"),
        ("died", "die"),
        ("geology", "geolog"),
        ("by", "by"),
    ],
)
def test_stems_are_porters(word: str, expected: str) -> None:
    assert stem(word) == expected
