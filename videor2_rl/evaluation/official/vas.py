"""The judged Video Attention Score as the paper's script computes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.evaluation.official.cases import CASES

_OBJECT = re.compile(r"\{.*?\}", re.DOTALL)
UNREADABLE = "Failed to parse JSON; defaulting to 0."


def read_score(reply: str) -> tuple[int, str] | None:
    """Score (0-10) and rationale of a judge's reply; None: unreadable.

    The object ends at the first closing brace, so that one in the rationale makes the reply unreadable. Scores are
    rounded half to even and clipped; a number in quotes is none.
    """
    found = _OBJECT.search(reply)
    if found is None:
        return None
    try:
        value = json.loads(found[0])
        score = value.get("score")
        if not isinstance(score, (int, float)):
            return None
        rationale = value.get("rationale")
        return max(0, min(10, round(float(score)))), rationale if isinstance(rationale, str) else ""
    except (ValueError, OverflowError, RecursionError):
        return None


@dataclass(frozen=True)
class Score:
    """One response's score."""

    score: int
    rationale: str
    raw: str
    """The reply that counted."""


def score_replies(first: str, retry: str) -> Score:
    """From the first reply, else from the one to the request for JSON only, else 0. "" stands for no reply."""
    found = read_score(first)
    if found is not None:
        return Score(*found, first)
    return Score(*(read_score(retry) or (0, UNREADABLE)), retry or first)


def benchmark_of(file_name: str) -> str:
    """The benchmark of a log by its name, as this script guesses it: by the front, else by a few words in it."""
    name = file_name.replace(".jsonl", "")
    if "video_mmmu_v2" in name:
        return "video_mmmu_v2"
    if name.split("_")[:2] == ["video", "mmmu"]:
        return "video_mmmu"
    front = next((known for known in CASES if name.startswith(known)), None)
    return front or next((word for word in ("mvbench", "videomathqa", "videomme") if word in name), name.split("_")[0])


def input_text(row: Mapping[str, Any]) -> str | None:
    """The prompt as logged; None: the script leaves the row out."""
    value = row.get("input")
    return value if isinstance(value, str) else None


def sample_id(row: Mapping[str, Any]) -> str:
    """The first identifier of a row or of its doc, as text."""
    doc = row.get("doc")
    names = [row[key] for key in ("id", "qid", "question_id", "doc_id", "uid") if key in row]
    if isinstance(doc, Mapping):
        names += [doc[key] for key in ("id", "question_id") if key in doc]
    return str(names[0]) if names else ""


def summarise(scores: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The content of summary.json: per benchmark and over all samples."""
    scored = {name: list(values) for name, values in scores.items() if values}
    every = [value for values in scored.values() for value in values]
    return {
        "per_benchmark": {
            name: {
                **_extent(values),
                "distribution": {
                    f"{low}-{high}": sum(low <= value <= high for value in values)
                    for low, high in ((0, 2), (3, 5), (6, 8), (9, 10))
                },
            }
            for name, values in scored.items()
        },
        "overall": _extent(every) if every else {},
    }


def _extent(values: Sequence[int]) -> dict[str, Any]:
    return {"n": len(values), "avg": round(sum(values) / len(values), 3), "min": min(values), "max": max(values)}
