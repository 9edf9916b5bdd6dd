"""GRPO guided by the Temporal Alignment Reward: the loop, and what it needs of the workers.

Nothing here imports Ray: the loop holds handles and numbers, and calls ordinary methods.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rewards.compose import reward_range
from rewards.types import Scored
from videor2_rl.config.sections import AlgorithmConfig, GrpoRun
from videor2_rl.dataset import SampleOrder
from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.run.checkpoint import Checkpoint, Checkpoints
from videor2_rl.run.files import FileSum
from videor2_rl.run.folder import SkipLedger
from videor2_rl.run.rollout_log import rollout_records
from videor2_rl.run.tracking import PhaseTimer, Tracker
from videor2_rl.training.advantage import Outcomes, advantages_of
from videor2_rl.training.metrics import grpo_metrics
from videor2_rl.training.periodic_evaluation import PeriodicEvaluation
from videor2_rl.types import (
    Group,
    LogProbs,
    PromptHandle,
    SamplingSpec,
    SkippedSample,
    TrainGroup,
    VideoSample,
    WeightSnapshot,
)

logger = logging.getLogger(__name__)


class Videos(Protocol):
    def prepare(self, samples: Sequence[VideoSample]) -> list[PromptHandle | SkippedSample]: ...
    def prefetch(self, samples: Sequence[VideoSample]) -> None: ...
    def decodes_per_clip(self) -> float: ...


class Rollouts(Protocol):
    def generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> list[Group]: ...
    def update_weights(self, snapshot: WeightSnapshot) -> Mapping[str, float]: ...


class Rewards(Protocol):
    def score(self, groups: Sequence[Group], samples: Sequence[VideoSample]) -> list[list[Scored]]: ...
    def judge_metrics(self) -> Mapping[str, float]: ...
    def write_rollouts(
        self, path: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptHandle]
    ) -> None: ...


class Reference(Protocol):
    def log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]: ...


class Learner(Reference, Protocol):
    def encode(self, prompts: Sequence[PromptHandle]) -> list[PromptHandle]: ...
    def visual_metrics(self) -> Mapping[str, float]: ...
    def update(
        self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float
    ) -> dict[str, float]: ...
    def publish_weights(self, policy_version: int) -> WeightSnapshot: ...
    def save(self, path: Path) -> None: ...
    def finish_save(self) -> Mapping[str, FileSum]: ...
    def load(self, path: Path) -> None: ...
    def export(self, path: Path) -> None: ...


@dataclass(frozen=True)
class Workers:
    """The parts of a run; `reference` is None when there is no KL term."""

    videos: Videos
    rollouts: Rollouts
    rewards: Rewards
    learner: Learner
    reference: Reference | None


class LogProbGapError(RuntimeError):
    """vLLM and the learner give the same tokens different probabilities: they do not hold the same policy."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands between two steps."""

    step: int
    """Steps done."""
    policy_version: int
    """Optimiser steps in the policy's weights."""
    skipped: int
    """Samples that could not be used so far."""


