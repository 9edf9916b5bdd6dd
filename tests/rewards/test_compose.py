from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from rewards.compose import (
    METRICS,
    TERMS,
    check_target,
    reward_range,
    score_response,
    sentences_to_encode,
    term_weights,
)
from rewards.types import (
    AccuracyConfig,
    ConsistencyConfig,
    FormatConfig,
    Similarity,
    Target,
    TemporalAlignmentConfig,
    VideoR2Config,
)

RIGHT = (
    "<think>At 00:02 a red square appears. At 00:08 a yellow circle appears. At 00:12 a blue triangle appears. "
    "The first is red (A).</think>\n<answer>A</answer>"
)


def test_a_faultless_response_earns_every_term(config: VideoR2Config, toy_target: Target, by_words: Similarity) -> None:
    scored = score_response(RIGHT, toy_target, config, similarity=by_words)
    assert scored.reward == 3.0
    assert scored.metrics == {
        "accuracy": 1.0,
        "format": 1.0,
        "tar_precision": 1.0,
        "tar_recall": 1.0,
        "tar_f1": 1.0,
        "tac": 1.0,
        "num_claims": 3.0,
    }


@pytest.mark.parametrize(
    ("old", "new", "reward", "metric", "value"),
    [
        ("<answer>A", "<answer>D", 1.0, "tac", 0.0),  # Wrong and at odds: the gate closes.
        ("red (A)", "yellow (D)", 2.0, "tac", 0.0),  # Right, but at odds.
        ("00:08", "00:15", 2 + 2 / 3, "tar_precision", 2 / 3),  # One claim late.
        ("yellow circle", "green circle", 2 + 2 / 3, "tar_recall", 2 / 3),  # One event wrong.
        (" The first is red (A).", "", 2.0, "tac", None),  # No conclusion: unreadable, closed.
        ("<think>", "", 1.0, "format", 0.0),
    ],
)
def test_each_fault_costs_what_it_should(
    old: str, new: str, reward: float, metric: str, value: float, config: VideoR2Config, toy_target: Target,
    by_words: Similarity,
) -> None:  # fmt: skip
    scored = score_response(RIGHT.replace(old, new), toy_target, config, similarity=by_words)
    assert scored.reward == pytest.approx(reward)
    assert scored.metrics[metric] == pytest.approx(value)


def test_the_question_about_a_time_costs_no_claim(config: VideoR2Config, by_words: Similarity) -> None:
    target = Target(
        "Which colour appears at 00:05? A. red B. green C. blue D. yellow",
        "A",
        temporal_grounding={"00:05": "A red square appears.", "00:09": "A blue circle appears."},
    )
    response = (
        "<think>At 00:05 a red square appears. At 00:09 a blue circle appears. At 00:05 it is red (A).</think>\n"
        "<answer>A</answer>"
    )
    scored = score_response(response, target, config, similarity=by_words)
    assert (scored.metrics["num_claims"], scored.metrics["tar_precision"], scored.reward) == (2.0, 1.0, 3.0)


