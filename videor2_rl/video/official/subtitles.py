"""Subtitles as the paper's code reads them and looks them up."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

_SLACK_S = 0.05
_TAG = re.compile(r"</?[biu]>", re.IGNORECASE)


@dataclass(frozen=True)
class Cue:
    start_s: float
    end_s: float
    text: str
    """Its lines, joined by line breaks."""


def parse_srt(data: bytes) -> tuple[Cue, ...]:
    """Cues in order of their start, of blocks that an empty line separates.

    Of a block, one of the first three lines has to be `HH:MM:SS,mmm --> HH:MM:SS,mmm`; others are passed over. All tags
    but those of bold, italics and underlining stay in the text, as do entities. A cue may end before it starts.

    Raises:
        UnicodeDecodeError: not UTF-8; the paper's code then draws no subtitles at all.
    """
    text = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    cues = [cue for block in text.split("\n\n") if (cue := _cue(block.strip().split("\n"))) is not None]
    return tuple(sorted(cues, key=lambda cue: cue.start_s))


def _cue(lines: list[str]) -> Cue | None:
    place = next((i for i, line in enumerate(lines[:3]) if "-->" in line), None)
    if place is None:
        return None
    try:
        start_s, end_s = (_seconds(text.strip()) for text in lines[place].split("-->"))
    except (ValueError, OverflowError):
        return None
    spoken = [_TAG.sub("", line.strip()) for line in lines[place + 1 :] if line.strip()]
    return Cue(start_s, end_s, "\n".join(spoken)) if spoken else None


def _seconds(text: str) -> float:
    """Raises ValueError: not HH:MM:SS,mmm; the numbers may have any length, `,5` is 5 ms."""
    hours, minutes, rest = text.split(":")
    seconds, milliseconds = rest.split(",")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(milliseconds) / 1000.0


def texts_at(cues: tuple[Cue, ...], times_s: list[float]) -> list[str]:
    """What is drawn at each of increasing times; empty where there is nothing.

    Of the cues that have started (50 ms early) it is the last one, if it has not ended, else the one before it, and
    that only within the 50 ms: an earlier cue that goes on beneath a later one disappears when the later one ends.
    """
    texts, place = [], 0
    for time_s in times_s:
        text, place = _text_at(cues, time_s, place)
        texts.append(text)
    return texts


def _text_at(cues: tuple[Cue, ...], time_s: float, place: int) -> tuple[str, int]:
    """The text, and the place in `cues` from which the search for the next time begins."""

    def covers(cue: Cue) -> bool:
        return cue.start_s - _SLACK_S <= time_s < cue.end_s + _SLACK_S

    if not cues:
        return "", place
    last = bisect_right([cue.start_s for cue in cues], time_s + _SLACK_S, lo=place) - 1
    if last >= 0:
        if covers(cues[last]):
            return cues[last].text, last
        before = max(0, last - 1)
        if time_s < cues[last].start_s and covers(cues[before]):
            return cues[before].text, before
    elif cues[0].start_s - time_s <= _SLACK_S:
        # Reached where the sum above and this difference round differently.
        return cues[0].text, 0
    return "", max(0, last)
