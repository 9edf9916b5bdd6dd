from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.types import Scored, Verdict, abstained, failed
from videor2_rl.config.sections import PeriodicEvaluationConfig
from videor2_rl.evaluation.summary import METRICS
from videor2_rl.training.periodic_evaluation import PeriodicEvaluation
from videor2_rl.types import Group, PromptHandle, Rollout, VideoSample

SAMPLES = [VideoSample(sample_id=name, video="v", question="Which?", solution="A") for name in ("up", "down")]


class Workers:
    """Video, rollout and reward workers whose judge is down for the second sample."""

    def prepare(self, samples: Sequence[VideoSample]) -> list[Any]:
        return [PromptHandle(sample.sample_id, "k", num_tokens=2, ref=None) for sample in samples]

    def generate(self, prompts: Sequence[PromptHandle], **asked: Any) -> list[Group]:
        rollout = Rollout(np.arange(2), np.zeros(2, dtype=np.float32), "text", "stop", policy_version=0)
        return [Group(index, prompt.sample_id, (rollout,)) for index, prompt in enumerate(prompts)]

    def score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> list[list[Scored]]:
        return [[self.scored(is_up=sample.sample_id == "up")] for sample in samples]

    def scored(self, *, is_up: bool) -> Scored:
        consistency = Verdict("score", 1.0) if is_up else failed("the judge is down")
        terms = {
            "accuracy": Verdict("score", 1.0),
            "consistency": consistency,
            "temporal_alignment": abstained("no temporal grounding"),
        }
        metrics = {**dict.fromkeys(METRICS), "accuracy": 1.0, "tac": consistency.value}
        return Scored(1.0, terms, metrics)


def test_failures_leave_the_means_and_are_counted_and_abstentions_are_no_failures(tmp_path: Path) -> None:
    # Of the loop's protocols an evaluation uses these three methods alone.
    workers: Any = Workers()
    evaluation = PeriodicEvaluation(
        PeriodicEvaluationConfig(every_steps=1, num_samples=2, mode="greedy", bootstrap_resamples=10),
        SAMPLES,
        run_dir=tmp_path,
        videos=workers,
        rollouts=workers,
        rewards=workers,
        max_tokens=2,
        max_skipped_frac=0.0,
        seed=0,
        card={},
    )
    evaluation.generate(4)
    assert evaluation.metrics() == {
        "evaluation/steps_done": 4.0,
        "evaluation/failure_frac": 0.5,
        "evaluation/accuracy": 1.0,
        "evaluation/tac": 1.0,
        "evaluation/response_tokens": 2.0,
    }
    evaluation.close()
    summary = json.loads((tmp_path / "evaluation" / "step_000004" / "greedy" / "summary.json").read_text())
    assert (summary["num_failed"]["tac"], summary["num_failed"]["tar_recall"]) == (1, 0)