def train(
    run: GrpoRun,
    workers: Workers,
    samples: Sequence[VideoSample],
    *,
    checkpoints: Checkpoints,
    start: Progress,
    tracker: Tracker,
    ledger: SkipLedger,
    received_bytes: Callable[[], int],
    evaluation: PeriodicEvaluation | None,
) -> None:
    """GRPO, step by step; `start` says which step comes first.

    Args:
        run: the configuration.
        workers: the parts; learner and rollout workers hold the weights of `start.policy_version`.
        samples: the training rows.
        checkpoints: where state goes every `checkpoint.every_steps` steps; it is written while the next step's rollouts
            are generated and scored, and completed before the next update.
        tracker: gets each step's metrics.
        ledger: gets the samples that cannot be used.
        received_bytes: bytes that reached this process since it was last called.
        evaluation: of the policy that a step begins with, and of the last one; None: never.

    Raises:
        LogProbGapError: rollout workers and learner disagree about the policy.
        ConfigError: too many samples cannot be used.
        JudgeDown: the judge was away for too long; a checkpoint of the last whole step is written first.
    """
    algorithm, temperature = run.algorithm, run.rollout.temperature
    order = SampleOrder(len(samples), seed=run.seed, shuffle=run.data.shuffle)

    def rows(step: int) -> list[VideoSample]:
        return [samples[index] for index in order.batch(step - 1, algorithm.prompts_per_step)]

    progress, snapshot_s = start, 0.0
    for step in range(start.step + 1, algorithm.num_steps + 1):
        timer = PhaseTimer()
        with timer.phase("prepare"):
            prompts = ledger.usable(workers.videos.prepare(rows(step)))
            batch = rows_of(prompts, rows(step))
        if step < algorithm.num_steps:
            workers.videos.prefetch(rows(step + 1))
        with timer.phase("encode"):
            prompts = workers.learner.encode(prompts)

        if evaluation is not None and evaluation.is_due(step - 1):
            with timer.phase("evaluate"):
                evaluation.generate(step - 1)
        with timer.phase("generate"):
            group_ids = [(step - 1) * algorithm.prompts_per_step + index for index in range(len(prompts))]
            groups = workers.rollouts.generate(prompts, group_ids=group_ids, sampling=sampling_of(run), seed=run.seed)
        # What was learned since the last checkpoint must not go with the judge.
        with saved_if_judge_is_down(run, workers.learner, checkpoints, progress):
            # Before the reward workers are needed again.
            evaluated = {} if evaluation is None else evaluation.metrics()
            with timer.phase("reward"):
                scored = workers.rewards.score(groups, batch)
                train_groups = with_advantages(
                    groups, prompts, scored, algorithm=algorithm, reward_range=reward_range(run.reward)
                )
        judged = workers.rewards.judge_metrics()

        train_groups, old, ref = with_log_probs(workers, groups, train_groups, run=run, timer=timer)
        with timer.phase("save"):
            checkpoints.complete()
        update_metrics: list[dict[str, float]] = []
        with timer.phase("update"):
            for part in update_batches(train_groups, algorithm=algorithm):
                update_metrics.append(workers.learner.update(part, algorithm=algorithm, temperature=temperature))
        with timer.phase("sync_weights"):
            progress = Progress(step, progress.policy_version + len(update_metrics), ledger.count)
            workers.rollouts.update_weights(workers.learner.publish_weights(progress.policy_version))

        if run.logging.rollouts:
            path = Path(run.output_dir) / "rollouts" / f"step_{step:06d}.jsonl"
            workers.rewards.write_rollouts(path, rollout_records(groups, batch, scored, train_groups), prompts)
        if evaluation is not None and step == algorithm.num_steps:
            with timer.phase("evaluate_last"):
                evaluation.generate(step)
            evaluated |= final_metrics(evaluation)
        metrics = {
            **grpo_metrics(groups, scored, log_probs=old, ref_log_probs=ref),
            **mean_of(update_metrics),
            **evaluated,
            **judged,
            **workers.learner.visual_metrics(),
            "actor/policy_version": progress.policy_version,
            "data/decodes_per_clip": workers.videos.decodes_per_clip(),
            "data/skipped": ledger.count,
            "data/epoch": step * algorithm.prompts_per_step / len(samples),
            "perf/driver_received_bytes": received_bytes(),
            "timing_s/snapshot": snapshot_s,
            **timer.metrics(),
        }
        tracker.log(step, metrics)
        # After the metrics: a run killed in between writes this step's row again, and never lacks one.
        snapshot_s = save(run, workers.learner, checkpoints, progress)


def with_log_probs(
    workers: Workers, groups: Sequence[Group], train_groups: Sequence[TrainGroup], *, run: GrpoRun, timer: PhaseTimer
) -> tuple[list[TrainGroup], list[LogProbs], list[LogProbs]]:
    """The groups with log-probs of the learner before the update and of the reference, and both as they came.

    Without a reference there are none of its own.

    Raises:
        LogProbGapError: as `check_gap`.
    """
    temperature = run.rollout.temperature
    with timer.phase("old_log_probs"):
        old = workers.learner.log_probs(train_groups, temperature=temperature)
        check_gap(groups, old, limit=run.algorithm.max_log_prob_gap)
        filled = [replace(g, old_log_probs=o.at_temperature) for g, o in zip(train_groups, old, strict=True)]
    if workers.reference is None:
        return filled, old, []
    with timer.phase("ref_log_probs"):
        ref = workers.reference.log_probs(filled, temperature=temperature)
    return [replace(g, ref_log_probs=r.at_temperature) for g, r in zip(filled, ref, strict=True)], old, ref


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
    workers.rollouts.update_weights(workers.learner.publish_weights(progress_of(checkpoint).policy_version))


def save(run: GrpoRun, learner: Learner, checkpoints: Checkpoints, progress: Progress) -> float:
    """Begin a checkpoint where one is due; returns the seconds that taking the state took."""
    every = run.checkpoint.every_steps
    if every == 0 or (progress.step % every and progress.step != run.algorithm.num_steps):
        return 0.0
    started = time.perf_counter()
    _begin(run, learner, checkpoints, progress)
    return time.perf_counter() - started


@contextmanager
def saved_if_judge_is_down(
    run: GrpoRun, learner: Learner, checkpoints: Checkpoints, progress: Progress
) -> Iterator[None]:
    """Write a checkpoint of these steps when the judge stays away, before the run stops."""
    try:
        yield
    except JudgeDown:
        save_now(run, learner, checkpoints, progress)
        raise


def final_metrics(evaluation: PeriodicEvaluation) -> dict[str, float]:
    """Of the policy at the end; none where the judge is down: the training is done, and can be evaluated later."""
    try:
        return {f"final_{name}": value for name, value in evaluation.metrics().items()}
    except JudgeDown as error:
        logger.warning("the last evaluation has no scores: %s", error)
        return {}


def save_now(run: GrpoRun, learner: Learner, checkpoints: Checkpoints, progress: Progress) -> None:
    """Write a checkpoint of these steps unless there is one, or the run keeps none."""
    if run.checkpoint.every_steps and progress.step > 0 and not checkpoints.has(progress.step):
        _begin(run, learner, checkpoints, progress)
    checkpoints.complete()


