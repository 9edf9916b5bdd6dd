"""GRPO guided by the Temporal Alignment Reward: the loop, and the pure steps in it.

How prompts come to be batches stands in `stream.py`, which of them are on their way in `window.py`; what a run does
besides learning (evaluations, checkpoints, logs, a judge that is away) in `upkeep.py`, and what the loop needs of the
workers in `protocols.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rewards.compose import reward_range
from rewards.types import Scored
from videor2_rl.background import BackgroundLoop
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.runs import GrpoRun
from videor2_rl.dataset import SampleOrder
from videor2_rl.run.tracking import PhaseTimer
from videor2_rl.training.advantage import Outcomes, advantages_of
from videor2_rl.training.batch import Batch
from videor2_rl.training.collector import no_collections
from videor2_rl.training.gap import check_gap, measure_gap
from videor2_rl.training.ledger import Ledger, StepEnds
from videor2_rl.training.protocols import Workers
from videor2_rl.training.stream import Stream
from videor2_rl.training.upkeep import Progress, StepOutcome, Upkeep
from videor2_rl.training.window import Window
from videor2_rl.types import Group, LogProbs, PromptHandle, TrainGroup, VideoSample


@no_collections()
def train(
    run: GrpoRun,
    workers: Workers,
    samples: Sequence[VideoSample],
    *,
    start: Progress,
    ledger: Ledger,
    upkeep: Upkeep,
    background: BackgroundLoop | None = None,
) -> None:
    """GRPO, step by step; `start` says which step comes first.

    Args:
        run: the configuration.
        workers: the parts; learner and rollout workers hold the weights of `start.policy_version`.
        samples: the training rows.
        ledger: what became of every prompt so far.
        upkeep: what surrounds the algorithm, called where it belongs in a step.
        background: where the prompts are on their way; None: a thread of its own.

    Raises:
        LogProbGapError: rollout workers and learner disagree about the policy.
        ConfigError: too many samples cannot be used.
        JudgeDown: the judge was away for too long; a checkpoint of the last whole step is written first.
        Stopped: a signal, or no time for another step.
    """
    algorithm, temperature = run.algorithm, run.rollout.temperature
    order = SampleOrder(len(samples), seed=run.seed, shuffle=run.data.shuffle)
    window = Window(
        prompts_per_step=algorithm.prompts_per_step,
        max_staleness=algorithm.max_staleness,
        lookahead=algorithm.lookahead,
        end=algorithm.num_steps * algorithm.prompts_per_step,
        taken=ledger.ended,
    )
    progress = start
    with Stream(
        run, workers, order.of(samples), window=window, ledger=ledger, skip=upkeep.skip, background=background
    ) as stream:
        for step in range(start.step + 1, algorithm.num_steps + 1):
            upkeep.before_step()
            timer = PhaseTimer()
            upkeep.evaluate_if_due(progress, timer)
            stream.admit()
            with upkeep.judging(), timer.phase("wait"):
                batch = stream.take(tend=workers.rollouts.admit_joiners)
                workers.rewards.check(batch.scored)
            version = progress.policy_version
            train_groups = with_advantages(
                batch.groups,
                batch.prompts,
                batch.scored.scored,
                algorithm=algorithm,
                reward_range=reward_range(run.reward),
                policy_version=version,
            )
            train_groups, old, ref = with_log_probs(workers, batch, train_groups, run=run, version=version, timer=timer)
            metrics = upkeep.begin_metrics(batch, old, ref)
            upkeep.complete_checkpoint(timer)
            with upkeep.undivided():
                parts = update_batches(train_groups, algorithm=algorithm)
                with timer.phase("update"):
                    updates = [
                        workers.learner.update(
                            part, algorithm=algorithm, temperature=temperature, is_tempered=run.rollout.is_tempered
                        )
                        for part in parts
                    ]
                with timer.phase("sync_weights"):
                    progress = Progress(step, version + len(updates), upkeep.skipped)
                    if updates:
                        workers.rollouts.update_weights(workers.learner.weights(progress.policy_version))
                stream.release(batch)
                ends = ends_of(batch, train_groups, parts)
                upkeep.finish_step(progress, StepOutcome(batch, train_groups, old, metrics, updates, ends), timer)


def with_log_probs(
    workers: Workers,
    batch: Batch,
    train_groups: Sequence[TrainGroup],
    *,
    run: GrpoRun,
    version: int,
    timer: PhaseTimer,
) -> tuple[list[TrainGroup], list[LogProbs], list[LogProbs]]:
    """The groups with log-probs of the learner before the update and of the reference, and both as they came.

    Without a reference there are none of its own, and none of the learner where its update finds them itself.

    Args:
        version: of the learner's policy.

    Raises:
        LogProbGapError: as `check_gap`.
    """
    filled, old = list(train_groups), []
    if filled and not update_gives_old_log_probs(train_groups, run=run):
        with timer.phase("old_log_probs"):
            old = workers.learner.log_probs(train_groups, temperature=run.rollout.temperature)
            gap = measure_gap(batch.groups, old, is_tempered=run.rollout.is_tempered, policy_version=version)
            check_gap(gap, run.algorithm)
            filled = [replace(g, old_log_probs=o.at_temperature) for g, o in zip(train_groups, old, strict=True)]
    if not batch.refs:
        return filled, old, []
    with timer.phase("ref_log_probs"):
        ref = [log_probs for begun in batch.refs for log_probs in begun.result()]
    return [replace(g, ref_log_probs=r.at_temperature) for g, r in zip(filled, ref, strict=True)], old, ref


def update_gives_old_log_probs(groups: Sequence[TrainGroup], *, run: GrpoRun) -> bool:
    """Whether the log-probs before the update are those of its own forward pass: it is the only one of its batch.

    An adapter's dropout would change them.
    """
    lora = run.model.lora
    has_dropout = lora.rank > 0 and lora.dropout > 0
    return len(update_batches(groups, algorithm=run.algorithm)) == 1 and not has_dropout


def with_advantages(
    groups: Sequence[Group],
    prompts: Sequence[PromptHandle],
    scored: Sequence[Sequence[Scored]],
    *,
    algorithm: AlgorithmConfig,
    reward_range: tuple[float, float],
    policy_version: int | None = None,
) -> list[TrainGroup]:
    """Each group with the advantage of every rollout; rollouts without a reward stay out of baseline and loss.

    Args:
        reward_range: the least and the most that the reward can pay.
        policy_version: of the learner; None: that of all rollouts.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    # None, where there is no value, becomes NaN.
    rewards = np.array([score.reward for group in scored for score in group], dtype=np.float32)
    group_ids = np.array([group.group_id for group in groups for _ in group.rollouts], dtype=np.int64)
    verdicts = [score.terms["accuracy"] for group in scored for score in group]
    accuracies = np.array([verdict.value for verdict in verdicts], dtype=np.float32)
    lengths = np.array([len(rollout.token_ids) for rollout in rollouts], dtype=np.int64)
    outcomes = Outcomes(rewards, group_ids, lengths, accuracies, reward_range)
    advantages = advantages_of(outcomes, algorithm.advantage)
    in_loss = ~np.isnan(rewards)
    if algorithm.mask_truncated:
        in_loss &= np.array([rollout.finish_reason != "length" for rollout in rollouts], dtype=np.bool_)
    versions = np.array([rollout.policy_version for rollout in rollouts], dtype=np.int64)
    is_fresh = np.ones(len(rollouts), dtype=np.bool_) if policy_version is None else versions == policy_version
    token_ids, log_probs = [one.token_ids for one in rollouts], [one.log_probs for one in rollouts]
    train_groups, stop = [], 0
    for group, prompt in zip(groups, prompts, strict=True):
        rows = slice(stop, stop := stop + len(group.rollouts))
        train_groups.append(
            TrainGroup(
                group.group_id,
                prompt,
                tuple(token_ids[rows]),
                advantages=advantages[rows],
                in_loss=in_loss[rows],
                accuracies=accuracies[rows],
                rollout_log_probs=tuple(log_probs[rows]),
                is_fresh=is_fresh[rows],
            )
        )
    return train_groups


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


def ends_of(batch: Batch, train_groups: Sequence[TrainGroup], parts: Sequence[Sequence[TrainGroup]]) -> StepEnds:
    """What the step did with its prompts.

    Args:
        parts: what `update_batches` left of the groups.
    """
    trained = [group.group_id for part in parts for group in part]
    used = set(trained)
    filtered = {
        group.group_id: "no_reward" if group.in_loss is not None and not group.in_loss.any() else "zero_variance"
        for group in train_groups
        if group.group_id not in used
    }
    return StepEnds(trained, {number: sample.reason for number, sample in batch.skipped.items()}, filtered)
