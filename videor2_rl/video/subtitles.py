"""Subtitle files: SubRip, WebVTT, Advanced SubStation Alpha; told by what they hold, not by their names.

ASS and SSA are read by pysubs2. Its reader of SubRip and WebVTT draws a timing line that it cannot read as text of the
cue before and takes a sentence with two times for a timing line, so these two are read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from videor2_rl.video.encodings import decoded

_NUMBERS = r"(?:(\d{1,4})\s*:\s*)?(\d{1,2})\s*:\s*(\d{1,2})"
_TIME = rf"{_NUMBERS}(?:\s*[,.:]\s*(\d{{1,3}}))?"
_EXACT_TIME = rf"{_NUMBERS}\s*[,.:]\s*(\d{{1,3}})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?![\d:])")
_LOOSE_TIMING = re.compile(rf"\s*{_EXACT_TIME}\s*(?:-{{1,2}}>?|[\u2013\u2014=]>?|\u2192)\s*{_EXACT_TIME}\s*")
"""Another arrow: only alone on its line and with milliseconds, since a sentence may hold such arrows."""
_BROKEN_TIMING = re.compile(r"\s*(?:-?\d+\s*[:;.].*)?-->|\s*-?\d+\s*:[\s\d:;,.-]*(?:->|\u2192|=>)[\s\d:;,.-]*$")
_FRAMES = re.compile(r"\{\d+\}\{\d+\}")
_TAG = re.compile(
    r"</?(?:[ibus]|em|strong|small|big|strike|sub|sup|ruby|rt)\s*/?>|</?font(?:\s[^<>]*)?>|<br\s*/?>"
    r"|<\d[\d:.]*>|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_VTT_TAG = re.compile(r"</?(?:c|v|lang|[ibu]|ruby|rt)(?:\.[^<>\s]*)?(?:\s[^<>]*)?>")
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")
"""Marks of direction, joins and variants: a font has no shape for them."""
_SLACK_S = 0.05


@dataclass(frozen=True)
class Cue:
    """One subtitle and when it is shown."""

    start_s: float
    end_s: float
    text: str
    """One line of plain text."""


@dataclass(frozen=True)
class Subtitles:
    """What a file came to."""

    cues: tuple[Cue, ...]
    encoding: str | None
    """None: it could not be told."""
    fault: str
    """Why there are no cues; empty where there are."""
    unreadable: int
    """Timing lines that cannot be read; what follows them is left out."""


def read_subtitles(file: str | Path, *, encoding: str | None = None) -> Subtitles:
    """A file's cues; one that cannot be opened is a fault as any other."""
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        return Subtitles((), None, f"cannot be opened ({error.strerror})", 0)
    return parse_subtitles(data, encoding=encoding)


def parse_subtitles(data: bytes, *, encoding: str | None = None) -> Subtitles:
    """The cues of SubRip, WebVTT, ASS or SSA.

    Args:
        encoding: what the bytes are; None finds out.
    """
    found = decoded(data, encoding)
    if found is None:
        return Subtitles((), None, "its encoding cannot be told; name it with video.subtitle_encoding", 0)
    text, name = found
    text = re.sub(r"\r\n?", "\n", text.lstrip("\ufeff"))
    unreadable = 0
    fault = "no cue in it can be read"
    if re.search(r"^\[(?:Script Info|V4\+? Styles|Events)\]", text, re.MULTILINE | re.IGNORECASE):
        cues = _substation(text)
    elif not text.strip():
        cues, fault = [], "it is empty"
    elif _FRAMES.match(text.lstrip()):
        cues, fault = [], "MicroDVD counts frames instead of seconds; convert it to .srt"
    else:
        cues, unreadable = _timed_lines(text)
    ordered = tuple(sorted(cues, key=lambda cue: cue.start_s))
    return Subtitles(ordered, name, "" if ordered else fault, unreadable)


def parse_srt(data: bytes) -> tuple[Cue, ...]:
    """Cues in order of their start; what is no cue is passed over.

    Takes what is found in the wild: byte order marks, CRLF, tags, a period before the milliseconds, missing hours,
    missing numbers, spaces in times, other arrows. A timing line that cannot be read takes its text along.
    """
    return parse_subtitles(data).cues


def active_text(cues: tuple[Cue, ...], time_s: float) -> str:
    """What is shown at `time_s`, overlapping cues one after the other; empty where there is nothing.

    A cue is active from 50 ms before its start to 50 ms after its end; where that makes two cues overlap that merely
    follow each other, the one that truly covers the time counts alone.
    """
    exact = [cue.text for cue in cues if cue.start_s <= time_s < cue.end_s]
    near = [cue.text for cue in cues if cue.start_s - _SLACK_S <= time_s <= cue.end_s + _SLACK_S]
    return " ".join(exact or near)


def _timed_lines(text: str) -> tuple[list[Cue], int]:
    """Cues of SubRip and WebVTT, and how many timing lines cannot be read."""
    is_vtt = text.lstrip().startswith("WEBVTT")
    lines = text.split("\n")
    marks = [(i, _TIMING.match(line) or _LOOSE_TIMING.fullmatch(line)) for i, line in enumerate(lines)]
    timings = [(i, match) for i, match in marks if match is not None or _BROKEN_TIMING.match(lines[i])]
    cues = []
    for number, (i, match) in enumerate(timings):
        if match is None:
            continue
        is_last = number + 1 == len(timings)
        body = lines[i + 1 : len(lines) if is_last else timings[number + 1][0]]
        if is_vtt:
            # Comments, styles and the next cue's name come after a blank line.
            body = body[: next((n for n, line in enumerate(body) if not line.strip()), len(body))]
        elif not is_last and body and body[-1].strip().isdigit():
            # The next cue's number. A spoken number cannot stand there: a cue's own text comes first.
            body = body[:-1]
        cue = _cue(match, " ".join(body), is_vtt=is_vtt)
        if cue is not None:
            cues.append(cue)
    return cues, sum(match is None for _, match in timings)


def _cue(match: re.Match[str], marked: str, *, is_vtt: bool) -> Cue | None:
    start_s, end_s = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
    text = _plain(_VTT_TAG.sub("", marked) if is_vtt else marked)
    return Cue(start_s, end_s, text) if text and end_s > start_s else None


def _plain(marked: str) -> str:
    """One line without tags; `<` and `>` that are no tag stay."""
    bare = _TAG.sub(lambda tag: " " if tag[0].lower().startswith("<br") else "", marked)
    return " ".join(_INVISIBLE.sub("", unescape(bare)).split())


def _substation(text: str) -> list[Cue]:
    from pysubs2 import SSAFile

    try:
        # An old script is known by its styles; both have the same events.
        events = SSAFile.from_string(text, format_="ass" if "v4+" in text.lower() else "ssa").events
    except (ValueError, KeyError, IndexError, AttributeError):
        return []
    shown = ((event, _plain(event.plaintext)) for event in events if not event.is_comment and not event.is_drawing)
    return [
        Cue(event.start / 1000, event.end / 1000, line) for event, line in shown if line and event.end > event.start
    ]


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    milliseconds = int((fraction or "0").ljust(3, "0"))
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + milliseconds / 1000
