"""A response and its target, read once for all terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from rewards.judge import read_claims_reply
from rewards.terms.accuracy import Answer, Kind, answer_kind, read_answer, reference_answer, target_options
from rewards.terms.consistency import Conclusion, consistency_verdict, judged_consistency, read_conclusion
from rewards.terms.temporal import Candidates, Reference, claims_of_pairs, find_candidates, read_references
from rewards.text.choices import normalise
from rewards.text.claims import Claim, read_claims
from rewards.text.parsing import Blocks, read_blocks
from rewards.types import NO_CONTEXT, NO_EVIDENCE, Context, Evidence, Target, Verdict, VideoR2Config


class Reading(NamedTuple):
    """What the terms share: a response and its target, read once."""

    response: str
    """The decoded text as a whole."""
    target: Target
    blocks: Blocks
    """Its think and answer text, and what is wrong with its format."""
    kind: Kind
    options: tuple[str, ...]
    reference: Answer
    """The expected answer."""
    answer: Answer | None
    """The answer given; None: nothing that can be read."""
    consistency: Verdict
    claims: tuple[Claim, ...] | None
    """None: a judge is to read them and its reply is missing or unreadable."""
    claims_failure: str | None
    """Why, where `claims` is None."""
    references: tuple[Reference, ...] | None
    candidates: Candidates | None
    """None without claims or references."""
    context: Context
    """The row's own columns, the step, the group: for terms of one's own."""


@dataclass(frozen=True)
class ReadTarget:
    """A target, read."""

    kind: Kind
    options: tuple[str, ...]
    answer: Answer
    references: tuple[Reference, ...] | None


def read_response(
    response: str,
    target: Target,
    config: VideoR2Config,
    evidence: Evidence = NO_EVIDENCE,
    context: Context = NO_CONTEXT,
) -> Reading:
    """Read a response against its target, everything but sentence similarity.

    Raises:
        ValueError: as `read_target`.
    """
    read = read_target(target)
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
        response=response,
        target=target,
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
        context=context,
    )


def group_contexts(
    context: Context, responses: Sequence[str], finish_reasons: Sequence[Literal["stop", "length", "abort"] | None]
) -> list[Context]:
    """The context of each response of a group: `context` with its own finish reason, place and siblings."""
    return [
        replace(
            context,
            finish_reason=finish_reason,
            response_index=index,
            siblings=(*responses[:index], *responses[index + 1 :]),
        )
        for index, finish_reason in enumerate(finish_reasons)
    ]


def _claims(
    think: str, conclusion: Conclusion, config: VideoR2Config, evidence: Evidence
) -> tuple[tuple[Claim, ...] | None, str | None]:
    """The claims, or None and why there are none to be had."""
    if evidence.claims is not None:
        return claims_of_pairs(evidence.claims.items()), None
    if config.temporal_alignment.claims == "rules":
        return tuple(read_claims(think, conclusion=conclusion.span)), None
    if not think.strip():
        return (), None
    reply = evidence.judge.get("claims")
    if reply is None or reply.text is None:
        return None, f"claims: {reply.failure if reply else 'the judge was not asked'}"
    claims = read_claims_reply(reply.text)
    return (None, "claims: the judge's reply is unreadable") if claims is None else (claims_of_pairs(claims), None)


def read_target(target: Target) -> ReadTarget:
    """Read a target.

    Raises:
        ValueError: it cannot be scored against (`rewards.compose.check_target`).
    """
    grounding = target.temporal_grounding
    return _read_parts(
        target.question,
        target.solution,
        target.options,
        target.problem_type,
        None if grounding is None else tuple(grounding.items()),
    )


@lru_cache(maxsize=1024)
def _read_parts(
    question: str,
    solution: str,
    options: tuple[str, ...],
    problem_type: str | None,
    grounding: tuple[tuple[str, str], ...] | None,
) -> ReadTarget:
    """Cached by content: the responses of a group share their target."""
    target = Target(question, solution, options, problem_type, None if grounding is None else dict(grounding))
    references = None if target.temporal_grounding is None else tuple(read_references(target.temporal_grounding))
    return ReadTarget(answer_kind(target), target_options(target), reference_answer(target), references)
