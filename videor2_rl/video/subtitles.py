"""SubRip (.srt) files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[,.](\d{1,3}))?"
_TIMING = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_SLACK_S = 0.05


@dataclass(frozen=True)
class Cue:
    """One subtitle and when it is shown."""

    start_s: float
    end_s: float
    text: str
    """One line of plain text."""


def parse_srt(data: bytes) -> tuple[Cue, ...]:
    """Cues in order of their start; what is no cue is passed over.

    Takes what is found in the wild: byte order marks, CRLF, tags, a period before the milliseconds, missing hours,
    missing numbers. Bytes that are not UTF-8 (or UTF-16 with its mark) are read as Windows-1252.
    """
    cues = []
    lines = _text(data).splitlines()
    timings = [(i, match) for i, line in enumerate(lines) if (match := _TIMING.match(line))]
    for number, (i, match) in enumerate(timings):
        stop = timings[number + 1][0] if number + 1 < len(timings) else len(lines)
        body = lines[i + 1 : stop]
        if number + 1 < len(timings) and body and body[-1].strip().isdigit():
            # The next cue's number. A spoken number cannot stand there: a cue's own text comes first.
            body = body[:-1]
        text = " ".join(unescape(_TAG.sub("", " ".join(body))).split())
        start_s, end_s = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
        if text and end_s > start_s:
            cues.append(Cue(start_s, end_s, text))
    return tuple(sorted(cues, key=lambda cue: cue.start_s))


def active_text(cues: tuple[Cue, ...], time_s: float) -> str:
    """What is shown at `time_s`, overlapping cues one after the other; empty where there is nothing.

    A cue is active from 50 ms before its start to 50 ms after its end; where that makes two cues overlap that merely
    follow each other, the one that truly covers the time counts alone.
    """
    exact = [cue.text for cue in cues if cue.start_s <= time_s < cue.end_s]
    near = [cue.text for cue in cues if cue.start_s - _SLACK_S <= time_s <= cue.end_s + _SLACK_S]
    return " ".join(exact or near)


def _text(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    milliseconds = int((fraction or "0").ljust(3, "0"))
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + milliseconds / 1000
