"""Group-relative advantages: each reward compared with its siblings' on the same prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videor2_rl.config.algorithm import AdvantageName

    Floats: TypeAlias = NDArray[np.float64]

STD_EPSILON = 1e-6
MAPO_EPSILON = float(np.finfo(np.float32).eps)
"""Added to MAPO's deviation and mean, as the code of arXiv:2511.23478 does."""
BNPO_MAX_WEIGHT = 1e6
"""Of a group whose mean reward the Beta distribution hardly allows, as in BNPO's code."""


@dataclass(frozen=True)
class Outcomes:
    """What came of the B responses of a batch, rows in any order."""

    rewards: NDArray[np.float32]
    """[B]; NaN marks a failed verdict, which leaves its group's statistics."""
    group_ids: NDArray[np.int64]
    """[B], which prompt each response answers."""
    lengths: NDArray[np.int64]
    """[B] response tokens."""
    accuracies: NDArray[np.float32]
    """[B] values of the accuracy term in 0-1, NaN where it has none."""
    reward_range: tuple[float, float]
    """The least and the most that the reward can pay."""

    def __post_init__(self) -> None:
        _checked(self.rewards, self.group_ids)


def advantages_of(outcomes: Outcomes, name: AdvantageName) -> NDArray[np.float32]:
    """The advantages [B] by their name in `algorithm.advantage`.

    Exactly 0 for failed members and for groups with fewer than two valid members; except with
    reinforce_plus_plus_baseline, which shifts all of them by the batch's mean, also for groups of equal rewards.

    Raises:
        ValueError: a reward is infinite, or lies outside `reward_range` where that is read.
    """
    rewards, group_ids = outcomes.rewards, outcomes.group_ids
    if name in ("grpo", "dr_grpo"):
        return grpo_advantages(rewards, group_ids, scale_by_std=name == "grpo")
    if name == "rloo":
        return rloo_advantages(rewards, group_ids)
    if name == "reinforce_plus_plus_baseline":
        return reinforce_plus_plus_baseline_advantages(rewards, group_ids, outcomes.lengths)
    if name == "opo":
        return opo_advantages(rewards, group_ids, outcomes.lengths)
    if name == "mapo":
        return mapo_advantages(rewards, group_ids, outcomes.accuracies)
    return bnpo_advantages(rewards, group_ids, reward_range=outcomes.reward_range)


def grpo_advantages(
    rewards: NDArray[np.float32], group_ids: NDArray[np.int64], *, scale_by_std: bool
) -> NDArray[np.float32]:
    """Each reward minus its group's mean, optionally divided by its group's standard deviation.

    Args:
        rewards: [B], one per response; NaN marks a failed verdict, which leaves its group's mean and deviation.
        group_ids: [B], which prompt each response answers; rows in any order.
        scale_by_std: True is GRPO (arXiv:2402.03300), False is Dr. GRPO (arXiv:2503.20783).

    Returns:
        [B]; exactly 0 for failed members, for groups of equal rewards and for groups with fewer than two valid
        members. The deviation is the sample's (n - 1), plus 1e-6.

    Raises:
        ValueError: the two arrays differ in length, or a reward is infinite.
    """
    advantages = np.zeros(len(rewards), dtype=np.float32)
    for members, scores in _comparable(rewards, group_ids):
        centred = scores - scores.mean(axis=1, keepdims=True)
        if scale_by_std:
            centred /= scores.std(axis=1, ddof=1, keepdims=True) + STD_EPSILON
        advantages[members] = centred
    return advantages


