"""Evaluations during GRPO, by the run's own rollout and reward workers.

One belongs to the policy that a step begins with, like the step's own rollouts. The responses are generated before the
step's, so the learner waits for that generation alone: they are scored while the step's rollouts are generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from videor2_rl.config.sections import PeriodicEvaluationConfig
from videor2_rl.evaluation.results import sample_result
from videor2_rl.evaluation.summary import METRICS, SampleResult, evaluation_dir, summarise, write_evaluation
from videor2_rl.run.folder import SkipLedger
from videor2_rl.training.protocols import Rewards, Rollouts, Videos
from videor2_rl.types import Group, SamplingSpec, VideoSample


class PeriodicEvaluation:
    """Used in turns: `generate`, then `metrics` before the reward workers are used for anything else."""

    def __init__(
        self,
        config: PeriodicEvaluationConfig,
        samples: Sequence[VideoSample],
        *,
        run_dir: Path,
        videos: Videos,
        rollouts: Rollouts,
        rewards: Rewards,
        max_tokens: int,
        max_skipped_frac: float,
        seed: int,
        card: Mapping[str, Any],
    ) -> None:
        """Prepares the held-out prompts, once; each evaluation reuses them.

        Args:
            card: goes into every summary.json, with the step.

        Raises:
            ConfigError: too many samples cannot be used.
        """
        self._config = config
        self._run_dir = run_dir
        self._rollouts, self._rewards = rollouts, rewards
        self._seed, self._card = seed, card
        self._sampling = SamplingSpec(
            temperature=0.0 if config.mode == "greedy" else 1.0,
            top_p=1.0,
            top_k=0,
            max_tokens=max_tokens,
            group_size=1,
        )
        (run_dir / "evaluation").mkdir(parents=True, exist_ok=True)
        ledger = SkipLedger(run_dir / "evaluation", num_samples=len(samples), max_frac=max_skipped_frac)
        self._prompts = ledger.usable(videos.prepare(samples))
        by_id = {sample.sample_id: sample for sample in samples}
        self._samples = [by_id[prompt.sample_id] for prompt in self._prompts]
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._scoring: Future[dict[str, float]] | None = None

    def is_due(self, steps_done: int) -> bool:
        """Before the first step, and after every `every_steps` steps."""
        return steps_done % self._config.every_steps == 0

    def generate(self, steps_done: int) -> None:
        """Respond to every held-out prompt with the policy after `steps_done` steps, and begin to score."""
        groups = self._rollouts.generate(
            self._prompts, group_ids=range(len(self._prompts)), sampling=self._sampling, seed=self._seed
        )
        self._scoring = self._thread.submit(self._score, groups, steps_done)

    def metrics(self) -> dict[str, float]:
        """`evaluation/<metric>` means of the last `generate`, once it is scored; empty when there was none.

        `evaluation/failure_frac` is the share of the responses of which something could not be judged.
        """
        if self._scoring is None:
            return {}
        scoring, self._scoring = self._scoring, None
        return scoring.result()

    def close(self) -> None:
        """Wait for a scoring under way, and end."""
        self._thread.shutdown(wait=True)

    def _score(self, groups: Sequence[Group], steps_done: int) -> dict[str, float]:
        scored = self._rewards.score(groups, self._samples, step=steps_done)
        results = [
            sample_result(sample, group.rollouts[0], scores[0])
            for sample, group, scores in zip(self._samples, groups, scored, strict=True)
        ]
        self._write(results, steps_done)
        failed = sum(bool(result.failed) for result in results)
        return {
            "evaluation/steps_done": float(steps_done),
            **({"evaluation/failure_frac": failed / len(results)} if results else {}),
            **_means(results),
        }

    def _write(self, results: Sequence[SampleResult], steps_done: int) -> None:
        """evaluation/step_000010/<mode>/, like any other evaluation."""
        summary = summarise(
            results,
            resamples=self._config.bootstrap_resamples,
            seed=self._seed,
            card={**self._card, "steps_done": steps_done},
        )
        stage = f"step_{steps_done:06d}"
        write_evaluation(evaluation_dir(self._run_dir, stage=stage, mode=self._config.mode), results, summary=summary)


def _means(results: Sequence[SampleResult]) -> dict[str, float]:
    """A mean over nothing is absent."""
    means = {}
    for name in METRICS:
        values = [value for result in results if (value := getattr(result, name)) is not None]
        if values:
            means[f"evaluation/{name}"] = sum(values) / len(values)
    return means
