"""Reading responses, options and judge replies as the paper's scripts do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_AMOUNT = re.compile(r"[-+]?\$?\s*\d{1,3}(?:,\d{3})*(?:\.\d+)?|[-+]?\$?\s*\d+(?:\.\d+)?")
_MEASURE = re.compile(r"[-+]?[$€£]?\s*(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?\s*%?")
_VSI_LETTER = re.compile(r"\s*([A-Da-d])(\b|[.):\-\s])")
_VSI_OPTION = re.compile(r"\s*([A-Da-d])\s*[.):-]\s*(.*)$")


@dataclass(frozen=True)
class Letters:
    """How one family of scripts finds an option letter in a text."""

    leading: re.Pattern[str]
    anywhere: re.Pattern[str]
    option_line: re.Pattern[str]
    """`A. text` -> letter and text."""


BRACKETED = Letters(
    re.compile(r"\s*\(?\s*([A-Z])\s*[.)|:,-]\s*"),
    re.compile(r"\b([A-Z])\s*[.)|:,-]?\b"),
    re.compile(r"\s*\(?\s*([A-Z])\s*[.):-]\s*(.*)$", re.IGNORECASE),
)
"""MVBench, LongVideoBench, MINERVA, MLVU, VideoMME: `(B)` leads too."""
PLAIN = Letters(
    re.compile(r"\s*([A-Z])\s*[.)|:,-]"),
    re.compile(r"\b([A-Z])\s*[.)|:-]?\b"),
    re.compile(r"\s*([A-Z])\s*[.):-]\s*(.*)$", re.IGNORECASE),
)
"""SciVideoBench, TempCompass, VideoMathQA, MMVU, Video-MMMU."""


def last_blocks(response: str) -> tuple[str, str]:
    """The last think and the last answer block, stripped; "" where there is none. Tags in any case count."""
    thinks, answers = _THINK.findall(response), _ANSWER.findall(response)
    return (thinks[-1].strip() if thinks else ""), (answers[-1].strip() if answers else "")


def response_text(row: dict[str, Any]) -> str:
    """The first response: `filtered_resps` before `resps`, a text or a list (of lists) of texts; else ""."""
    for key in ("filtered_resps", "resps"):
        value = row.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value:
            # An unreadable list is not passed over for the next key.
            return first_text(value)
    return ""


def first_text(value: list[Any]) -> str:
    """The first text of a list, or of the first list in it; else ""."""
    first = value[0] if value else ""
    first = first[0] if isinstance(first, list) and first else first
    return first if isinstance(first, str) else ""


def find_letter(text: Any, num_options: int | None, letters: Letters) -> str | None:
    """A letter at the front with a mark behind it, else the last lone capital, those among the options preferred."""
    if not text:
        return None
    valid = None if num_options is None else {chr(ord("A") + index) for index in range(num_options)}
    leading = letters.leading.match(text)
    if leading and (valid is None or leading[1] in valid):
        return leading[1]
    found: list[str] = letters.anywhere.findall(text)
    # A letter beyond the options still counts where no other is found.
    preferred = [letter for letter in found if letter in valid] if valid else []
    ranked = preferred or found
    return ranked[-1] if ranked else None


def split_options(lines: Sequence[Any], letters: Letters) -> tuple[list[str], list[str]]:
    """`["A. red", "B. green"]` -> letters and texts; a line without a letter gets that of its place."""
    marks = [letters.option_line.match(str(line)) for line in lines]
    names = [mark[1].upper() if mark else chr(ord("A") + index) for index, mark in enumerate(marks)]
    texts = [mark[2].strip() if mark else str(line).strip() for mark, line in zip(marks, lines, strict=True)]
    return names, texts


def letter_of_text(text: Any, candidates: Sequence[str]) -> str | None:
    """The candidate that equals the text but for case and punctuation, else the first that contains it or is in it."""
    if text is None:
        return None
    goal = _alphanumeric(text)
    plain = [_alphanumeric(candidate) for candidate in candidates]
    for index, candidate in enumerate(plain):
        if candidate == goal:
            return chr(ord("A") + index)
    for index, candidate in enumerate(plain):
        if goal in candidate or candidate in goal:
            return chr(ord("A") + index)
    return None


def _alphanumeric(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.strip().lower()).strip()


def open_answers_match(answer: str, truth: str) -> bool:
    """Equal to two decimals, by the first number in each; else one text holds the other."""
    first, second = _number(answer), _number(truth)
    if first is not None and second is not None and round(first, 2) == round(second, 2):
        return True
    return texts_match(answer, truth)


def texts_match(first: str, second: str) -> bool:
    """One holds the other, case, white space, commas and currency signs aside; an empty text matches nothing."""
    one, other = plain_text(first), plain_text(second)
    return bool(one) and bool(other) and (one in other or other in one)


def plain_text(text: str) -> str:
    """Lower case, without commas and currency signs; a space may remain where one of them stood."""
    return re.sub(r"\s+", " ", re.sub(r"[,$%€£₹]", "", text.strip().lower()))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return amount(text)


def amount(text: str) -> float | None:
    """The first number of a text, thousands and dollars read away."""
    found = _AMOUNT.search(text)
    return None if found is None else _float(found[0].replace("$", "").replace(",", "").strip())


def measure(text: str) -> float | None:
    """VSIBench's first number of a text: also with an exponent, a currency or a percent sign."""
    found = _MEASURE.search(text)
    if found is None:
        return None
    return _float(re.sub(r"[,$€£]", "", found[0]).strip().removesuffix("%").strip())


def _float(text: str) -> float | None:
    # A sign apart from its digits ("- 5") is no number.
    try:
        return float(text)
    except ValueError:
        return None


def vsi_letter(text: str, options: Sequence[str]) -> str | None:
    """VSIBench: a lone letter A to D at the front, else the first option whose text stands in it.

    Letters beyond D are never found, and the article in "A chair" is option A.
    """
    if not text:
        return None
    stripped = text.strip()
    leading = _VSI_LETTER.match(stripped)
    if leading:
        return leading[1].upper()
    marks = [_VSI_OPTION.match((option or "").strip()) for option in options]
    bodies = {mark[1].upper(): mark[2].strip() for mark in marks if mark}
    for squeeze in (str.lower, lambda value: re.sub(r"[\W_]+", "", value.lower())):
        for letter, body in bodies.items():
            if body and squeeze(body) in squeeze(stripped):
                return letter
    return None
