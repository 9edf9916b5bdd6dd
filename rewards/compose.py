"""One response through every term, and the weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from rewards.accuracy import Answer, Kind, accuracy_verdict, answer_kind, read_answer, reference_answer, target_options
from rewards.choices import normalise
from rewards.claims import Claim, read_claims
from rewards.consistency import Conclusion, consistency_verdict, gate, judged_consistency, read_conclusion
from rewards.format import format_verdict
from rewards.judge import read_claims_reply
from rewards.official import compose as official
from rewards.parsing import Blocks, read_blocks
from rewards.temporal import Candidates, Reference, claims_of_map, find_candidates, read_references, temporal_verdict
from rewards.types import (
    NO_EVIDENCE,
    Evidence,
    OfficialConfig,
    RewardConfig,
    Scored,
    Similarity,
    Target,
    Verdict,
    VideoR2Config,
    failed,
)

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
    claims: tuple[Claim, ...] | None
    """None: a judge is to read them and its reply is missing or unreadable."""
    claims_failure: str | None
    """Why, where `claims` is None."""
    references: tuple[Reference, ...] | None
    candidates: Candidates | None
    """None without claims or references."""


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


def score_response(
    response: str,
    target: Target,
    config: RewardConfig,
    *,
    similarity: Similarity,
    evidence: Evidence = NO_EVIDENCE,
) -> Scored:
    """Score one response by every term.

    The reward sums weight times value over the terms that score; an abstention adds nothing, a failure in a term with a
    weight makes it None. Anything a response may contain yields verdicts; only a bad target raises.

    Args:
        response: the decoded text, without special tokens.
        similarity: cosines of claim and reference sentences, called at most once (`sentences_to_encode` lists them).
        evidence: claims already extracted, and the judge's replies that the config's `judge` readers need.

    Raises:
        ValueError: the target cannot be scored against (`check_target`), or `similarity` gave another shape.
    """
    if isinstance(config, OfficialConfig):
        return official.score_response(response, target, config, similarity=similarity, evidence=evidence)
    reading = read_response(response, target, config, evidence)
    terms = {name: term(reading, config, similarity) for name, term in TERMS.items()}
    weights = term_weights(config)
    paying = {name: verdict for name, verdict in terms.items() if weights[name] != 0}
    if any(verdict.status == "failure" for verdict in paying.values()):
        reward = None
    else:
        reward = sum(
            (weights[name] * verdict.value for name, verdict in paying.items() if verdict.value is not None), 0.0
        )
    num_claims = None if reading.claims is None else len(reading.claims)
    return Scored(reward, terms, _metrics(terms, num_claims=num_claims))


def read_response(response: str, target: Target, config: VideoR2Config, evidence: Evidence = NO_EVIDENCE) -> Reading:
    """Read a response against its target, everything but sentence similarity.

    Raises:
        ValueError: as `check_target`.
    """
    read = _read_target(target)
    blocks = read_blocks(response, answer_block=config.answer_block)
    think = normalise(blocks.think or "")
    conclusion = read_conclusion(think, kind=read.kind, options=read.options)
    if config.consistency.reader == "judge":
        consistency = judged_consistency(evidence.judge.get("consistency"), think, blocks.answer)
    else:
        consistency = consistency_verdict(
            conclusion, blocks.answer, kind=read.kind, options=read.options, accuracy=config.accuracy
        )
    claims, claims_failure = _claims(think, conclusion, config, evidence)
    return Reading(
        blocks=blocks,
        kind=read.kind,
        options=read.options,
        reference=read.answer,
        answer=None if blocks.answer is None else read_answer(blocks.answer, read.kind, read.options),
        consistency=consistency,
        claims=claims,
        claims_failure=claims_failure,
        references=read.references,
        candidates=None
        if read.references is None or claims is None
        else find_candidates(claims, read.references, config=config.temporal_alignment),
    )


def _claims(
    think: str, conclusion: Conclusion, config: VideoR2Config, evidence: Evidence
) -> tuple[tuple[Claim, ...] | None, str | None]:
    """The claims, or None and why there are none to be had."""
    if evidence.claims is not None:
        return claims_of_map(evidence.claims), None
    if config.temporal_alignment.claims == "rules":
        return tuple(read_claims(think, conclusion=conclusion.span)), None
    if not think.strip():
        return (), None
    reply = evidence.judge.get("claims")
    if reply is None or reply.text is None:
        return None, f"claims: {reply.failure if reply else 'the judge was not asked'}"
    claims = read_claims_reply(reply.text)
    return (None, "claims: the judge's reply is unreadable") if claims is None else (claims_of_map(claims), None)


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


def sentences_to_encode(
    responses: Sequence[str],
    targets: Sequence[Target],
    config: RewardConfig,
    evidences: Sequence[Evidence] | None = None,
) -> list[str]:
    """The distinct sentences whose similarity `score_response` will ask for, in order of appearance.

    Only pairs that time and contrast leave undecided need one, so a worker encodes these in one batch and then scores
    each response from its cache.

    Args:
        responses, targets, evidences: of equal length, pairwise; without `evidences` there is none for any response.
    """
    if evidences is None:
        evidences = [NO_EVIDENCE] * len(responses)
    needed: dict[str, None] = {}
    for response, target, evidence in zip(responses, targets, evidences, strict=True):
        if isinstance(config, OfficialConfig):
            needed.update(dict.fromkeys(official.sentences_to_encode(response, target, config, evidence)))
            continue
        reading = read_response(response, target, config, evidence)
        if reading.references is None or reading.candidates is None or reading.claims is None:
            continue
        needed.update((reading.claims[row].text, None) for row, _ in reading.candidates.undecided)
        needed.update((reading.references[column].text, None) for _, column in reading.candidates.undecided)
    return list(needed)


def term_weights(config: RewardConfig) -> dict[str, float]:
    """The weight of each term."""
    if isinstance(config, OfficialConfig):
        return official.term_weights(config)
    return {
        "format": config.format.weight,
        "accuracy": config.accuracy.weight,
        "consistency": config.consistency.weight,
        "temporal_alignment": config.temporal_alignment.weight,
    }


def _format(reading: Reading, config: VideoR2Config, similarity: Similarity) -> Verdict:
    return format_verdict(reading.blocks)


def _accuracy(reading: Reading, config: VideoR2Config, similarity: Similarity) -> Verdict:
    return accuracy_verdict(reading.answer, reading.reference, kind=reading.kind, config=config.accuracy)


def _consistency(reading: Reading, config: VideoR2Config, similarity: Similarity) -> Verdict:
    return reading.consistency


def _temporal_alignment(reading: Reading, config: VideoR2Config, similarity: Similarity) -> Verdict:
    if reading.references and reading.claims is None:
        return failed(str(reading.claims_failure))
    if reading.references and config.temporal_alignment.gate and reading.consistency.status == "failure":
        return failed(str(reading.consistency.detail["reason"]))
    return temporal_verdict(
        reading.claims or (),
        reading.references,
        reading.candidates,
        gate=gate(reading.consistency, config.consistency) if config.temporal_alignment.gate else 1.0,
        config=config.temporal_alignment,
        similarity=similarity,
    )


TERMS: Mapping[str, Callable[[Reading, VideoR2Config, Similarity], Verdict]] = MappingProxyType(
    {
        "format": _format,
        "accuracy": _accuracy,
        "consistency": _consistency,
        "temporal_alignment": _temporal_alignment,
    }
)
"""Every term by name. A new one needs a line here, one in `term_weights` and a section in `VideoR2Config`."""


def _metrics(terms: Mapping[str, Verdict], *, num_claims: int | None) -> dict[str, float | None]:
    alignment = terms["temporal_alignment"]
    tar = {f"tar_{name}": alignment.detail.get(name) for name in ("precision", "recall", "f1")}
    return {
        "accuracy": terms["accuracy"].value,
        "format": terms["format"].value,
        **tar,
        "tac": terms["consistency"].value,
        "num_claims": None if num_claims is None else float(num_claims),
    }
