"""The official reward of one response: format + accuracy + gate x TAR, where every mishap pays 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rewards.official import answers
from rewards.official.alignment import (
    Event,
    Pair,
    Unreadable,
    cosines,
    match,
    read_events,
    reply_object,
    touching,
)
from rewards.terms.accuracy import Answer, Kind, read_answer, target_options
from rewards.terms.consistency import read_conclusion
from rewards.text.choices import normalise
from rewards.text.claims import read_claims
from rewards.text.parsing import words
from rewards.types import (
    Evidence,
    OfficialConfig,
    Scored,
    Similarity,
    Target,
    Verdict,
    failed,
    scored,
)

_KINDS: Mapping[str, Kind] = {"multiple choice": "choice", "numerical": "number", "regression": "number"}


@dataclass(frozen=True)
class _Reading:
    """What the gate and the matching share."""

    claims: tuple[Event, ...]
    references: tuple[Event, ...]
    pairs: list[Pair]
    """Those that touch in time."""
    fault: str | None
    """Why the paper's code would have raised; None: it would not."""


def score_response(
    response: str, target: Target, config: OfficialConfig, *, similarity: Similarity, evidence: Evidence
) -> Scored:
    """Score one response as the paper's code does, given the same claims, similarities and judge replies.

    Nothing fails: a judge's failed call, an unreadable verdict and an exception in the code pay 0. Where neither claims
    nor a reply are given, the config says whether our own rules read them or the term pays 0.

    Args:
        response: the decoded text, without special tokens.
        similarity: cosines of claim and reference sentences, called at most once.
        evidence: claims and replies; here they always win over the rules.
    """
    consistency = _consistency(response, target, config, evidence)
    reading = _read(response, target, config, evidence)
    terms = {
        "format": answers.format_verdict(response),
        "accuracy": answers.accuracy_verdict(response, target.solution),
        "consistency": consistency,
        "temporal_alignment": _alignment(reading, consistency, config, similarity),
    }
    reward = sum(weight * (terms[name].value or 0.0) for name, weight in term_weights(config).items())
    return Scored(reward, terms, _metrics(terms))


def term_weights(config: OfficialConfig) -> dict[str, float]:
    """The weight of each term; consistency pays only as the gate."""
    return {
        "format": config.format.weight,
        "accuracy": config.accuracy.weight,
        "consistency": 0.0,
        "temporal_alignment": config.temporal_alignment.weight,
    }


def sentences_to_encode(response: str, target: Target, config: OfficialConfig, evidence: Evidence) -> list[str]:
    """The sentences whose similarity `score_response` will ask for."""
    reading = _read(response, target, config, evidence)
    return [
        *(reading.claims[row].text for row, _ in reading.pairs),
        *(reading.references[column].text for _, column in reading.pairs),
    ]


def _read(response: str, target: Target, config: OfficialConfig, evidence: Evidence) -> _Reading:
    grounding = target.temporal_grounding or {}
    try:
        claims = read_events(_claims(response, target, config, evidence))
        references = _read_references(tuple(grounding.items()))
    except Unreadable as fault:
        return _Reading((), (), [], str(fault))
    pairs = touching(claims, references, buffer_seconds=config.temporal_alignment.buffer_seconds)
    return _Reading(claims, references, pairs, None)


@lru_cache(maxsize=1024)
def _read_references(grounding: tuple[tuple[str, str], ...]) -> tuple[Event, ...]:
    """Cached by content: the responses of a group share their target."""
    return read_events(dict(grounding))


def _claims(response: str, target: Target, config: OfficialConfig, evidence: Evidence) -> Any:
    """Time key -> sentence, or whatever else the judge's reply holds."""
    if evidence.claims is not None:
        return evidence.claims
    reply = evidence.judge.get("claims")
    if reply is not None:
        if reply.text is None:
            raise Unreadable(f"claims: {reply.failure}")
        return reply_object(reply.text.strip())
    if config.temporal_alignment.claims == "judge":
        raise Unreadable("claims: the judge was not asked")
    think = normalise(answers.first_block(response, "think"))
    conclusion = read_conclusion(think, kind=_kind(target), options=target_options(target))
    found = read_claims(think, conclusion=conclusion.span)
    return {f"{claim.start_s:.6f} to {claim.end_s:.6f}": claim.text for claim in found}


