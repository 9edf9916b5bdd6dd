"""What another reward or algorithm would have taught: the advantages that change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videor2_rl.replay.recompute import ReplayedGroup, same

if TYPE_CHECKING:
    from rich.table import Table


_SHOWN_CHARACTERS = 32
"""Of a response's text: with the numbers a line of 80 columns."""


@dataclass(frozen=True)
class Change:
    """One response that would have been taught something else."""

    group_id: int
    response: int
    """From 0."""
    text: str
    rewards: tuple[float | None, float | None]
    """As logged, and now."""
    advantages: tuple[float | None, float | None]

    @property
    def size(self) -> float:
        """How far the advantage moves; one that is out of the loss counts as 0."""
        before, after = self.advantages
        return abs((after or 0.0) - (before or 0.0))

    @property
    def is_turned(self) -> bool:
        """Raised before and lowered now, or the other way round."""
        before, after = self.advantages
        return (before or 0.0) * (after or 0.0) < 0


def changes(groups: Sequence[ReplayedGroup]) -> list[Change]:
    """The responses whose advantages change, the largest change first."""
    found = [
        Change(
            group.record["group_id"],
            number,
            response["text"],
            (response["reward"], score.reward),
            (response["advantage"], advantage),
        )
        for group in groups
        for number, (response, score, advantage) in enumerate(
            zip(group.record["responses"], group.scored, group.advantages, strict=True)
        )
        if not same(response["advantage"], advantage)
    ]
    return sorted(found, key=lambda change: (-change.size, change.group_id, change.response))


def summary(groups: Sequence[ReplayedGroup], found: Sequence[Change]) -> str:
    """How much would have been different, in a sentence."""
    total = sum(len(group.record["responses"]) for group in groups)
    touched = len({change.group_id for change in found})
    turned = sum(change.is_turned for change in found)
    return (
        f"{len(found)} of {total} advantages change, in {touched} of {len(groups)} groups; "
        f"{turned} responses would be pushed the other way."
    )


def table(found: Sequence[Change], *, limit: int) -> Table:
    """The largest changes for the terminal."""
    from rich.text import Text

    from videor2_rl.report.tables import plain_table

    shown = plain_table(f"Changed advantages, the largest {min(limit, len(found))}")
    for header, justify in (("group", "right"), ("response", "right"), ("reward", "right"), ("advantage", "right")):
        shown.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    shown.add_column("text", no_wrap=True)
    for change in found[:limit]:
        advantage = Text(_pair(change.advantages, "+.2f"), style="bold" if change.is_turned else "")
        text = Text(" ".join(change.text.split())[:_SHOWN_CHARACTERS])
        shown.add_row(str(change.group_id), str(change.response + 1), _pair(change.rewards, ".2f"), advantage, text)
    return shown


def _pair(values: tuple[float | None, float | None], spec: str) -> str:
    before, after = ("none" if value is None else f"{value:{spec}}" for value in values)
    return before if before == after else f"{before} -> {after}"
