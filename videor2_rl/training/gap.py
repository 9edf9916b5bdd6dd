"""How far vLLM's and the learner's log-probs of the sampled tokens lie apart, and when that ends a run.

In bfloat16 the two always differ, with heavy tails: for Qwen2.5-7B 0.04 nats root mean square are published, and a step
of 64k tokens has single ones far out. So the limits are on the mean and on the 99.9 % quantile. Another policy, other
positions or another clip move the mean; the maximum and its place are logged, and say nothing alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from videor2_rl.types import Group, LogProbs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videor2_rl.config.algorithm import AlgorithmConfig

TAIL = 0.999
"""The quantile that has a limit."""


class LogProbGapError(RuntimeError):
    """Rollout workers and learner disagree about the policy."""


@dataclass(frozen=True)
class Gap:
    """Absolute differences over all tokens of a step, in nats; NaN where one of them is."""

    mean: float
    tail: float
    """The 99.9 % quantile."""
    largest: float
    group_id: int
    """Where the largest is: its group,"""
    sample_id: str
    response: int
    """the place of its response in the group,"""
    position: int
    """the token's place in the response,"""
    token_id: int
    kl: float
    """Estimate of KL(engine || learner) per token by k3 = exp(d) - 1 - d with d = learner - engine
    (http://joschu.net/blog/kl-approx.html), which is never negative."""


def measure_gap(
    groups: Sequence[Group], learner: Sequence[LogProbs], *, is_tempered: bool, policy_version: int | None = None
) -> Gap | None:
    """The gap of a step; None where no token was sampled.

    Args:
        groups: as sampled.
        learner: log-probs of the same policy, one per group in any order.
        is_tempered: the engine's are of the softmax at the sampling temperature, else of that at temperature 1.
        policy_version: the learner's: responses that another policy sampled, be it a part, are left out. None: none is.

    Raises:
        ValueError: a group has no log-probs, or theirs are not as many as its tokens.
    """
    by_id = {item.group_id: item for item in learner}
    places: list[tuple[Group, int]] = []
    differences: list[NDArray[np.float64]] = []
    for group in groups:
        if group.group_id not in by_id:
            raise ValueError(f"Group {group.group_id} has no log-probs from the learner.")
        item = by_id[group.group_id]
        own = item.at_temperature if is_tempered else item.raw
        lengths, sampled = [len(values) for values in own], [len(rollout.log_probs) for rollout in group.rollouts]
        if lengths != sampled:
            raise ValueError(f"Group {group.group_id}: {lengths} tokens are compared with those of {sampled}.")
        for response, (rollout, values) in enumerate(zip(group.rollouts, own, strict=True)):
            if policy_version not in (None, rollout.policy_version):
                continue
            places.append((group, response))
            # float64, so that small gaps are not rounded.
            differences.append(np.asarray(values, np.float64) - np.asarray(rollout.log_probs, np.float64))
    return gap_of([part_of_gap(differences, [_place(group, response) for group, response in places])])


@dataclass(frozen=True)
class GapPart:
    """The differences of some responses, those of a rank for one, and where the largest is."""

    differences: NDArray[np.float64]
    """[N] learner - engine, in nats."""
    worst: tuple[int, str, int, int, int]
    """Group id, sample id, response, position and token id of the largest."""


def part_of_gap(
    differences: Sequence[NDArray[np.float64]], places: Sequence[tuple[int, str, int, NDArray[np.int64]]]
) -> GapPart | None:
    """Of responses one after the other; None without a token.

    Args:
        differences: [T] of each response.
        places: group id, sample id, place in the group and token ids of each.
    """
    flat = np.concatenate(differences) if differences else np.empty(0)
    if not len(flat):
        return None
    worst = int(np.argmax(_ranked(flat)))
    starts = np.cumsum([0, *(len(values) for values in differences)])
    index = int(np.searchsorted(starts, worst, side="right")) - 1
    group_id, sample_id, response, token_ids = places[index]
    position = worst - int(starts[index])
    return GapPart(flat, (group_id, sample_id, response, position, int(token_ids[position])))


def gap_of(parts: Sequence[GapPart | None]) -> Gap | None:
    """The parts together; None where no token was sampled."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    flat = np.concatenate([part.differences for part in present])
    sizes = np.abs(flat)
    group_id, sample_id, response, position, token_id = max(
        present, key=lambda part: float(_ranked(part.differences).max())
    ).worst
    return Gap(
        mean=float(sizes.mean()),
        tail=float(np.quantile(sizes, TAIL, method="higher")),
        largest=float(sizes.max()),
        group_id=group_id,
        sample_id=sample_id,
        response=response,
        position=position,
        token_id=token_id,
        # Infinity less infinity is no number, and should be none.
        kl=float((np.expm1(flat) - flat).mean()) if np.isfinite(flat).all() else float("nan"),
    )


def _ranked(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sizes, a NaN as the largest."""
    return np.where(np.isnan(differences), np.inf, np.abs(differences))


def _place(group: Group, response: int) -> tuple[int, str, int, NDArray[np.int64]]:
    return group.group_id, group.sample_id, response, group.rollouts[response].token_ids


def check_gap(gap: Gap | None, algorithm: AlgorithmConfig) -> None:
    """Raises LogProbGapError: the mean or the tail is above its limit, or not a number."""
    if gap is None:
        return
    limits = (
        ("mean", gap.mean, algorithm.max_log_prob_gap_mean, "max_log_prob_gap_mean"),
        (f"{TAIL:.1%} quantile", gap.tail, algorithm.max_log_prob_gap_tail, "max_log_prob_gap_tail"),
    )
    for name, value, limit, key in limits:
        # Not `value > limit`: NaN must stop the run too.
        if not value <= limit:
            raise LogProbGapError(
                f"rollout workers and learner disagree about the sampled tokens: {name} {value:.2e} nats, more than "
                f"algorithm.{key}={limit:g}; largest {gap.largest:.2e} at sample {gap.sample_id}, response "
                f"{gap.response}, token {gap.position} (id {gap.token_id}). They do not hold the same policy, or do "
                "not see the same input"
            )


def exceeds(gap: Gap | None, algorithm: AlgorithmConfig) -> bool:
    """Whether `check_gap` would raise."""
    try:
        check_gap(gap, algorithm)
    except LogProbGapError:
        return True
    return False


def gap_metrics(gap: Gap | None) -> dict[str, float]:
    """`rollout/log_prob_gap_*`, the largest one's place included, and `rollout/kl_to_learner`."""
    if gap is None:
        return {}
    return {
        "rollout/log_prob_gap_mean": gap.mean,
        "rollout/log_prob_gap_tail": gap.tail,
        "rollout/log_prob_gap_max": gap.largest,
        "rollout/log_prob_gap_max_group": float(gap.group_id),
        "rollout/log_prob_gap_max_response": float(gap.response),
        "rollout/log_prob_gap_max_position": float(gap.position),
        "rollout/log_prob_gap_max_token": float(gap.token_id),
        "rollout/kl_to_learner": gap.kl,
    }
