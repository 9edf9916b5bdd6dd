from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.compose import score_response
from rewards.types import Scored, Target, Verdict
from videor2_rl.app import compose_run
from videor2_rl.config.runs import ScoreRun
from videor2_rl.evaluation.summary import METRICS
from videor2_rl.run.rollout_log import (
    events_of,
    read_rollouts,
    remove_rollouts_after,
    rollout_records,
    sample_of,
    write_rollouts,
)
from videor2_rl.types import Group, Prompt, PromptHandle, Rollout, TokenValues, TrainGroup, VideoSample

SAMPLE = VideoSample(sample_id="clip-1", video="/clips/1.mp4", question="Which?", solution="<answer>A</answer>")
DETAIL = {
    "precision": 0.5,
    "claims": [
        {
            "start_s": 5.0,
            "end_s": 5.0,
            "text": "A red circle appears.",
            "quote": "At 00:05 a red circle appears.",
            "reference": 0,
            "outcome": "matched",
            "similarity": 1.0,
        },
        {
            "start_s": 9.0,
            "end_s": 9.0,
            "text": "It leaves.",
            "quote": "At 00:09 it leaves.",
            "reference": None,
            "outcome": "time",
            "similarity": None,
        },
    ],
    "references": [{"start_s": 5.0, "end_s": 5.0, "text": "A red circle appears.", "claim": 0}],
}


def score(reward: float | None) -> Scored:
    return Scored(
        reward=reward,
        terms={
            "accuracy": Verdict("score", 1.0, {"type": "choice", "answer": "A", "reference": "A"}),
            "temporal_alignment": Verdict("score", 0.5, DETAIL),
            "consistency": Verdict("failure", None, {"reason": "judge is down"}),
        },
        metrics={**dict.fromkeys((*METRICS, "num_claims"), 0.5), "tac": None},
    )


def group(log_probs: Sequence[float] = (-0.5, -0.25)) -> Group:
    ids = np.arange(len(log_probs), dtype=np.int64)
    rollout = Rollout(ids, np.array(log_probs, dtype=np.float32), "text", "stop", policy_version=3)
    return Group(group_id=4, sample_id="clip-1", rollouts=(rollout, rollout))


def train_group() -> TrainGroup:
    return TrainGroup(
        group_id=4,
        prompt=PromptHandle(sample_id="clip-1", clip_key="k", num_tokens=2, ref=None),
        response_ids=(np.arange(2), np.arange(2)),
        advantages=np.array([0.5, 0.0], dtype=np.float32),
        in_loss=np.array([True, False]),
    )


def prompt(sample_id: str = "clip-1") -> Prompt:
    return Prompt(
        sample_id=sample_id,
        clip_key="abc",
        text="<|im_start|>user",
        token_ids=np.arange(2),
        position_ids=np.zeros((3, 2), dtype=np.int64),
        patches=np.zeros((4, 8), dtype=np.uint8),
        video_grid_thw=np.array([[1, 2, 2]]),
        second_per_grid_s=1.0,
        timestamps_s=np.array([0.0, 1 / 3]),
    )


def records(**changes: Any) -> list[dict[str, Any]]:
    return rollout_records([changes.get("group", group())], [SAMPLE], [[score(1.5), score(None)]], [train_group()])


def test_a_file_comes_back_with_all_that_explains_the_rewards(tmp_path: Path) -> None:
    path = tmp_path / "rollouts" / "step_000010.jsonl"
    write_rollouts(path, records(), [prompt()])
    [record] = read_rollouts(path)
    assert record["frame_times_s"] == [0.0, 0.333333]
    assert (record["clip_key"], record["prompt"]) == ("abc", "<|im_start|>user")
    assert (record["group_id"], record["sample_id"], record["target"]) == (4, "clip-1", "<answer>A</answer>")
    first, second = record["responses"]
    assert first["token_ids"] == [0, 1]
    assert first["log_probs"] == [-0.5, -0.25]
    assert (first["text"], first["finish_reason"], first["policy_version"]) == ("text", "stop", 3)
    assert (first["reward"], first["advantage"]) == (1.5, 0.5)
    assert first["terms"]["temporal_alignment"]["detail"] == DETAIL
    assert first["terms"]["consistency"] == {
        "verdict": "failure",
        "value": None,
        "detail": {"reason": "judge is down"},
    }
    # Kept out of the loss: it has no advantage, which is not the same as one of 0.
    assert (second["reward"], second["advantage"]) == (None, None)


