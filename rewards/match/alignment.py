"""What a matching of claims and references pays, and what the same claims would earn by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rewards.match.matching import Pair
from rewards.types import TemporalAlignmentConfig

Interval: TypeAlias = tuple[float, float]
"""Start and end in seconds; equal for a point in time."""

NUM_SHIFTS = 8


def counts(pairs: Sequence[Pair], *, num_claims: int, num_references: int) -> dict[str, float]:
    """precision = matched / claims, recall = matched / references, f1 their harmonic mean; all 0 without a claim."""
    return {
        "precision": len(pairs) / num_claims if num_claims else 0.0,
        "recall": len(pairs) / num_references,
        "f1": 2 * len(pairs) / (num_claims + num_references),
    }


def paid_statistic(
    pairs: Sequence[Pair],
    claims: Sequence[Interval],
    references: Sequence[Interval],
    *,
    config: TemporalAlignmentConfig,
) -> float:
    """The configured statistic of a matching, in [0, 1].

    Each matched pair has a credit: 1, less `range_cost_per_second` for each second that the claim's range is longer
    than the reference's, and for `interval_iou` times the overlap of the two intervals. With C the sum of credits:
    precision = C / claims, recall = C / references, f_beta = (1 + b^2) C / (claims + b^2 references), interval_iou =
    2 C / (claims + references), the panoptic quality of arXiv:1801.00868.

    Args:
        references: at least one.
    """
    credit = sum(_credit(claims[row], references[column], config) for row, column in pairs)
    if config.statistic == "precision":
        return credit / len(claims) if claims else 0.0
    if config.statistic == "recall":
        return credit / len(references)
    squared = config.beta**2 if config.statistic == "f_beta" else 1.0
    return (1 + squared) * credit / (len(claims) + squared * len(references))


def _credit(claim: Interval, reference: Interval, config: TemporalAlignmentConfig) -> float:
    excess_s = max(0.0, (claim[1] - claim[0]) - (reference[1] - reference[0]))
    credit = max(0.0, 1.0 - config.range_cost_per_second * excess_s)
    if config.statistic == "interval_iou":
        credit *= interval_iou(claim, reference, margin_s=config.buffer_seconds / 2)
    return credit


def interval_iou(first: Interval, second: Interval, *, margin_s: float) -> float:
    """Intersection over union of two intervals, each widened by `margin_s` at both ends so that points have a width.

    Intervals whose gap is twice the margin have 0; equal ones 1, points without a margin included.
    """
    if first == second:
        return 1.0
    overlap = min(first[1], second[1]) - max(first[0], second[0]) + 2 * margin_s
    union = max(first[1], second[1]) - min(first[0], second[0]) + 2 * margin_s
    return max(0.0, overlap) / union


def shifted(
    claims: Sequence[Interval], references: Sequence[Interval], *, buffer_seconds: float
) -> list[list[Interval]]:
    """The claims at eight evenly spaced shifts in time, around a circle a little longer than the last event.

    Every shift moves a claim by at least twice the buffer in either direction, so one that matches only where it
    stands matches after none.

    Args:
        references: at least one.
    """
    least = 2 * buffer_seconds + 1.0
    length = max(end for _, end in (*claims, *references)) + 2 * least
    steps = [least + step * (length - 2 * least) / (NUM_SHIFTS - 1) for step in range(NUM_SHIFTS)]
    return [[((start + by) % length, (start + by) % length + end - start) for start, end in claims] for by in steps]


def chance(
    matchings: Sequence[Sequence[Pair]],
    shifts: Sequence[Sequence[Interval]],
    references: Sequence[Interval],
    *,
    config: TemporalAlignmentConfig,
) -> float:
    """The mean statistic of the shifted claims.

    Args:
        matchings: the pairs of each shift.
    """
    paid = [
        paid_statistic(pairs, claims, references, config=config)
        for pairs, claims in zip(matchings, shifts, strict=True)
    ]
    return sum(paid) / len(paid)


def restrict(cosines: Mapping[Pair, float], pairs: Sequence[Pair], *, threshold: float) -> dict[Pair, float]:
    """Of some pairs those that are similar enough, with their cosine."""
    return {pair: cosines[pair] for pair in pairs if cosines[pair] >= threshold}