def rloo_advantages(rewards: NDArray[np.float32], group_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Each reward minus the mean of its group's other rewards (RLOO, arXiv:2402.14740); otherwise as GRPO's."""
    advantages = np.zeros(len(rewards), dtype=np.float32)
    for members, scores in _comparable(rewards, group_ids):
        others = scores.sum(axis=1, keepdims=True) - scores
        advantages[members] = scores - others / (scores.shape[1] - 1)
    return advantages


def opo_advantages(
    rewards: NDArray[np.float32], group_ids: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Each reward minus its group's mean weighted by response length (OPO, arXiv:2505.23585); otherwise as GRPO's.

    Args:
        lengths: [B] response tokens, at least 1.
    """
    advantages = np.zeros(len(rewards), dtype=np.float32)
    for members, scores in _comparable(rewards, group_ids):
        advantages[members] = scores - np.average(scores, axis=1, weights=lengths[members], keepdims=True)
    return advantages


def reinforce_plus_plus_baseline_advantages(
    rewards: NDArray[np.float32], group_ids: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Each reward minus its group's mean, then whitened over all tokens of the batch (REINFORCE++-baseline,
    arXiv:2501.03262).

    Args:
        lengths: [B] response tokens; each response's value counts once per token.

    Returns:
        [B]; 0 for failed members and for groups with fewer than two valid members, which leave the batch's mean and
        variance (n - 1 tokens) too, and where all values are equal.
    """
    values, advantages = _checked(rewards, group_ids), np.zeros(len(rewards), dtype=np.float32)
    groups = [members for members in _valid_members(values, group_ids) if members.shape[1] > 1]
    if not groups:
        return advantages
    rows = np.concatenate([members.ravel() for members in groups])
    centred = np.concatenate(
        [(values[members] - values[members].mean(axis=1, keepdims=True)).ravel() for members in groups]
    )
    mean = np.average(centred, weights=lengths[rows])
    variance = np.sum(lengths[rows] * (centred - mean) ** 2) / (lengths[rows].sum() - 1)
    advantages[rows] = (centred - mean) / np.sqrt(variance + 1e-8)
    return advantages


def mapo_advantages(
    rewards: NDArray[np.float32], group_ids: NDArray[np.int64], accuracies: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A mix of the deviation from the group's mean in standard deviations and in shares of the mean (MAPO,
    arXiv:2509.18849), as the code of arXiv:2511.23478 has it.

    With p the share of the group's responses whose accuracy is at least 0.5 and l = 1 - 4 p (1 - p), the second
    counts l and the first 1 - l: groups that are all right or all wrong go by shares of the mean.

    Args:
        rewards: [B], not negative: they are divided by their mean.
        accuracies: [B] in 0-1; NaN counts as not right.

    Returns:
        As `grpo_advantages`, but with the deviation of the population (n).

    Raises:
        ValueError: a reward is negative, or as `grpo_advantages`.
    """
    if (rewards < 0).any():
        raise ValueError(f"MAPO divides by the mean reward, found {np.nanmin(rewards)}; rewards must not be negative")
    advantages = np.zeros(len(rewards), dtype=np.float32)
    for members, scores in _comparable(rewards, group_ids):
        right = np.mean(accuracies[members] >= 0.5, axis=1, keepdims=True)
        by_mean = 1 - 4 * right * (1 - right)
        mean = scores.mean(axis=1, keepdims=True)
        in_deviations = (scores - mean) / (scores.std(axis=1, keepdims=True) + MAPO_EPSILON)
        in_means = (scores - mean) / (mean + MAPO_EPSILON)
        advantages[members] = (1 - by_mean) * in_deviations + by_mean * in_means
    return advantages


def bnpo_advantages(
    rewards: NDArray[np.float32], group_ids: NDArray[np.int64], *, reward_range: tuple[float, float]
) -> NDArray[np.float32]:
    """Each reward minus its group's mean, divided by a Beta density at that mean (BNPO, arXiv:2506.02864).

    The distribution Beta(a, b) is fitted to the means of the batch's groups by its moments; the density is that of
    Beta(1 + a / 3, 1 + b / 3), the one that the paper finds to have the least variance. Its theory is for rewards of 0
    and 1; others are scaled to 0-1 first, as in its code.

    Args:
        reward_range: the least and the most that the reward can pay.

    Returns:
        [B]; 0 for failed members, for groups of equal rewards and for groups with fewer than two valid members. Their
        means enter the fit where they have two. One group alone cannot be fitted: its density is 1, the uniform one.

    Raises:
        ValueError: a reward lies outside the range, or as `grpo_advantages`.
    """
    least, most = reward_range
    scaled = (_checked(rewards, group_ids) - least) / (most - least)
    if (scaled < -1e-6).any() or (scaled > 1 + 1e-6).any():
        raise ValueError(f"expected rewards from {least} to {most}, found {np.nanmin(rewards)} to {np.nanmax(rewards)}")
    groups = [members for members in _valid_members(scaled, group_ids) if members.shape[1] > 1]
    means = [scaled[members].mean(axis=1) for members in groups]
    a, b = _bnpo_parameters(np.concatenate([*means, []]))
    advantages = np.zeros(len(rewards), dtype=np.float32)
    for members, scores in _varying(scaled, groups):
        mean = scores.mean(axis=1, keepdims=True)
        advantages[members] = (scores - mean) / np.maximum(_beta_density(mean, a, b), 1 / BNPO_MAX_WEIGHT)
    return advantages


def _bnpo_parameters(means: Floats) -> tuple[float, float]:
    """Parameters of BNPO's normalising density from the groups' mean rewards in 0-1; at least 1, so it has no pole."""
    if len(means) < 2 or means.var(ddof=1) == 0:
        return 1.0, 1.0
    mean, variance = means.mean(), means.var(ddof=1)
    size = mean * (1 - mean) / variance - 1
    return max(1.0, 1 + size * mean / 3), max(1.0, 1 + size * (1 - mean) / 3)


def _beta_density(values: Floats, a: float, b: float) -> Floats:
    """Of Beta(a, b) at values strictly between 0 and 1."""
    log_normaliser = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    density: Floats = np.exp((a - 1) * np.log(values) + (b - 1) * np.log1p(-values) - log_normaliser)
    return density


def zero_variance(rewards: NDArray[np.float32], group_ids: NDArray[np.int64]) -> dict[int, bool]:
    """Group id -> whether its valid rewards are all equal (or fewer than two), so that it carries no gradient.

    Args and errors as in `grpo_advantages`.
    """
    values = _checked(rewards, group_ids)
    flat = dict.fromkeys(np.unique(group_ids).tolist(), True)
    for members, _ in _varying(values, _valid_members(values, group_ids)):
        flat |= dict.fromkeys(group_ids[members[:, 0]].tolist(), False)
    return flat


def _checked(rewards: NDArray[np.float32], group_ids: NDArray[np.int64]) -> Floats:
    """Rewards as float64, so that the mean of equal float32 rewards is that reward."""
    if len(rewards) != len(group_ids):
        raise ValueError(f"expected one group id per reward, got {len(rewards)} rewards and {len(group_ids)} group ids")
    values = np.asarray(rewards, dtype=np.float64)
    if np.isinf(values).any():
        raise ValueError("a reward is infinite: mark a failed verdict with NaN")
    return values


def _comparable(
    rewards: NDArray[np.float32], group_ids: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Rows and rewards of the groups' valid members, where they are not all equal; arrays as `_valid_members`."""
    values = _checked(rewards, group_ids)
    return _varying(values, _valid_members(values, group_ids))


def _varying(values: Floats, groups: Sequence[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Of the groups whose values are not all equal, rows and values."""
    for members in groups:
        scores = values[members]
        varies = scores.min(axis=1) < scores.max(axis=1)
        if varies.any():
            yield members[varies], scores[varies]


def _valid_members(rewards: Floats, group_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group's valid members: for every number of them an array [groups with so many, members].

    So the work is numpy's, where a step has thousands of groups.
    """
    valid = np.flatnonzero(~np.isnan(rewards))
    by_group = valid[np.argsort(group_ids[valid], kind="stable")]
    _, starts, sizes = np.unique(group_ids[by_group], return_index=True, return_counts=True)
    return [by_group[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]