def test_without_grounding_alignment_abstains_and_adds_nothing(
    config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    scored = score_response(RIGHT, replace(toy_target, temporal_grounding=None), config, similarity=by_words)
    assert scored.reward == 2.0
    assert scored.terms["temporal_alignment"].status == "abstention"
    assert scored.metrics["tar_precision"] is None


def test_a_failure_takes_the_reward_only_where_its_term_has_a_weight(config: VideoR2Config, toy_target: Target) -> None:
    def broken(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        return np.full((len(claims), len(references)), np.nan, dtype=np.float32)

    assert score_response(RIGHT, toy_target, config, similarity=broken).reward is None
    unpaid = replace(config, temporal_alignment=replace(config.temporal_alignment, weight=0.0))
    scored = score_response(RIGHT, toy_target, unpaid, similarity=broken)
    assert scored.reward == 2.0
    assert scored.terms["temporal_alignment"].status == "failure"


def test_sentences_to_encode_are_exactly_those_that_scoring_asks_for(
    config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    responses = [RIGHT, RIGHT.replace("00:08", "00:15"), RIGHT.replace("red square", "red circle"), "<think>"]
    asked: set[str] = set()

    def recording(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        asked.update([*claims, *references])
        return by_words(claims, references)

    for response in responses:
        score_response(response, toy_target, config, similarity=recording)
    listed = sentences_to_encode(responses, [toy_target] * 4, config)
    assert set(listed) == asked
    assert len(listed) == len(asked)
    assert sentences_to_encode([RIGHT], [replace(toy_target, temporal_grounding=None)], config) == []


def test_a_score_can_be_pickled_and_its_verdicts_written_as_json(
    config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    scored = score_response(RIGHT, toy_target, config, similarity=by_words)
    assert pickle.loads(pickle.dumps(scored)) == scored
    for verdict in scored.terms.values():
        assert json.loads(json.dumps(dict(verdict.detail), allow_nan=False)) == verdict.detail


@given(st.text(max_size=200) | st.lists(st.sampled_from(RIGHT.split(" ")), max_size=30).map(" ".join))
def test_any_response_gets_verdicts(
    config: VideoR2Config, toy_target: Target, by_words: Similarity, response: str
) -> None:
    scored = score_response(response, toy_target, config, similarity=by_words)
    assert scored.reward is not None
    assert 0.0 <= scored.reward <= 3.0
    assert tuple(scored.metrics) == METRICS


def test_a_bad_target_is_found_before_a_run(toy_target: Target) -> None:
    check_target(toy_target)
    with pytest.raises(ValueError, match="holds no answer"):
        check_target(replace(toy_target, solution=" "))


def test_ablations_differ_from_the_default_in_one_value_each(reward_config: Callable[..., VideoR2Config]) -> None:
    default = reward_config("video_r2")
    alignment = default.temporal_alignment
    assert reward_config("no_gate") == replace(default, temporal_alignment=replace(alignment, gate=False))
    assert reward_config("no_tar") == replace(default, temporal_alignment=replace(alignment, weight=0.0))


def test_the_range_of_a_reward_is_what_its_weights_allow(config: VideoR2Config) -> None:
    assert reward_range(config) == (0.0, 3.0)
    penalised = replace(config, format=replace(config.format, weight=-0.5))
    assert reward_range(penalised) == (-0.5, 2.0)


def test_the_default_follows_the_paper_in_weights_buffer_and_threshold(config: VideoR2Config) -> None:
    assert term_weights(config) == {"format": 1.0, "accuracy": 1.0, "consistency": 0.0, "temporal_alignment": 1.0}
    assert set(term_weights(config)) == set(TERMS)
    assert (config.temporal_alignment.buffer_seconds, config.temporal_alignment.similarity_threshold) == (2.0, 0.75)


def test_overrides_reach_their_option_and_unknown_keys_are_refused(reward_config: Callable[..., VideoR2Config]) -> None:
    changed = reward_config(
        "video_r2",
        "reward.temporal_alignment.buffer_seconds=1",
        "reward.temporal_alignment.similarity_threshold=0.6",
        "reward.temporal_alignment.weight=0",
    )
    assert (changed.temporal_alignment.buffer_seconds, changed.temporal_alignment.similarity_threshold) == (1.0, 0.6)
    assert term_weights(changed)["temporal_alignment"] == 0.0
    with pytest.raises(ValidationError, match="buffer"):
        reward_config("video_r2", "+reward.temporal_alignment.buffer=1")


def test_every_section_refuses_unknown_keys() -> None:
    for section in (VideoR2Config, FormatConfig, AccuracyConfig, TemporalAlignmentConfig, ConsistencyConfig):
        with pytest.raises(ValidationError, match="no_such_key"):
            TypeAdapter(section).validate_python({"no_such_key": 1})


def test_the_gate_option_pays_alignment_where_think_and_answer_disagree(
    reward_config: Callable[..., VideoR2Config], toy_target: Target, by_words: Similarity
) -> None:
    at_odds = RIGHT.replace("red (A)", "yellow (D)")
    assert score_response(at_odds, toy_target, reward_config("no_gate"), similarity=by_words).reward == 3.0
    assert score_response(at_odds, toy_target, reward_config("video_r2"), similarity=by_words).reward == 2.0


def test_the_wrong_similarity_shape_raises(config: VideoR2Config, toy_target: Target) -> None:
    with pytest.raises(ValueError, match="similarity gave shape"):
        score_response(RIGHT, toy_target, config, similarity=lambda a, b: np.ones((1, 1), np.float32))
