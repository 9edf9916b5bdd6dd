"""The Temporal Alignment Reward: claims of the think text against the sample's temporal grounding.

A claim and a reference match when the gap between their intervals is at most the buffer, the claim's range is not much
longer than the reference's, their sentences are similar, and no contrast set sets them apart. Matching is one to one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from rewards.match.alignment import Interval, chance, counts, paid_statistic, restrict, shifted
from rewards.match.contrast import contrast
from rewards.match.matching import Pair, match_greedy, match_optimal
from rewards.text.claims import MAX_CLAIMS, Claim, tidy
from rewards.text.times import parse_time_key
from rewards.types import Similarity, TemporalAlignmentConfig, Verdict, abstained, failed, scored

# Of claims that crowd around the references, the guard compares this many pairs; the rest matches nothing.
_MAX_COMPARED = 512


@dataclass(frozen=True)
class Reference:
    """One event of the temporal grounding."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Candidates:
    """Which claims could match which references, before anything is said about similarity."""

    in_place: tuple[Pair, ...]
    """In time, and the contrast guard does not set the sentences apart, so similarity decides. By claim, reference."""
    shifts: tuple[tuple[Pair, ...], ...]
    """The same after each shift of the claims in time; empty without `chance_correction`."""
    in_time: frozenset[int]
    """Claims with a reference in time, contrasts or not."""

    @property
    def undecided(self) -> tuple[Pair, ...]:
        """All pairs whose similarity is needed."""
        return tuple(dict.fromkeys(chain(self.in_place, *self.shifts)))


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


def claims_of_pairs(claims: Iterable[tuple[str, Any]]) -> tuple[Claim, ...]:
    """The first 256 claims that somebody else extracted, in order, without unreadable keys and blank sentences."""
    texts = ((key, sentence) for key, sentence in claims if isinstance(sentence, str))
    read = ((key, parse_time_key(key), tidy(sentence)) for key, sentence in islice(texts, MAX_CLAIMS))
    return tuple(Claim(interval[0], interval[1], text, key) for key, interval, text in read if interval and text)


def find_candidates(
    claims: Sequence[Claim], references: Sequence[Reference], *, config: TemporalAlignmentConfig
) -> Candidates:
    """Apply the rules that need no similarity: time, range length, contrast."""
    times = [(claim.start_s, claim.end_s) for claim in claims]
    in_time = _in_time(times, references, config)
    shifts = []
    if config.chance_correction and claims and references:
        spans = [(event.start_s, event.end_s) for event in references]
        shifts = [
            _in_time(moved, references, config) for moved in shifted(times, spans, buffer_seconds=config.buffer_seconds)
        ]

    def compatible(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        if not config.contrast_guard:
            return tuple(pairs)
        return tuple(
            (row, column)
            for row, column in pairs[:_MAX_COMPARED]
            if contrast(claims[row].text, references[column].text) is None
        )

    return Candidates(
        in_place=compatible(in_time),
        shifts=tuple(compatible(pairs) for pairs in shifts),
        in_time=frozenset(row for row, _ in in_time),
    )


def _in_time(
    claims: Sequence[Interval], references: Sequence[Reference], config: TemporalAlignmentConfig
) -> list[Pair]:
    """Pairs whose gap is within the buffer and whose range is within the limit."""
    # Times are decimal fractions; 5.3 - 3.3 must not exceed a buffer of 2.
    buffer_s = config.buffer_seconds + 1e-6
    limit_s = math.inf if config.max_range_excess_seconds is None else config.max_range_excess_seconds + 1e-6
    return [
        (row, column)
        for row, (start_s, end_s) in enumerate(claims)
        for column, event in enumerate(references)
        if start_s - event.end_s <= buffer_s
        and event.start_s - end_s <= buffer_s
        and (end_s - start_s) - (event.end_s - event.start_s) <= limit_s
    ]


def temporal_verdict(
    claims: Sequence[Claim],
    references: Sequence[Reference] | None,
    candidates: Candidates | None,
    *,
    gate: float,
    config: TemporalAlignmentConfig,
    similarity: Similarity,
) -> Verdict:
    """Gate times the configured statistic of the matching (`alignment.paid_statistic`), less chance where configured.

    Each reference counts once, so a claim repeated earns nothing more. The detail has the plain counts as well
    (`alignment.counts`), whatever is paid.

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
    if not all(map(math.isfinite, cosines.values())):
        return failed("a sentence similarity is not finite")
    times = [(claim.start_s, claim.end_s) for claim in claims]
    spans = [(event.start_s, event.end_s) for event in references]
    allowed = restrict(cosines, candidates.in_place, threshold=config.similarity_threshold)
    pairs = _match(allowed, times, config)
    value = paid_statistic(pairs, times, spans, config=config)
    detail: dict[str, Any] = {**counts(pairs, num_claims=len(claims), num_references=len(references)), "gate": gate}
    if config.chance_correction:
        detail["chance"] = _by_chance(cosines, candidates, times, spans, config)
        value = max(0.0, value - detail["chance"])
    detail["claims"] = _describe_claims(claims, candidates.in_time, cosines, allowed, dict(pairs))
    detail["references"] = _describe_references(references, {column: row for row, column in pairs})
    return scored(gate * value, detail)


def _by_chance(
    cosines: Mapping[Pair, float],
    candidates: Candidates,
    claims: Sequence[Interval],
    references: Sequence[Interval],
    config: TemporalAlignmentConfig,
) -> float:
    """The mean statistic over the candidates' shifts; 0 without a claim."""
    if not claims:
        return 0.0
    moved = shifted(claims, references, buffer_seconds=config.buffer_seconds)
    matchings = [
        _match(restrict(cosines, pairs, threshold=config.similarity_threshold), there, config)
        for pairs, there in zip(candidates.shifts, moved, strict=True)
    ]
    return chance(matchings, moved, references, config=config)


def _match(allowed: Mapping[Pair, float], claims: Sequence[Interval], config: TemporalAlignmentConfig) -> list[Pair]:
    if config.matching == "optimal":
        return match_optimal(allowed)
    return match_greedy(allowed, order=sorted(range(len(claims)), key=lambda row: sum(claims[row])))


def _cosines(
    claims: Sequence[Claim], references: Sequence[Reference], undecided: Sequence[Pair], similarity: Similarity
) -> dict[Pair, float]:
    """The cosine of each undecided pair; each sentence is asked for once."""
    if not undecided:
        return {}
    ours = _places([claims[row].text for row, _ in undecided])
    theirs = _places([references[column].text for _, column in undecided])
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
