"""The Temporal Alignment Reward: claims of the think text against the sample's temporal grounding.

A claim and a reference match when the gap between their intervals is at most the buffer, the claim's range is not much
longer than the reference's, their sentences are similar, and no contrast set sets them apart. Matching is one to one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import linear_sum_assignment

from rewards.claims import MAX_CLAIMS, Claim, tidy
from rewards.contrast import contrasts
from rewards.types import Similarity, TemporalAlignmentConfig, Verdict, abstained, failed, scored

_POINT = r"\d{1,6}:\d{1,2}(?::\d{1,2})?(?:\.\d+)?|\d{1,6}(?:\.\d+)?\s*(?:s|sec|secs|seconds?)?"
_KEY = re.compile(
    rf"[\s\[(<]*(?:from\s+)?({_POINT})(?:\s*(?:-|[\u2010-\u2015\u2212~]|\bto\b)\s*({_POINT}))?[\s\])>]*", re.IGNORECASE
)


@dataclass(frozen=True)
class Reference:
    """One event of the temporal grounding."""

    start_s: float
    end_s: float
    text: str


Pair: TypeAlias = tuple[int, int]
"""Index of a claim, index of a reference."""


@dataclass(frozen=True)
class Candidates:
    """Which claims could match which references, before anything is said about similarity."""

    undecided: tuple[Pair, ...]
    """In time, and no contrast set sets the sentences apart, so similarity decides. By claim, then by reference."""
    in_time: frozenset[int]
    """Claims with a reference in time, contrasts or not."""


def parse_time_key(key: str) -> tuple[float, float] | None:
    """Start and end in seconds of a time key, read loosely; None where it is open-ended or unreadable.

    `MM:SS`, `HH:MM:SS`, seconds (`5`, `5.5 s`), and ranges of them by hyphen, dash or `to`; a reversed range is
    swapped. Fractions are kept, where the paper's code rounds to whole seconds.
    """
    match = _KEY.fullmatch(key.strip())
    if not match:
        return None
    start = _seconds(match[1])
    end = start if match[2] is None else _seconds(match[2])
    return min(start, end), max(start, end)


def _seconds(point: str) -> float:
    value = 0.0
    for part in point.split(":"):
        value = value * 60 + float(re.sub(r"[^\d.]", "", part))
    return value


def read_references(temporal_grounding: Mapping[str, str]) -> list[Reference]:
    """The grounding's events by start; unreadable keys and blank sentences are left out.

    Of keys that mean the same time (`00:05`, `0:05`) the last wins.
    """
    by_time: dict[tuple[float, float], str] = {}
    for key, sentence in temporal_grounding.items():
        interval = parse_time_key(key)
        text = tidy(sentence)
        if interval is not None and text:
            by_time[interval] = text
    return [Reference(start, end, text) for (start, end), text in sorted(by_time.items())]


def claims_of_map(claims: Mapping[str, Any]) -> tuple[Claim, ...]:
    """The first 256 claims that somebody else extracted, in order, without unreadable keys and blank sentences."""
    texts = ((key, sentence) for key, sentence in claims.items() if isinstance(sentence, str))
    read = ((key, parse_time_key(key), tidy(sentence)) for key, sentence in islice(texts, MAX_CLAIMS))
    return tuple(Claim(interval[0], interval[1], text, key) for key, interval, text in read if interval and text)


def find_candidates(
    claims: Sequence[Claim], references: Sequence[Reference], *, config: TemporalAlignmentConfig
) -> Candidates:
    """Apply the rules that need no similarity: time, range length, contrast."""
    # Times are decimal fractions; 5.3 - 3.3 must not exceed a buffer of 2.
    buffer_s = config.buffer_seconds + 1e-6
    limit_s = math.inf if config.max_range_excess_seconds is None else config.max_range_excess_seconds + 1e-6
    in_time = [
        (row, column)
        for row, claim in enumerate(claims)
        for column, event in enumerate(references)
        if claim.start_s - event.end_s <= buffer_s
        and event.start_s - claim.end_s <= buffer_s
        and (claim.end_s - claim.start_s) - (event.end_s - event.start_s) <= limit_s
    ]
    undecided = in_time
    if config.contrast_guard:
        undecided = [pair for pair in in_time if not contrasts(claims[pair[0]].text, references[pair[1]].text)]
    return Candidates(tuple(undecided), frozenset(row for row, _ in in_time))


def match_optimal(allowed: Mapping[Pair, float]) -> list[Pair]:
    """One-to-one pairs, as many as possible, among those the greatest sum of similarity.

    Args:
        allowed: similarity in [-1, 1] of the pairs that may match.
    """
    rows, columns = sorted({row for row, _ in allowed}), sorted({column for _, column in allowed})
    if len(rows) == len(columns) == len(allowed):
        return sorted(allowed)  # Nothing competes.
    # One pair more outweighs any gain in similarity, which over n pairs is at most 2 n.
    bonus = 2.0 * min(len(rows), len(columns)) + 1.0
    worth = np.zeros((len(rows), len(columns)))
    for (row, column), similarity in allowed.items():
        worth[rows.index(row), columns.index(column)] = bonus + similarity
    chosen = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
    pairs = [(rows[place], columns[other]) for place, other in chosen]
    return [pair for pair in pairs if pair in allowed]


def match_greedy(allowed: Mapping[Pair, float], *, order: Sequence[int]) -> list[Pair]:
    """Each claim, in `order`, takes the most similar allowed reference that is left (arXiv:2511.23478).

    Of equally similar references the earliest is taken.
    """
    by_row: dict[int, list[int]] = {}
    for row, column in sorted(allowed):
        by_row.setdefault(row, []).append(column)
    taken: dict[int, int] = {}
    for row in order:
        free = [column for column in by_row.get(row, ()) if column not in taken]
        if free:
            best = max(allowed[row, column] for column in free)
            taken[next(column for column in free if allowed[row, column] == best)] = row
    return sorted((row, column) for column, row in taken.items())


def temporal_verdict(
    claims: Sequence[Claim],
    references: Sequence[Reference] | None,
    candidates: Candidates | None,
    *,
    gate: float,
    config: TemporalAlignmentConfig,
    similarity: Similarity,
) -> Verdict:
    """Gate times the configured statistic of the matching.

    precision = matched / claims, recall = matched / references, f1 their harmonic mean; all 0 without a claim. Each
    reference counts once, so a claim repeated earns nothing more.

    Args:
        references: None where the sample has no temporal grounding, empty where none of its keys is readable: abstains.
        candidates: `find_candidates` of the two; None with `references` None.
        gate: in [0, 1], 1 where the gate is off.
        similarity: called once, with the distinct sentences for which it decides, or not at all.
    """
    if references is None or candidates is None:
        return abstained("no temporal grounding")
    if not references:
        return abstained("no readable time key in the temporal grounding")
    cosines = _cosines(claims, references, candidates.undecided, similarity)
    if not all(math.isfinite(cosine) for cosine in cosines.values()):
        return failed("a sentence similarity is not finite")
    allowed = {pair: cosine for pair, cosine in cosines.items() if cosine >= config.similarity_threshold}
    if config.matching == "optimal":
        pairs = match_optimal(allowed)
    else:
        pairs = match_greedy(allowed, order=sorted(range(len(claims)), key=lambda row: _midpoint(claims[row])))
    precision = len(pairs) / len(claims) if claims else 0.0
    recall = len(pairs) / len(references)
    f1 = 2 * len(pairs) / (len(claims) + len(references))
    statistics = {"precision": precision, "recall": recall, "f1": f1}
    return scored(
        gate * statistics[config.statistic],
        {
            **statistics,
            "gate": gate,
            "claims": _describe_claims(claims, candidates.in_time, cosines, allowed, dict(pairs)),
            "references": _describe_references(references, {column: row for row, column in pairs}),
        },
    )


def _midpoint(claim: Claim) -> float:
    return (claim.start_s + claim.end_s) / 2


def _cosines(
    claims: Sequence[Claim], references: Sequence[Reference], undecided: Sequence[Pair], similarity: Similarity
) -> dict[Pair, float]:
    """The cosine of each undecided pair; each sentence is asked for once."""
    if not undecided:
        return {}
    ours = _places(claims[row].text for row, _ in undecided)
    theirs = _places(references[column].text for _, column in undecided)
    matrix = similarity(list(ours), list(theirs))
    if matrix.shape != (len(ours), len(theirs)):
        raise ValueError(f"similarity gave shape {matrix.shape}, expected {(len(ours), len(theirs))}.")
    table = matrix.tolist()
    return {(row, column): table[ours[claims[row].text]][theirs[references[column].text]] for row, column in undecided}


def _places(texts: Iterable[str]) -> dict[str, int]:
    """Distinct texts -> their place in order of appearance."""
    return {text: place for place, text in enumerate(dict.fromkeys(texts))}


def _describe_claims(
    claims: Sequence[Claim],
    in_time: frozenset[int],
    cosines: Mapping[Pair, float],
    allowed: Mapping[Pair, float],
    matched: Mapping[int, int],
) -> list[dict[str, Any]]:
    """Each claim with the reference it matched, or what kept it from matching, and the similarity that decided."""
    best: dict[int, float] = {}
    for (row, _), cosine in cosines.items():
        best[row] = max(cosine, best.get(row, -1.0))
    could_match = {row for row, _ in allowed}
    described = []
    for row, claim in enumerate(claims):
        column = matched.get(row)
        similarity = best.get(row) if column is None else cosines[row, column]
        if column is not None:
            outcome = "matched"
        elif row in best:
            outcome = "taken" if row in could_match else "similarity"
        else:
            outcome = "contrast" if row in in_time else "time"
        described.append(
            {
                "start_s": claim.start_s,
                "end_s": claim.end_s,
                "text": claim.text,
                "quote": claim.quote,
                "reference": column,
                "outcome": outcome,
                "similarity": similarity,
            }
        )
    return described


def _describe_references(references: Sequence[Reference], matched: Mapping[int, int]) -> list[dict[str, Any]]:
    return [
        {"start_s": event.start_s, "end_s": event.end_s, "text": event.text, "claim": matched.get(column)}
        for column, event in enumerate(references)
    ]
