"""GRPO guided by the Temporal Alignment Reward: the loop, and the pure steps in it.

What a run does besides learning (evaluations, checkpoints, logs, a judge that is away) stands in `upkeep.py`, what the
loop needs of the workers in `protocols.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rewards.compose import reward_range
from rewards.types import Scored
from videor2_rl.config.sections import AlgorithmConfig, GrpoRun
from videor2_rl.dataset import SampleOrder
from videor2_rl.run.tracking import PhaseTimer
from videor2_rl.training.advantage import Outcomes, advantages_of
from videor2_rl.training.gap import check_gap, measure_gap
from videor2_rl.training.protocols import PendingLogProbs, Workers
from videor2_rl.training.upkeep import Progress, StepOutcome, Upkeep
from videor2_rl.types import Group, LogProbs, PromptHandle, SamplingSpec, TrainGroup, VideoSample


def train(run: GrpoRun, workers: Workers, samples: Sequence[VideoSample], *, start: Progress, upkeep: Upkeep) -> None:
    """GRPO, step by step; `start` says which step comes first.

    Args:
        run: the configuration.
        workers: the parts; learner and rollout workers hold the weights of `start.policy_version`.
        samples: the training rows.
        upkeep: what surrounds the algorithm, called where it belongs in a step.

    Raises:
        LogProbGapError: rollout workers and learner disagree about the policy.
        ConfigError: too many samples cannot be used.
        JudgeDown: the judge was away for too long; a checkpoint of the last whole step is written first.
        Stopped: a signal, or no time for another step.
    """
    algorithm, temperature = run.algorithm, run.rollout.temperature
    order = SampleOrder(len(samples), seed=run.seed, shuffle=run.data.shuffle)

    def rows(step: int) -> list[VideoSample]:
        return [samples[index] for index in order.batch(step - 1, algorithm.prompts_per_step)]

    progress = start
    for step in range(start.step + 1, algorithm.num_steps + 1):
        upkeep.before_step()
        timer = PhaseTimer()
        with timer.phase("prepare"):
            prompts = upkeep.usable(workers.videos.prepare(rows(step)))
            batch = rows_of(prompts, rows(step))
        if step < algorithm.num_steps:
            workers.videos.prefetch(rows(step + 1))
        upkeep.evaluate_if_due(progress, timer)
        if not prompts:
            progress = upkeep.pass_over(Progress(step, progress.policy_version, upkeep.skipped), timer)
            continue
        with timer.phase("encode"):
            prompts = workers.learner.encode(prompts)
        with timer.phase("generate"):
            group_ids = [(step - 1) * algorithm.prompts_per_step + index for index in range(len(prompts))]
            groups = workers.rollouts.generate(prompts, group_ids=group_ids, sampling=sampling_of(run), seed=run.seed)
        ref_begun = begin_ref_log_probs(workers, groups, prompts, temperature=temperature)
        with upkeep.judging(), timer.phase("reward"):
            scored = workers.rewards.score(groups, batch, step=step)
            train_groups = with_advantages(
                groups, prompts, scored, algorithm=algorithm, reward_range=reward_range(run.reward)
            )

        train_groups, old, ref = with_log_probs(workers, groups, train_groups, ref_begun, run=run, timer=timer)
        upkeep.complete_checkpoint(timer)
        with upkeep.undivided():
            with timer.phase("update"):
                updates = [
                    workers.learner.update(
                        part, algorithm=algorithm, temperature=temperature, is_tempered=run.rollout.is_tempered
                    )
                    for part in update_batches(train_groups, algorithm=algorithm)
                ]
            with timer.phase("sync_weights"):
                progress = Progress(step, progress.policy_version + len(updates), upkeep.skipped)
                if updates:
                    workers.rollouts.update_weights(workers.learner.weights(progress.policy_version))
            outcome = StepOutcome(batch, prompts, groups, scored, train_groups, old, ref, updates)
            upkeep.finish_step(progress, outcome, timer)


def begin_ref_log_probs(
    workers: Workers, groups: Sequence[Group], prompts: Sequence[PromptHandle], *, temperature: float
) -> PendingLogProbs | None:
    """The reference's log-probs, begun: it needs no rewards, so it works while they and the learner's are computed."""
    if workers.reference is None:
        return None
    sampled = [sampled_group(group, prompt) for group, prompt in zip(groups, prompts, strict=True)]
    return workers.reference.begin_log_probs(sampled, temperature=temperature)


def with_log_probs(
    workers: Workers,
    groups: Sequence[Group],
    train_groups: Sequence[TrainGroup],
    ref_begun: PendingLogProbs | None,
    *,
    run: GrpoRun,
    timer: PhaseTimer,
) -> tuple[list[TrainGroup], list[LogProbs], list[LogProbs]]:
    """The groups with log-probs of the learner before the update and of the reference, and both as they came.

    Without a reference there are none of its own, and none of the learner where its update finds them itself.

    Args:
        ref_begun: the reference's, of the same groups; None without a reference.

    Raises:
        LogProbGapError: as `check_gap`.
    """
    temperature = run.rollout.temperature
    filled, old = list(train_groups), []
    if not update_gives_old_log_probs(train_groups, run=run):
        with timer.phase("old_log_probs"):
            old = workers.learner.log_probs(train_groups, temperature=temperature)
            check_gap(measure_gap(groups, old, is_tempered=run.rollout.is_tempered), run.algorithm)
            filled = [replace(g, old_log_probs=o.at_temperature) for g, o in zip(train_groups, old, strict=True)]
    if ref_begun is None:
        return filled, old, []
    with timer.phase("ref_log_probs"):
        ref = ref_begun.result()
    return [replace(g, ref_log_probs=r.at_temperature) for g, r in zip(filled, ref, strict=True)], old, ref


def update_gives_old_log_probs(groups: Sequence[TrainGroup], *, run: GrpoRun) -> bool:
    """Whether the log-probs before the update are those of its own forward pass: it is the only one of its batch.

    An adapter's dropout would change them.
    """
    lora = run.model.lora
    has_dropout = lora.rank > 0 and lora.dropout > 0
    return len(update_batches(groups, algorithm=run.algorithm)) == 1 and not has_dropout


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
    train_groups = []
    for group, prompt in zip(groups, prompts, strict=True):
        rows = group_ids == group.group_id
        in_loss = ~np.isnan(rewards[rows])
        if algorithm.mask_truncated:
            in_loss &= np.array([rollout.finish_reason != "length" for rollout in group.rollouts])
        train_groups.append(
            replace(
                sampled_group(group, prompt),
                advantages=advantages[rows],
                in_loss=in_loss,
                accuracies=accuracies[rows],
                rollout_log_probs=tuple(rollout.log_probs for rollout in group.rollouts),
            )
        )
    return train_groups


def sampled_group(group: Group, prompt: PromptHandle) -> TrainGroup:
    """A group as it was sampled, without what rewards say of it."""
    return TrainGroup(group.group_id, prompt, tuple(rollout.token_ids for rollout in group.rollouts))


def _reward(score: Scored) -> float:
    return np.nan if score.reward is None else score.reward


def _accuracy(score: Scored) -> float:
    value = score.terms["accuracy"].value
    return np.nan if value is None else value


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