def _consistency(response: str, target: Target, config: OfficialConfig, evidence: Evidence) -> Verdict:
    reply = evidence.judge.get("consistency")
    if reply is None and config.consistency.reader == "rules":
        return _consistency_by_rules(response, target)
    if reply is None or reply.text is None:
        return failed(f"consistency: {reply.failure if reply else 'the judge was not asked'}")
    decision = read_decision(reply.text)
    return scored(float(decision is True), {"decision": decision, "reply": reply.text})


def read_decision(reply: str) -> bool | None:
    """The first line that is not blank: what it starts with, else which of TRUE and FALSE it holds alone; any case.

    So "NOT TRUE" and "untrue" are true. None: neither or both.
    """
    lines = (line.strip() for line in reply.strip().splitlines())
    first = next((line for line in lines if line), "").upper()
    for word, decision in (("TRUE", True), ("FALSE", False)):
        if first.startswith(word):
            return decision
    return ("TRUE" in first) if ("TRUE" in first) != ("FALSE" in first) else None


def _consistency_by_rules(response: str, target: Target) -> Verdict:
    """Our reader's word for it, where no judge was asked; what it cannot read pays 0, as an undecided judge does."""
    kind, options = _kind(target), target_options(target)
    conclusion = read_conclusion(normalise(answers.first_block(response, "think")), kind=kind, options=options).answer
    answer = read_answer(answers.first_block(response, "answer"), kind, options)
    agree = conclusion is not None and answer is not None and _same(answer, conclusion)
    return scored(float(agree), {"conclusion": conclusion, "answer": answer, "how": "rules"})


def _same(answer: Answer, conclusion: Answer) -> bool:
    if isinstance(answer, float) and isinstance(conclusion, float):
        return math.isclose(answer, conclusion, rel_tol=1e-3)
    if answer == conclusion:
        return True
    spoken, sought = words(str(conclusion)), words(str(answer))
    return bool(sought) and f" {' '.join(sought)} " in f" {' '.join(spoken)} "


def _kind(target: Target) -> Kind:
    return _KINDS.get(answers.question_type(answers.solution_answer(target.solution)), "text")


def _alignment(reading: _Reading, consistency: Verdict, config: OfficialConfig, similarity: Similarity) -> Verdict:
    """Gate times TAR, TAR being matched claims by claims; 0 with an empty side."""
    if reading.fault is not None:
        return scored(0.0, {"reason": reading.fault})
    if consistency.value is None:
        return scored(0.0, {"reason": consistency.detail["reason"]})
    claims, references = reading.claims, reading.references
    similarities = cosines(claims, references, reading.pairs, similarity)
    matched = match(similarities, threshold=config.temporal_alignment.similarity_threshold)
    precision = len(matched) / max(1, len(claims))
    both = len(claims) + len(references)
    return scored(
        consistency.value * precision,
        {
            "precision": precision,
            "recall": len(matched) / max(1, len(references)),
            "f1": 2 * len(matched) / max(1, both),
            "gate": consistency.value,
            "claims": _describe_claims(claims, similarities, matched),
            "references": _describe_references(references, {column: row for row, column in matched.items()}),
        },
    )


def _describe_claims(
    claims: tuple[Event, ...], similarities: Mapping[Pair, float], matched: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Each claim with the reference it took, or why it took none, and the similarity that decided."""
    best: dict[int, float] = {}
    for (row, _), value in similarities.items():
        best[row] = max(value, best.get(row, -1.0))
    described = []
    for row, claim in enumerate(claims):
        column = matched.get(row)
        outcome = "matched" if column is not None else "similarity" if row in best else "time"
        described.append(
            {
                "start_s": claim.start_s,
                "end_s": claim.end_s,
                "text": claim.text,
                "reference": column,
                "outcome": outcome,
                "similarity": best.get(row) if column is None else similarities[row, column],
            }
        )
    return described


def _describe_references(references: tuple[Event, ...], matched: Mapping[int, int]) -> list[dict[str, Any]]:
    return [
        {"start_s": event.start_s, "end_s": event.end_s, "text": event.text, "claim": matched.get(column)}
        for column, event in enumerate(references)
    ]


def _metrics(terms: Mapping[str, Verdict]) -> dict[str, float | None]:
    alignment = terms["temporal_alignment"].detail
    claims = alignment.get("claims")
    return {
        "accuracy": terms["accuracy"].value,
        "format": terms["format"].value,
        **{f"tar_{name}": alignment.get(name) for name in ("precision", "recall", "f1")},
        "tac": terms["consistency"].value,
        "num_claims": None if claims is None else float(len(claims)),
    }
