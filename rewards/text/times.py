"""Times as data has them: the keys of a temporal grounding, and answers that are times."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TypeAlias

Interval: TypeAlias = tuple[float, float]
"""First and last second; equal for a point in time."""

_HOURS = "(?:h|hrs?|hours?|小时|小時|時間|시간)"
_MINUTES = "(?:m|mins?|minutes?|分钟|分鐘|分|분)"
_SECONDS = "(?:s|secs?|seconds?|秒钟|秒鐘|秒|초)"
_FRACTION = r"(?:\.\d{1,12}|,\d{3}(?!\d))?"
_CLOCK = rf"\d{{1,6}}:\d{{1,2}}(?::\d{{1,2}})?{_FRACTION}"
_PARTS = (
    rf"\d{{1,4}}\s?{_HOURS}(?:\s?\d{{1,2}}\s?{_MINUTES})?(?:\s?\d{{1,2}}(?:\.\d{{1,12}})?\s?{_SECONDS})?"
    rf"|\d{{1,4}}\s?{_MINUTES}(?:\s?\d{{1,2}}(?:\.\d{{1,12}})?\s?{_SECONDS})?"
)
_AMOUNT = r"\d{1,6}(?:\.\d{1,12})?"
_POINT = rf"(?:{_CLOCK}|{_PARTS}|{_AMOUNT}\s?{_SECONDS})"
_ABOUT = r"(?:[~\u2248@]|about\s|around\s|approx\.?\s|ca\.?\s|at\s|from\s|从|從|在|约|約)?\s?(?:第\s?)?"
_JOIN = (
    r"\s?(?:-{1,2}>|=>|\u2192|\u21d2|[-\u2010-\u2015\u2212~\u301c]|\bto\b|\buntil\b|\btill\b|\bthrough\b"
    r"|到|至|から|부터)\s?"
)
_OPEN, _CLOSE = (
    r"[\s\[(<{]*",
    r"[\s\])>}]*(?:まで|까지|之间|之間|の間|时|時|处|處)?[\s\])>}.]*",
)
_KEY = re.compile(
    rf"{_OPEN}{_ABOUT}(?P<first>{_POINT}|{_AMOUNT})(?:{_JOIN}{_ABOUT}(?P<last>{_POINT}|{_AMOUNT}))?{_CLOSE}",
    re.IGNORECASE,
)
_PAIR = re.compile(
    rf"\s*[\[(]\s*(?P<first>{_POINT}|{_AMOUNT})\s*[,;]\s*(?P<last>{_POINT}|{_AMOUNT})\s*[\])]\s*", re.IGNORECASE
)
_BETWEEN = re.compile(
    rf"{_OPEN}between\s(?P<first>{_POINT}|{_AMOUNT})\s(?:and|&)\s(?P<last>{_POINT}|{_AMOUNT}){_CLOSE}", re.IGNORECASE
)
_IN_TEXT = re.compile(
    rf"(?<![\w.:,/])(?P<first>{_POINT}|{_AMOUNT}(?={_JOIN}{_ABOUT}{_POINT}(?![\w:])))(?:{_JOIN}{_ABOUT}(?P<last>{_POINT}))?(?![a-z0-9:])",
    re.IGNORECASE,
)
_MAX_CHARS = 512
_PART = re.compile(rf"(\d+(?:\.\d+)?)\s?({_HOURS}|{_MINUTES}|{_SECONDS})", re.IGNORECASE)


@lru_cache(maxsize=16_384)
def parse_time_key(key: str) -> Interval | None:
    """Start and end in seconds of a time key, read loosely; None where it is open-ended or unreadable.

    `MM:SS`, `HH:MM:SS` (fractions with a point, milliseconds with a comma), seconds (`5`, `5.5 s`, `5秒`), `1m05s`,
    `0h01m05s`, and ranges of them by hyphen, dash, arrow, `to`, or as a list of two (`[5.0, 10.0]`); a reversed range
    is swapped. Fractions are kept, where the paper's code rounds to whole seconds.
    """
    text = unicodedata.normalize("NFKC", key).strip()
    match = (
        (_KEY.fullmatch(text) or _PAIR.fullmatch(text) or _BETWEEN.fullmatch(text)) if len(text) <= _MAX_CHARS else None
    )
    return _interval(match) if match else None


@lru_cache(maxsize=4096)
def whole_time(text: str) -> Interval | None:
    """The time that a text is, when it is nothing else and says so: a clock's two digits of seconds, or a unit."""
    plain = unicodedata.normalize("NFKC", text).strip()
    if not re.search(rf":\d\d|\d\s?(?:{_MINUTES}|{_SECONDS})(?![a-z])", plain, re.IGNORECASE):
        return None
    return parse_time_key(plain)


def times_in(text: str) -> list[Interval]:
    """The times and ranges of times in an answer, in order, of its first 512 characters; a lone number is seconds."""
    plain = unicodedata.normalize("NFKC", text)[:_MAX_CHARS]
    whole = parse_time_key(plain)
    return [whole] if whole is not None else [_interval(match) for match in _IN_TEXT.finditer(plain)]


def _interval(match: re.Match[str]) -> Interval:
    start = _seconds_of(match["first"])
    end = start if match["last"] is None else _seconds_of(match["last"])
    return min(start, end), max(start, end)


def _seconds_of(point: str) -> float:
    if ":" in point:
        value = 0.0
        for part in point.replace(",", ".").split(":"):
            value = value * 60 + float(part)
        return value
    parts = _PART.findall(point)
    if not parts:
        return float(point)
    return sum(float(amount) * _scale(unit) for amount, unit in parts)


def _scale(unit: str) -> float:
    if re.fullmatch(_HOURS, unit, re.IGNORECASE):
        return 3600.0
    return 60.0 if re.fullmatch(_MINUTES, unit, re.IGNORECASE) else 1.0