def test_what_the_learner_found_stands_beside_the_tokens(tmp_path: Path) -> None:
    path = tmp_path / "step_000001.jsonl"
    entropy, own = np.array([0.12345, np.nan], np.float32), np.array([-0.5000004, -0.25], np.float32)
    write_rollouts(path, records(), [prompt()], token_values=[TokenValues(4, 1, entropy, own)])
    left_out, trained = read_rollouts(path)[0]["responses"]
    assert (left_out["entropy"], left_out["learner_log_probs"]) == (None, None)
    assert (trained["entropy"], trained["learner_log_probs"]) == ([0.1235, None], [-0.5, -0.25])

    known = rollout_records(
        [group()], [SAMPLE], [[score(1.5), score(None)]], [train_group()], learner_log_probs={4: [own, own + 1]}
    )
    write_rollouts(path, known, [prompt()], token_values=[TokenValues(4, 1, entropy, None)])
    one, other = read_rollouts(path)[0]["responses"]
    assert (one["learner_log_probs"], other["learner_log_probs"]) == ([-0.5, -0.25], [0.5, 0.75])
    assert (one["entropy"], other["entropy"]) == (None, [0.1235, None])


def test_the_sample_of_a_logged_group_is_the_one_that_was_sampled_but_for_its_solution() -> None:
    part = replace(SAMPLE, subtitles="/clips/1.srt", clip_start_s=2.0, clip_end_s=9.5)
    [record] = rollout_records([group()], [part], [[score(1.5), score(None)]], [train_group()])
    assert sample_of(record) == replace(part, solution="")


def test_a_log_prob_that_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "step_000001.jsonl"
    write_rollouts(path, records(group=group((-math.inf, math.nan))), [prompt()])
    assert "NaN" not in path.read_text()
    assert json.loads(path.read_text())["responses"][0]["log_probs"] == [None, None]


def test_writing_a_step_again_replaces_its_file(tmp_path: Path) -> None:
    path = tmp_path / "step_000001.jsonl"
    for _ in range(2):
        write_rollouts(path, records(), [prompt()])
    assert len(read_rollouts(path)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_files_after_the_step_that_a_run_goes_on_from_are_removed(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    for step in (9, 10, 11, 100):
        (tmp_path / "rollouts" / f"step_{step:06d}.jsonl").touch()
    remove_rollouts_after(tmp_path, 10)
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == [
        "step_000009.jsonl",
        "step_000010.jsonl",
    ]


def test_records_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompts do not correspond"):
        write_rollouts(tmp_path / "x.jsonl", records(), [prompt("clip-2")])
    other = VideoSample(sample_id="clip-2", video="", question="", solution="")
    with pytest.raises(ValueError, match="ids differ"):
        rollout_records([group()], [other], [[score(1.0), score(1.0)]], [train_group()])


def test_events_of_a_term_that_did_not_apply_are_empty() -> None:
    assert events_of({"reason": "no temporal grounding"}) == ([], [])


def test_a_response_scored_by_the_real_rewards_can_be_logged() -> None:
    config = compose_run("score", ScoreRun, []).reward
    response = (
        "<think>At 00:05 a red circle appears. At 00:12 a blue square appears. So it is A.</think><answer>A</answer>"
    )
    target = Target(
        question="Which?\nA. red\nB. blue",
        solution="<answer>A</answer>",
        options=("red", "blue"),
        temporal_grounding={"00:05": "a red circle appears"},
    )
    scored = score_response(
        response, target, config, similarity=lambda a, b: np.ones((len(a), len(b)), dtype=np.float32)
    )
    [record] = rollout_records([group()], [SAMPLE], [[scored, scored]], [train_group()])
    json.dumps(record, allow_nan=False)
    claims, references = events_of(record["responses"][0]["terms"]["temporal_alignment"]["detail"])
    assert [(claim["start_s"], claim["reference"]) for claim in claims] == [(5.0, 0), (12.0, None)]
    assert [reference["start_s"] for reference in references] == [5.0]


def test_own_columns_and_details_are_written_as_json_whatever_they_hold(tmp_path: Path) -> None:
    own = {"rating": 0.5, "noise": math.nan, "box": np.arange(2), "when": Path("/x"), "tags": ("a", {1: np.float32(2)})}
    sample = replace(SAMPLE, extra=own)
    odd = replace(score(1.0), terms={"mine": Verdict("score", 1.0, {"share": np.float64(0.5), "bad": math.inf})})
    train_group = TrainGroup(4, PromptHandle("clip-1", "abc", 4, None), (np.arange(2), np.arange(2)))
    written = rollout_records([group()], [sample], [[odd, odd]], [train_group])
    write_rollouts(tmp_path / "step_000001.jsonl", written, [prompt()])
    [record] = read_rollouts(tmp_path / "step_000001.jsonl")
    assert record["extra"] == {"rating": 0.5, "noise": None, "box": [0, 1], "when": "/x", "tags": ["a", {"1": 2.0}]}
    assert record["responses"][0]["terms"]["mine"]["detail"] == {"share": 0.5, "bad": None}
