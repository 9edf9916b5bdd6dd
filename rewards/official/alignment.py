"""Temporal alignment as the paper's code computes it: loose time keys, whole seconds, greedy matching."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from rewards.types import Similarity

_SEPARATOR = re.compile(r"\s*(?:[-\u2013\u2014]|to)\s*", re.IGNORECASE)

Pair: TypeAlias = tuple[int, int]
"""Index of a claim, index of a reference."""


class Unreadable(ValueError):
    """Where the paper's code raises, which its caller turns into a reward of 0."""


class Event(NamedTuple):
    """A claim of the response or a reference, in whole seconds. A named tuple, since every response makes many."""

    start_s: int
    end_s: int
    middle_s: float
    text: str


def reply_object(reply: str) -> Any:
    """Whatever JSON a judge's reply is, else the object from its first brace to its last, else {}."""
    try:
        return json.loads(reply)
    except (ValueError, RecursionError):
        pass
    start, end = reply.find("{"), reply.rfind("}")
    try:
        return json.loads(reply[start : end + 1]) if 0 <= start < end else {}
    except (ValueError, RecursionError):
        return {}


def read_events(events: Any) -> tuple[Event, ...]:
    """Events of a map time key -> sentence, by the middle of their interval, equal middles in the map's order.

    Of keys that mean the same interval the last one's sentence stays, at the first one's place. Open-ended and
    unreadable keys and empty sentences drop out.

    Args:
        events: usually a map; a text that holds one (a reply that is a JSON string) has its keys read strictly.

    Raises:
        Unreadable: anything else, a sentence that is no text, a time without bound.
    """
    try:
        found = _strict_events(events.strip()) if isinstance(events, str) else _loose_events(events)
        return tuple(sorted(found, key=lambda event: event.middle_s))
    except (ValueError, AttributeError, OverflowError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from None


def _loose_events(events: Any) -> Iterator[Event]:
    sentences: dict[tuple[int, int], Any] = {}
    for key, sentence in events.items():
        interval = interval_of(key)
        if interval is not None:
            sentences[interval] = sentence
    for (start, end), sentence in sentences.items():
        text = (sentence or "").strip()
        if text:
            # A point keeps its whole number: half of twice a huge one overflows.
            yield Event(start, end, start if start == end else (start + end) / 2, text)


@lru_cache(maxsize=16_384)
def interval_of(key: str) -> tuple[int, int] | None:
    """Start and end of a time key in whole seconds, halves rounded to even; None: unreadable or open-ended.

    Raises:
        OverflowError: a time without bound, `inf` or `1e999`.
    """
    parts = _SEPARATOR.split(key.strip())
    if len(parts) > 2:
        return None
    times = [_loose_seconds(part) for part in parts]
    start, end = times[0], times[-1]
    return None if start is None or end is None else (min(start, end), max(start, end))


def _loose_seconds(point: str) -> int | None:
    text = point.strip().strip("+.,")
    hours_to_seconds = text.split(":")
    try:
        if len(hours_to_seconds) == 1:
            return _whole(text)
        if len(hours_to_seconds) > 3:
            return None
        hours, minutes, seconds = [*["0"] * (3 - len(hours_to_seconds)), *hours_to_seconds]
        return round(int(hours) * 3600 + int(minutes) * 60 + float(seconds))
    except ValueError:
        return None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return round(float(text))


def _strict_events(text: str) -> Iterator[Event]:
    """Keys `MM:SS`, `HH:MM:SS` and ranges of them by a hyphen; equal ones stay apart, a reversed range is its start."""
    try:
        events = json.loads(text)
    except json.JSONDecodeError:
        try:
            events = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return
    except (ValueError, RecursionError):
        return
    for key, sentence in events.items():
        words = (sentence or "").strip()
        if words:
            first, _, last = str(key).partition("-")
            start = _strict_seconds(first)
            end = _strict_seconds(last) if "-" in str(key) else start
            yield Event(start, max(start, end), start if "-" not in str(key) else (start + end) / 2, words)


def _strict_seconds(point: str) -> int:
    parts = [int(part) for part in point.strip().split(":")]
    if len(parts) not in (2, 3):
        raise ValueError(f"{point!r} is neither MM:SS nor HH:MM:SS")
    return sum(part * scale for part, scale in zip(reversed(parts), (1, 60, 3600), strict=False))


def touching(claims: Sequence[Event], references: Sequence[Event], *, buffer_seconds: float) -> list[Pair]:
    """Pairs whose intervals touch when each is widened by the buffer, so with a gap of up to twice the buffer."""
    gap_s = 2 * buffer_seconds
    return [
        (row, column)
        for row, claim in enumerate(claims)
        for column, event in enumerate(references)
        if claim.start_s - event.end_s <= gap_s and event.start_s - claim.end_s <= gap_s
    ]


def cosines(
    claims: Sequence[Event], references: Sequence[Event], pairs: Sequence[Pair], similarity: Similarity
) -> dict[Pair, float]:
    """The similarity of each of these pairs; `similarity` is called once at most, each sentence given once."""
    if not pairs:
        return {}
    rows = {text: place for place, text in enumerate(dict.fromkeys(claims[row].text for row, _ in pairs))}
    columns = {text: place for place, text in enumerate(dict.fromkeys(references[column].text for _, column in pairs))}
    table = similarity(list(rows), list(columns)).tolist()
    return {(row, column): table[rows[claims[row].text]][columns[references[column].text]] for row, column in pairs}


def match(similarities: Mapping[Pair, float], *, threshold: float) -> dict[int, int]:
    """Claim -> reference: each claim in order takes the most similar free reference from the threshold on.

    Of equally similar references the first is taken; a similarity that is no number matches nothing.

    Args:
        similarities: of the pairs that touch in time, by claim and then by reference.
    """
    best: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    current = -1
    for (row, column), value in similarities.items():
        if row != current and current in best:
            taken.add(best[current][0])
        current = row
        if column not in taken and value >= threshold and value > best.get(row, (0, -1.0))[1]:
            best[row] = (column, value)
    return {row: column for row, (column, _) in best.items()}
