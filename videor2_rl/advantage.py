"""Group-relative advantages: each reward compared with its siblings' on the same prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STD_EPSILON = 1e-6


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
    values = _checked(rewards, group_ids)
    advantages = np.zeros(len(values), dtype=np.float32)
    for members in _valid_members(values, group_ids):
        scores = values[members]
        if len(scores) < 2 or scores.min() == scores.max():
            continue
        centred = scores - scores.mean()
        advantages[members] = centred / (scores.std(ddof=1) + STD_EPSILON) if scale_by_std else centred
    return advantages


def zero_variance(rewards: NDArray[np.float32], group_ids: NDArray[np.int64]) -> dict[int, bool]:
    """Group id -> whether its valid rewards are all equal (or fewer than two), so that it carries no gradient.

    Args and errors as in `grpo_advantages`.
    """
    values = _checked(rewards, group_ids)
    flat = {int(group_id): True for group_id in group_ids}
    for members in _valid_members(values, group_ids):
        scores = values[members]
        flat[int(group_ids[members[0]])] = bool(scores.min() == scores.max())
    return flat


def _checked(rewards: NDArray[np.float32], group_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rewards as float64, so that the mean of equal float32 rewards is that reward."""
    if len(rewards) != len(group_ids):
        raise ValueError(f"expected one group id per reward, got {len(rewards)} rewards and {len(group_ids)} group ids")
    values = np.asarray(rewards, dtype=np.float64)
    if np.isinf(values).any():
        raise ValueError("a reward is infinite: mark a failed verdict with NaN")
    return values


def _valid_members(rewards: NDArray[np.float64], group_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For each group with a valid reward, the rows of its valid members."""
    valid = ~np.isnan(rewards)
    rows = (np.flatnonzero(valid & (group_ids == group_id)) for group_id in np.unique(group_ids))
    return [members for members in rows if len(members)]
