"""What a run does besides learning, each part where it belongs in a step: evaluations, checkpoints, metrics, logs.

A checkpoint is written while the next step's rollouts are generated and scored, and completed before the next update.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from rewards.types import Scored
from videor2_rl.config.sections import GrpoRun
from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.run.checkpoint import Checkpoint, Checkpoints
from videor2_rl.run.folder import SkipLedger
from videor2_rl.run.rollout_log import rollout_records
from videor2_rl.run.stopping import Stopped, Stopping
from videor2_rl.run.tracking import PhaseTimer, Tracker
from videor2_rl.training.metrics import grpo_metrics
from videor2_rl.training.periodic_evaluation import PeriodicEvaluation
from videor2_rl.training.protocols import Measured, Workers
from videor2_rl.types import Group, LogProbs, PromptHandle, SkippedSample, TrainGroup, VideoSample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands between two steps."""

    step: int
    """Steps done."""
    policy_version: int
    """Optimiser steps in the policy's weights."""
    skipped: int
    """Samples that could not be used so far."""


@dataclass(frozen=True)
class StepOutcome:
    """What a step went through, for its metrics and its rollout log."""

    samples: Sequence[VideoSample]
    prompts: Sequence[PromptHandle]
    groups: Sequence[Group]
    scored: Sequence[Sequence[Scored]]
    train_groups: Sequence[TrainGroup]
    old_log_probs: Sequence[LogProbs]
    """Empty where the update found them itself: their gap is then among its metrics."""
    ref_log_probs: Sequence[LogProbs]
    """Empty without a reference."""
    updates: Sequence[Mapping[str, float]]
    """Metrics of each optimiser step."""


