"""Pure reductions: a step's groups, verdicts and log-probs -> one flat dict of floats.

Names begin with `reward/ rollout/ actor/ data/ perf/ timing_s/`. A mean over nothing is absent from the dict, not 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from videor2_rl.training.advantage import zero_variance
from videor2_rl.training.gap import gap_metrics, measure_gap
from videor2_rl.types import Group, LogProbs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rewards.types import Scored


def grpo_metrics(
    groups: Sequence[Group],
    scored: Sequence[Sequence[Scored]],
    *,
    log_probs: Sequence[LogProbs] = (),
    ref_log_probs: Sequence[LogProbs] = (),
    is_tempered: bool = False,
    policy_version: int | None = None,
) -> dict[str, float]:
    """Every reward/, rollout/ and actor/ metric that follows from one step's batch alone.

    Args:
        groups: the step's groups.
        scored: for each group, in the same order, the scores of its rollouts, in the same order.
        log_probs: the learner's, from before the update, one per group in any order; empty: no gap.
        ref_log_probs: the reference's, one per group in any order; empty: no `actor/kl`.
        is_tempered: as `measure_gap`.
        policy_version: of the learner before the update; None: that of all rollouts.

    Raises:
        ValueError: lengths or group ids do not correspond.
    """
    if [len(group.rollouts) for group in groups] != [len(scores) for scores in scored]:
        raise ValueError("Groups and scores do not correspond: each rollout needs exactly one score, in its order.")
    metrics = {**rollout_metrics(groups), **reward_metrics(scored)}
    if policy_version is not None:
        metrics |= staleness_metrics(groups, policy_version)
    if log_probs:
        gap = measure_gap(groups, log_probs, is_tempered=is_tempered, policy_version=policy_version)
        metrics |= gap_metrics(gap)
    if log_probs and ref_log_probs:
        metrics["actor/kl"] = kl_to_reference(log_probs, ref_log_probs)
    return metrics


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Response lengths in tokens, and the shares of responses cut at the limit and given up."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {}
    lengths = np.asarray([len(rollout.token_ids) for rollout in rollouts])
    reasons = Counter([rollout.finish_reason for rollout in rollouts])
    return {
        "rollout/response_tokens_mean": float(lengths.mean()),
        "rollout/response_tokens_max": float(lengths.max()),
        "rollout/truncated_frac": reasons["length"] / len(rollouts),
        "rollout/aborted_frac": reasons["abort"] / len(rollouts),
    }


def staleness_metrics(groups: Sequence[Group], policy_version: int) -> dict[str, float]:
    """How many optimiser steps lie between the policy that sampled a response's first token, its oldest, and the one
    that trains on it; and how many policies sampled a response.

    Args:
        policy_version: of the policy that trains.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {}
    staleness = policy_version - np.asarray([rollout.policy_version for rollout in rollouts])
    return {
        "rollout/staleness_mean": float(staleness.mean()),
        "rollout/staleness_max": float(staleness.max()),
        "rollout/policies_per_response": float(np.mean([1 + len(rollout.continued) for rollout in rollouts])),
    }


def reward_metrics(scored: Sequence[Sequence[Scored]]) -> dict[str, float]:
    """Mean and population std of the reward, each term's mean, and the shares that failed or abstained.

    A failed or abstaining verdict leaves its term's mean and is counted in `reward/<term>_failure_frac` or
    `reward/<term>_abstention_frac`; a response whose reward could not be had leaves `reward/mean` and is counted in
    `reward/failure_frac`. A group whose remaining rewards are all equal counts as one of zero variance, one whose
    remaining responses are all equally accurate as one of zero accuracy variance.
    """
    responses = [response for group in scored for response in group]
    if not responses:
        return {}
    rewards = np.asarray([_or_nan(response.reward) for response in responses])
    group_ids = np.repeat(np.arange(len(scored)), [len(group) for group in scored])
    flat = zero_variance(rewards.astype(np.float32), group_ids)
    accuracies = np.asarray([_accuracy(response) for response in responses], dtype=np.float32)
    valid = rewards[~np.isnan(rewards)]
    metrics = {
        "reward/failure_frac": 1 - len(valid) / len(rewards),
        "reward/zero_variance_frac": _share(flat.values()),
        "reward/zero_accuracy_variance_frac": _share(zero_variance(accuracies, group_ids).values()),
    }
    if len(valid):
        metrics["reward/mean"] = float(valid.mean())
        metrics["reward/std"] = float(valid.std())
    return {**metrics, **_term_metrics(responses), **_value_metrics(responses)}


def kl_to_reference(log_probs: Sequence[LogProbs], ref_log_probs: Sequence[LogProbs]) -> float:
    """Mean over tokens of k3, an estimate of KL(policy || reference) at the training temperature, in nats per token.

    Raises:
        ValueError: a group has no reference log-probs, or theirs are not as many as its tokens.
    """
    by_id = {item.group_id: item for item in ref_log_probs}
    differences = []
    for item in log_probs:
        if item.group_id not in by_id:
            raise ValueError(f"Group {item.group_id} has no log-probs from the reference.")
        reference = by_id[item.group_id].at_temperature
        differences.append(_difference(reference, item.at_temperature, group_id=item.group_id))
    difference = _concatenated(differences)
    return float((np.expm1(difference) - difference).mean()) if len(difference) else 0.0


def _term_metrics(responses: Sequence[Scored]) -> dict[str, float]:
    """Mean and tolerated drops of every reward term."""
    metrics = {}
    for name in responses[0].terms:
        verdicts = [response.terms[name] for response in responses]
        statuses = Counter([verdict.status for verdict in verdicts])
        metrics[f"reward/{name}_failure_frac"] = statuses["failure"] / len(verdicts)
        metrics[f"reward/{name}_abstention_frac"] = statuses["abstention"] / len(verdicts)
        values = [verdict.value for verdict in verdicts if verdict.status == "score" and verdict.value is not None]
        if values:
            metrics[f"reward/{name}"] = float(np.mean(values))
    return metrics


def _value_metrics(responses: Sequence[Scored]) -> dict[str, float]:
    """Means of the values beside the terms (tac, tar_precision, ...), and the share of responses without one."""
    metrics = {}
    for name in responses[0].metrics:
        if name in responses[0].terms:
            continue
        values = [value for response in responses if (value := response.metrics[name]) is not None]
        metrics[f"reward/{name}_unscored_frac"] = 1 - len(values) / len(responses)
        if values:
            metrics[f"reward/{name}"] = float(np.mean(values))
    return metrics


def _difference(
    minuend: Sequence[NDArray[np.float32]], subtrahend: Sequence[NDArray[np.float32]], *, group_id: int
) -> NDArray[np.float64]:
    """minuend - subtrahend over all tokens of a group's responses, in float64 so that small gaps are not rounded."""
    if [len(tokens) for tokens in minuend] != [len(tokens) for tokens in subtrahend]:
        raise ValueError(
            f"Group {group_id}: log-probs of {[len(tokens) for tokens in minuend]} tokens are compared with those of "
            f"{[len(tokens) for tokens in subtrahend]} tokens."
        )
    return _concatenated(
        [np.asarray(a, np.float64) - np.asarray(b, np.float64) for a, b in zip(minuend, subtrahend, strict=True)]
    )


def _concatenated(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found)


def _accuracy(response: Scored) -> float:
    """NaN where the response stays out of its group."""
    return float("nan") if response.reward is None else _or_nan(response.terms["accuracy"].value)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
