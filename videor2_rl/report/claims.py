"""What a logged row says in words: what kept a claim from matching, and which answer was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SAME_WORDS = 0.6
"""Share of the words of both sentences that have to be the same: it only names what a reader would see anyway."""
OUTCOMES = {
    "matched": "",
    "time": "no event at this time",
    "contrast": "another event",
    "similarity": "another event",
    "taken": "event already claimed",
}
"""What kept a claim from matching -> in words."""


def shift_s(claim: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds by which a claim is later than the nearest event of nearly the same words (earlier: negative, between its
    start and end: 0); None where no event has them."""
    words = _words(claim["text"])
    gaps = [
        _gap(claim["start_s"], event) for event in references if _share(words, _words(event["text"])) >= _SAME_WORDS
    ]
    return min(gaps, key=abs, default=None)


def note_of(claim: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> str:
    """What kept a claim from matching; empty where it matched."""
    if claim["outcome"] == "time":
        shift = shift_s(claim, references)
        if shift is not None and shift != 0:
            return f"{abs(shift):g} s {'late' if shift > 0 else 'early'}"
    return OUTCOMES.get(claim["outcome"], claim["outcome"])


def _gap(time_s: float, event: Mapping[str, Any]) -> float:
    if time_s > event["end_s"]:
        return round(float(time_s - event["end_s"]), 2)
    return round(min(0.0, float(time_s - event["start_s"])), 2)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _share(one: frozenset[str], two: frozenset[str]) -> float:
    return len(one & two) / max(1, len(one | two))


def expected_answer(target: str) -> str:
    """What stands in the last answer block of a target; all of one that has none."""
    blocks = re.findall(r"<answer>(.*?)</answer>", target, flags=re.DOTALL)
    return str(blocks[-1]).strip() if blocks else target
