"""Events on a lane of time: where each stands, and its frame above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.report.frames import Film, Frames, Shot

_SHOT_WIDTH = 11.5
"""Percent of a phone's lane that a frame takes; a frame nearer to its neighbour stands one row below."""
_MAX_ROWS = 4


@dataclass(frozen=True)
class ShownEvent:
    """A claim or a reference event on the timeline."""

    text: str
    time: str
    """`MM:SS` or a range."""
    left: float
    """Start, in percent of the timeline."""
    width: float
    """In percent; 0 for an instant."""
    mark: str
    """hit: a claim that matches, a reference that was found; miss: a claim that does not; missed: a reference that no
    claim matches; open: nobody judged."""
    note: str
    """What kept a claim from matching, or who missed a reference."""
    shot: Shot | None
    """The frame nearest to the start."""
    row: int
    """Of its frame, from 0 downwards."""


def events_on(
    events: Sequence[Mapping[str, Any]],
    marks: Sequence[tuple[str, str]],
    *,
    end_s: float,
    film: Film | None,
    frames: Frames,
) -> tuple[ShownEvent, ...]:
    """One lane's events, in their order; `marks` are mark and note of each."""
    lefts = [100 * min(event["start_s"], end_s) / end_s for event in events]
    return tuple(
        ShownEvent(
            text=event["text"],
            time=_span(event["start_s"], event["end_s"]),
            left=left,
            width=100 * min(event["end_s"], end_s) / end_s - left,
            mark=mark,
            note=note,
            shot=frames.shot(film, event["start_s"]),
            row=row,
        )
        for event, left, row, (mark, note) in zip(events, lefts, rows_of(lefts), marks, strict=True)
    )


def rows_of(lefts: Sequence[float]) -> list[int]:
    """The row of each frame, so that none covers another as long as there are rows."""
    rows = [0] * len(lefts)
    ends = [-_SHOT_WIDTH] * _MAX_ROWS
    for index in sorted(range(len(lefts)), key=lambda number: lefts[number]):
        # The last frames of a lane are moved in from its end.
        left = min(lefts[index], 100 - _SHOT_WIDTH)
        rows[index] = next((row for row in range(_MAX_ROWS) if ends[row] <= left), _MAX_ROWS - 1)
        ends[rows[index]] = left + _SHOT_WIDTH
    return rows


def _span(start_s: float, end_s: float) -> str:
    return time_text(start_s) if start_s == end_s else f"{time_text(start_s)}-{time_text(end_s)}"


def time_text(seconds: float) -> str:
    """`MM:SS`, with hundredths where there are any."""
    minutes, rest = divmod(round(seconds, 2), 60)
    text = f"{rest:05.2f}".rstrip("0").rstrip(".")
    return f"{int(minutes):02d}:{text if len(text) > 1 else text.zfill(2)}"
