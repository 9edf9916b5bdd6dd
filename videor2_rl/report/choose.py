"""Which rollouts the page shows, and why each: chosen to be told apart, within each kind drawn by a fixed seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from videor2_rl.evaluation.summary import SCORE_KEY
from videor2_rl.report.data import STAGE_LABELS
from videor2_rl.run.rollout_index import is_full

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """Samples that are shown for one reason."""

    reason: str
    total: int
    """How many there are of it."""
    items: tuple[T, ...]
    """Those that are shown."""


def choose(reasons: Sequence[tuple[str, T]], *, order: Sequence[str], count: int, seed: int) -> list[Kind[T]]:
    """At most `count` items: one of each kind in turn, so that a rare kind is seen beside a common one.

    Args:
        reasons: kind and item, in an order that does not change between two reports.
        order: the kinds, as they are to be shown; one without items is left out.
    """
    by_kind = {reason: [item for kind, item in reasons if kind == reason] for reason in order}
    by_kind = {reason: items for reason, items in by_kind.items() if items}
    shuffled = {reason: random.Random(seed).sample(items, len(items)) for reason, items in by_kind.items()}
    taken = dict.fromkeys(shuffled, 0)
    left = min(count, len(reasons))
    while left > 0:
        for reason in [reason for reason in taken if taken[reason] < len(shuffled[reason])]:
            if left > 0:
                taken[reason] += 1
                left -= 1
    return [
        Kind(reason, len(items), tuple(items[: taken[reason]])) for reason, items in shuffled.items() if taken[reason]
    ]


def held_out_reasons(stages: Sequence[str]) -> tuple[str, ...]:
    """The kinds of held-out samples, rare ones that matter first; the last stage is judged, against the one before."""
    after = STAGE_LABELS.get(stages[-1], stages[-1])
    before = STAGE_LABELS.get(stages[-2], stages[-2]) if len(stages) > 1 else ""
    return (
        "Judging failed",
        f"Right after {before}, wrong after {after}",
        f"Wrong after {before}, right after {after}",
        f"Gate closed: the reasoning of {after} does not conclude its answer",
        f"Wrong after {after}" if not before else f"Wrong after {before} and after {after}",
        f"Right after {after}, with wrong or missed events",
        f"All right after {after}: answer, reasoning and every event",
    )


def held_out_reason(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The first kind that a sample, stage -> row, is of."""
    failed, worse, better, gate, wrong, faulty, best = held_out_reasons(list(rows))
    scores = [row[SCORE_KEY] for row in rows.values()]
    last = scores[-1]
    if any(score["failed"] for score in scores):
        return failed
    is_right = is_full(last["accuracy"])
    if len(scores) > 1 and is_right != is_full(scores[-2]["accuracy"]):
        return better if is_right else worse
    if last["tac"] is None or not is_full(last["tac"]):
        return gate
    if not is_right:
        return wrong
    has_all = all(last[name] is None or is_full(last[name]) for name in ("tar_precision", "tar_recall"))
    return best if has_all else faulty


def told_apart(responses: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Index of the two responses of a group that differ most, and what each is; one where there is only one."""
    size = len(responses)
    if size == 1:
        return [(0, "the only one")]
    scored = [index for index, response in enumerate(responses) if response["reward"] is not None]
    unscored = [index for index in range(size) if index not in scored]
    if not scored:
        return [(0, ""), (1, "")]
    best = max(scored, key=lambda index: responses[index]["reward"])
    if unscored:
        return [(best, "highest reward"), (unscored[0], "no reward")]
    worst = min(scored, key=lambda index: responses[index]["reward"])
    if responses[best]["reward"] == responses[worst]["reward"]:
        return [(0, "same reward"), (size - 1, "same reward")]
    return [(best, "highest reward"), (worst, "lowest reward")]
