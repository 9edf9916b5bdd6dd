"""One response through every term, and the weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from rewards.accuracy import Answer, Kind, accuracy_verdict, answer_kind, read_answer, reference_answer, target_options
from rewards.choices import normalise
from rewards.claims import Claim, read_claims
from rewards.consistency import consistency_verdict, gate, read_conclusion
from rewards.format import format_verdict
from rewards.parsing import Blocks, read_blocks
from rewards.temporal import Candidates, Reference, find_candidates, read_references, temporal_verdict
from rewards.types import RewardConfig, Scored, Similarity, Target, Verdict

METRICS = ("accuracy", "format", "tar_precision", "tar_recall", "tar_f1", "tac", "num_claims")


@dataclass(frozen=True)
class Reading:
    """What the terms share: a response and its target, read once."""

    blocks: Blocks
    kind: Kind
    options: tuple[str, ...]
    reference: Answer
    answer: Answer | None
    consistency: Verdict
    claims: tuple[Claim, ...]
    references: tuple[Reference, ...] | None
    candidates: Candidates | None


@dataclass(frozen=True)
class _ReadTarget:
    kind: Kind
    options: tuple[str, ...]
    answer: Answer
    references: tuple[Reference, ...] | None


def check_target(target: Target) -> None:
    """Fail on a target that cannot be scored against, before a run starts.

    Raises:
        ValueError: an empty solution, one that is not of its kind, an unknown problem_type.
    """
    _read_target(target)


def score_response(response: str, target: Target, config: RewardConfig, *, similarity: Similarity) -> Scored:
    """Score one response by every term.

    The reward sums weight times value over the terms that score; an abstention adds nothing, a failure in a term with a
    weight makes it None. Anything a response may contain yields verdicts; only a bad target raises.

    Args:
        response: the decoded text, without special tokens.
        similarity: cosines of claim and reference sentences, called at most once (`sentences_to_encode` lists them).

    Raises:
        ValueError: the target cannot be scored against (`check_target`), or `similarity` gave another shape.
    """
    reading = read_response(response, target, config)
    terms = {name: term(reading, config, similarity) for name, term in TERMS.items()}
    weights = term_weights(config)
    paying = {name: verdict for name, verdict in terms.items() if weights[name] != 0}
    if any(verdict.status == "failure" for verdict in paying.values()):
        reward = None
    else:
        reward = sum(
            (weights[name] * verdict.value for name, verdict in paying.items() if verdict.value is not None), 0.0
        )
    return Scored(reward, terms, _metrics(terms, num_claims=len(reading.claims)))


def read_response(response: str, target: Target, config: RewardConfig) -> Reading:
    """Read a response against its target, everything but sentence similarity.

    Raises:
        ValueError: as `check_target`.
    """
    read = _read_target(target)
    blocks = read_blocks(response, answer_block=config.answer_block)
    think = normalise(blocks.think or "")
    conclusion = read_conclusion(think, kind=read.kind, options=read.options)
    claims = tuple(read_claims(think, conclusion=conclusion.span))
    return Reading(
        blocks=blocks,
        kind=read.kind,
        options=read.options,
        reference=read.answer,
        answer=None if blocks.answer is None else read_answer(blocks.answer, read.kind, read.options),
        consistency=consistency_verdict(
            conclusion, blocks.answer, kind=read.kind, options=read.options, accuracy=config.accuracy
        ),
        claims=claims,
        references=read.references,
        candidates=None
        if read.references is None
        else find_candidates(claims, read.references, config=config.temporal_alignment),
    )


def _read_target(target: Target) -> _ReadTarget:
    grounding = target.temporal_grounding
    return _read_target_parts(
        target.question,
        target.solution,
        target.options,
        target.problem_type,
        None if grounding is None else tuple(grounding.items()),
    )


@lru_cache(maxsize=1024)
def _read_target_parts(
    question: str,
    solution: str,
    options: tuple[str, ...],
    problem_type: str | None,
    grounding: tuple[tuple[str, str], ...] | None,
) -> _ReadTarget:
    """Cached by content: the responses of a group share their target."""
    target = Target(question, solution, options, problem_type, None if grounding is None else dict(grounding))
    references = None if target.temporal_grounding is None else tuple(read_references(target.temporal_grounding))
    return _ReadTarget(answer_kind(target), target_options(target), reference_answer(target), references)


def sentences_to_encode(responses: Sequence[str], targets: Sequence[Target], config: RewardConfig) -> list[str]:
    """The distinct sentences whose similarity `score_response` will ask for, in order of appearance.

    Only pairs that time and contrast leave undecided need one, so a worker encodes these in one batch and then scores
    each response from its cache.

    Args:
        responses, targets: of equal length, pairwise.
    """
    needed: dict[str, None] = {}
    for response, target in zip(responses, targets, strict=True):
        reading = read_response(response, target, config)
        if reading.references is None or reading.candidates is None:
            continue
        needed.update((reading.claims[row].text, None) for row, _ in reading.candidates.undecided)
        needed.update((reading.references[column].text, None) for _, column in reading.candidates.undecided)
    return list(needed)


def term_weights(config: RewardConfig) -> dict[str, float]:
    """The weight of each term."""
    return {
        "format": config.format.weight,
        "accuracy": config.accuracy.weight,
        "consistency": config.consistency.weight,
        "temporal_alignment": config.temporal_alignment.weight,
    }


def _format(reading: Reading, config: RewardConfig, similarity: Similarity) -> Verdict:
    return format_verdict(reading.blocks)


def _accuracy(reading: Reading, config: RewardConfig, similarity: Similarity) -> Verdict:
    return accuracy_verdict(reading.answer, reading.reference, kind=reading.kind, config=config.accuracy)


def _consistency(reading: Reading, config: RewardConfig, similarity: Similarity) -> Verdict:
    return reading.consistency


def _temporal_alignment(reading: Reading, config: RewardConfig, similarity: Similarity) -> Verdict:
    return temporal_verdict(
        reading.claims,
        reading.references,
        reading.candidates,
        gate=gate(reading.consistency, config.consistency) if config.temporal_alignment.gate else 1.0,
        config=config.temporal_alignment,
        similarity=similarity,
    )


TERMS: Mapping[str, Callable[[Reading, RewardConfig, Similarity], Verdict]] = MappingProxyType(
    {
        "format": _format,
        "accuracy": _accuracy,
        "consistency": _consistency,
        "temporal_alignment": _temporal_alignment,
    }
)
"""Every term by name. A new one needs a line here, one in `term_weights` and a section in `RewardConfig`."""


def _metrics(terms: Mapping[str, Verdict], *, num_claims: int) -> dict[str, float | None]:
    alignment = terms["temporal_alignment"]
    tar = {f"tar_{name}": alignment.detail.get(name) for name in ("precision", "recall", "f1")}
    return {
        "accuracy": terms["accuracy"].value,
        "format": terms["format"].value,
        **tar,
        "tac": terms["consistency"].value,
        "num_claims": float(num_claims),
    }