class Upkeep:
    """In the order of a step; the loop calls each method once in it."""

    def __init__(
        self,
        run: GrpoRun,
        workers: Workers,
        *,
        start: Progress,
        num_samples: int,
        checkpoints: Checkpoints,
        tracker: Tracker,
        ledger: SkipLedger,
        received_bytes: Callable[[], int],
        evaluation: PeriodicEvaluation | None,
        stopping: Stopping,
    ) -> None:
        """
        Args:
            start: where the run stands.
            num_samples: training rows, an epoch.
            checkpoints: where state goes every `checkpoint.every_steps` steps.
            tracker: gets each step's metrics.
            ledger: gets the samples that cannot be used.
            received_bytes: bytes that reached this process since it was last called.
            evaluation: of the policy that a step begins with, and of the last one; None: never.
            stopping: when the run is to end early.
        """
        self._progress = start
        self._last_step_s = 0.0
        self._stopping = stopping
        self._run = run
        self._workers = workers
        self._num_samples = num_samples
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._ledger = ledger
        self._received_bytes = received_bytes
        self._evaluation = evaluation
        self._evaluated: dict[str, float] = {}
        self._judged: Mapping[str, float] = {}
        self._snapshot_s = 0.0

    @property
    def skipped(self) -> int:
        """Samples that could not be used so far."""
        return self._ledger.count

    @contextmanager
    def saved_if_stopped(self) -> Iterator[None]:
        """Around all steps: a run that is stopped writes a checkpoint of its last whole step."""
        try:
            yield
        except Stopped as stop:
            if stop.may_save:
                self._save_now()
            raise

    def before_step(self) -> None:
        """Raises Stopped where there is no time for another step."""
        self._stopping.before_step(self._last_step_s)

    def usable(self, answers: Sequence[PromptHandle | SkippedSample]) -> list[PromptHandle]:
        """The prompts; the others are recorded.

        Raises:
            ConfigError: too many samples cannot be used.
        """
        return self._ledger.usable(answers)

    def evaluate_if_due(self, progress: Progress, timer: PhaseTimer) -> None:
        """Respond to the held-out prompts; they are scored while the step's rollouts are generated."""
        if self._evaluation is not None and self._evaluation.is_due(progress.step):
            with timer.phase("evaluate"):
                self._evaluation.generate(progress.step)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Around the scoring of a step: what was learned since the last checkpoint must not go with the judge."""
        try:
            # Before the reward workers are needed again.
            self._evaluated = {} if self._evaluation is None else self._evaluation.metrics()
            yield
        except JudgeDown:
            self._save_now()
            raise
        self._judged = self._workers.rewards.judge_metrics()

    def complete_checkpoint(self, timer: PhaseTimer) -> None:
        """The checkpoint under way becomes the newest, before an update changes what it is written from."""
        with timer.phase("save"):
            self._checkpoints.complete()

    def undivided(self) -> AbstractContextManager[None]:
        """Around what makes a step whole: who stops the run waits for its end."""
        return self._stopping.undivided()

    def pass_over(self, progress: Progress, timer: PhaseTimer) -> Progress:
        """End a step none of whose samples can be used: it is counted and logged, and teaches nothing."""
        logger.warning("step %d: none of its samples can be used (skipped.jsonl says why); passed over", progress.step)
        with self.judging():
            self.complete_checkpoint(timer)
        self.finish_step(progress, StepOutcome([], [], [], [], [], [], [], []), timer)
        return progress

    def finish_step(self, progress: Progress, outcome: StepOutcome, timer: PhaseTimer) -> None:
        """Log rollouts and metrics, evaluate after the last step, and begin a checkpoint where one is due."""
        run, workers, self._progress = self._run, self._workers, progress
        if run.logging.rollouts and outcome.groups:
            path = Path(run.output_dir) / "rollouts" / f"step_{progress.step:06d}.jsonl"
            records = rollout_records(outcome.groups, outcome.samples, outcome.scored, outcome.train_groups)
            workers.rewards.write_rollouts(path, records, outcome.prompts)
        if self._evaluation is not None and progress.step == run.algorithm.num_steps:
            with timer.phase("evaluate_last"):
                self._evaluation.generate(progress.step)
            self._evaluated |= final_metrics(self._evaluation)
        metrics = {
            **grpo_metrics(
                outcome.groups,
                outcome.scored,
                log_probs=outcome.old_log_probs,
                ref_log_probs=outcome.ref_log_probs,
                is_tempered=run.rollout.is_tempered,
            ),
            **mean_of(outcome.updates),
            **self._evaluated,
            **self._judged,
            **workers.learner.visual_metrics(),
            **workers.rollouts.sync_metrics(),
            "actor/policy_version": progress.policy_version,
            "data/decodes_per_clip": workers.videos.decodes_per_clip(),
            "data/skipped": progress.skipped,
            "data/epoch": progress.step * run.algorithm.prompts_per_step / self._num_samples,
            "perf/driver_received_bytes": self._received_bytes(),
            **throughput(outcome, timer.metrics()),
            **memory_of(workers),
            "timing_s/snapshot": self._snapshot_s,
            **timer.metrics(),
        }
        self._tracker.log(progress.step, metrics)
        self._last_step_s = metrics["timing_s/step"]
        # After the metrics: a run killed in between writes this step's row again, and never lacks one.
        self._snapshot_s = self._save_if_due(progress)

    def _save_if_due(self, progress: Progress) -> float:
        """Begin a checkpoint; returns the seconds that taking the state took."""
        every = self._run.checkpoint.every_steps
        if every == 0 or (progress.step % every and progress.step != self._run.algorithm.num_steps):
            return 0.0
        started = time.perf_counter()
        self._begin_checkpoint(progress)
        return time.perf_counter() - started

    def _save_now(self) -> None:
        """Write a checkpoint of the whole steps so far unless there is one, or the run keeps none."""
        step = self._progress.step
        if self._run.checkpoint.every_steps and step > 0 and not self._checkpoints.has(step):
            self._begin_checkpoint(self._progress)
        self._checkpoints.complete()

    def _begin_checkpoint(self, progress: Progress) -> None:
        """The loop is synchronous: the groups in flight while this is written are those of the next step, all of them.

        Their ids are `next_sample` and the numbers after it, and their samples and seeds follow from these.
        """
        state = {
            "policy_version": progress.policy_version,
            "skipped": progress.skipped,
            "next_sample": progress.step * self._run.algorithm.prompts_per_step,
        }
        self._checkpoints.begin(progress.step, state, self._workers.learner)


def throughput(outcome: StepOutcome, timings: Mapping[str, float]) -> dict[str, float]:
    """Tokens a second: sampled while generating; trained, a prompt once for all its responses, while updating."""
    tokens = {
        "rollout": (sum(len(rollout.token_ids) for group in outcome.groups for rollout in group.rollouts), "generate"),
        "learner": (sum(update["actor/packed_tokens"] for update in outcome.updates), "update"),
    }
    return {
        f"perf/{part}_tokens_per_s": count / max(timings[f"timing_s/{phase}"], 1e-9)
        for part, (count, phase) in tokens.items()
        if f"timing_s/{phase}" in timings
    }


def memory_of(workers: Workers) -> dict[str, float]:
    """The most that one process of each part takes, in MiB: `perf/<part>_rss_mib`, and `_gpu_mib` on GPUs."""
    parts: dict[str, Measured] = {
        "video": workers.videos,
        "rollout": workers.rollouts,
        "reward": workers.rewards,
        "learner": workers.learner,
        **({} if workers.reference is None else {"reference": workers.reference}),
    }
    memory = {f"perf/{name}_{kind}_mib": mib for name, part in parts.items() for kind, mib in part.memory().items()}
    return {"perf/driver_rss_mib": psutil.Process().memory_info().rss / 2**20, **memory}


def progress_of(checkpoint: Checkpoint | None) -> Progress:
    """Where a run stood when the checkpoint was written; None: at the model's own weights."""
    if checkpoint is None:
        return Progress(step=0, policy_version=0, skipped=0)
    return Progress(checkpoint.step, checkpoint.state["policy_version"], checkpoint.state["skipped"])


def restore(workers: Workers, checkpoint: Checkpoint | None) -> None:
    """Bring learner and rollout workers, which hold the model's own weights, to the checkpoint's."""
    if checkpoint is None:
        return
    logger.info("going on after step %d from %s", checkpoint.step, checkpoint.path)
    workers.learner.load(checkpoint.path)
    workers.rollouts.update_weights(workers.learner.weights(progress_of(checkpoint).policy_version))


def final_metrics(evaluation: PeriodicEvaluation) -> dict[str, float]:
    """Of the policy at the end; none where the judge is down: the training is done, and can be evaluated later."""
    try:
        return {f"final_{name}": value for name, value in evaluation.metrics().items()}
    except JudgeDown as error:
        logger.warning("the last evaluation has no scores: %s", error)
        return {}


def mean_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the updates of a step; empty when there was none."""
    names = metrics[0] if metrics else ()
    return {name: float(np.mean([update[name] for update in metrics])) for name in names}