def _begin(run: GrpoRun, learner: Learner, checkpoints: Checkpoints, progress: Progress) -> None:
    """The loop is synchronous: the groups in flight while this is written are those of the next step, all of them.

    Their ids are `next_sample` and the numbers after it, and their samples and seeds follow from these.
    """
    state = {
        "policy_version": progress.policy_version,
        "skipped": progress.skipped,
        "next_sample": progress.step * run.algorithm.prompts_per_step,
    }
    checkpoints.begin(progress.step, state, learner)


def sampling_of(run: GrpoRun) -> SamplingSpec:
    """How this run samples its training rollouts."""
    rollout = run.rollout
    return SamplingSpec(
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_tokens=rollout.max_response_tokens,
        group_size=run.algorithm.group_size,
    )


def rows_of(prompts: Sequence[PromptHandle], rows: Sequence[VideoSample]) -> list[VideoSample]:
    """The rows that became prompts, in the prompts' order."""
    by_id = {row.sample_id: row for row in rows}
    return [by_id[prompt.sample_id] for prompt in prompts]


def with_advantages(
    groups: Sequence[Group],
    prompts: Sequence[PromptHandle],
    scored: Sequence[Sequence[Scored]],
    *,
    algorithm: AlgorithmConfig,
    reward_range: tuple[float, float],
) -> list[TrainGroup]:
    """Each group with the advantage of every rollout; rollouts without a reward stay out of baseline and loss.

    Args:
        reward_range: the least and the most that the reward can pay.
    """
    rewards = np.array([_reward(score) for group in scored for score in group], dtype=np.float32)
    group_ids = np.array([group.group_id for group in groups for _ in group.rollouts], dtype=np.int64)
    accuracies = np.array([_accuracy(score) for group in scored for score in group], dtype=np.float32)
    lengths = np.array([len(rollout.token_ids) for group in groups for rollout in group.rollouts], dtype=np.int64)
    outcomes = Outcomes(rewards, group_ids, lengths, accuracies, reward_range)
    advantages = advantages_of(outcomes, algorithm.advantage)
    corrected = algorithm.importance_cap is not None
    train_groups = []
    for group, prompt in zip(groups, prompts, strict=True):
        rows = group_ids == group.group_id
        in_loss = ~np.isnan(rewards[rows])
        if algorithm.mask_truncated:
            in_loss &= np.array([rollout.finish_reason != "length" for rollout in group.rollouts])
        train_groups.append(
            TrainGroup(
                group_id=group.group_id,
                prompt=prompt,
                response_ids=tuple(rollout.token_ids for rollout in group.rollouts),
                advantages=advantages[rows],
                in_loss=in_loss,
                accuracies=accuracies[rows],
                rollout_log_probs=tuple(rollout.log_probs for rollout in group.rollouts) if corrected else None,
            )
        )
    return train_groups


def _reward(score: Scored) -> float:
    return np.nan if score.reward is None else score.reward


def _accuracy(score: Scored) -> float:
    value = score.terms["accuracy"].value
    return np.nan if value is None else value


def check_gap(groups: Sequence[Group], learner: Sequence[LogProbs], *, limit: float) -> None:
    """Compare what the engine and the learner say of the same tokens, at temperature 1.

    Raises:
        LogProbGapError: they differ by more than `limit` nats on some token.
    """
    gap = max(
        (
            float(np.abs(rollout.log_probs - raw).max())
            for group, log_probs in zip(groups, learner, strict=True)
            for rollout, raw in zip(group.rollouts, log_probs.raw, strict=True)
        ),
        default=0.0,
    )
    # Not `gap > limit`: NaN must stop the run too.
    if not gap <= limit:
        raise LogProbGapError(
            f"rollout workers and learner disagree by {gap:.2e} nats on a token, more than "
            f"algorithm.max_log_prob_gap={limit}: they do not hold the same policy or see the same input"
        )


def update_batches(groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig) -> list[list[TrainGroup]]:
    """The groups that take part in the loss, split into `updates_per_batch` optimiser steps of nearly equal size.

    Groups without a rollout in the loss never take part; those whose answers are all equally accurate only while
    `filter_zero_variance` is off.
    """
    used = [group for group in groups if group.in_loss is None or group.in_loss.any()]
    if algorithm.filter_zero_variance:
        used = [group for group in used if _accuracy_varies(group)]
    parts = np.array_split(np.arange(len(used)), algorithm.updates_per_batch)
    return [[used[index] for index in part] for part in parts if len(part)]


def _accuracy_varies(group: TrainGroup) -> bool:
    assert group.accuracies is not None and group.in_loss is not None, "filtering needs scored groups"
    valid = group.accuracies[group.in_loss & ~np.isnan(group.accuracies)]
    return len(np.unique(valid)) > 1


def mean_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the updates of a step; empty when there was none."""
    names = metrics[0] if metrics else ()
    return {name: float(np.mean([update[name] for update in metrics])) for name in names}
