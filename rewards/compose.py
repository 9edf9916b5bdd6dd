"""One response through every term, and the weighted sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from rewards.official import compose as official
from rewards.reading import Reading, read_response, read_target
from rewards.terms.accuracy import accuracy_verdict
from rewards.terms.consistency import gate
from rewards.terms.extra import check_term, check_terms, extra_verdict
from rewards.terms.format import format_verdict
from rewards.terms.temporal import temporal_verdict
from rewards.types import (
    NO_CONTEXT,
    NO_EVIDENCE,
    Context,
    Evidence,
    OfficialConfig,
    RewardConfig,
    Scored,
    Similarity,
    Target,
    Verdict,
    VideoR2Config,
    failed,
    scored,
)

_PROBE = "<think>At 00:05 a red square appears. So it is red (A).</think><answer>A</answer>"
_PROBE_CONTEXT = Context("plain", {}, finish_reason="stop", step=1, group_id=0, siblings=(_PROBE,))
METRICS = ("accuracy", "format", "tar_precision", "tar_recall", "tar_f1", "tac", "num_claims")


def check_target(target: Target) -> None:
    """Fail on a target that cannot be scored against, before a run starts.

    Raises:
        ValueError: an empty solution, one that is not of its kind, an unknown problem_type.
    """
    read_target(target)


def check_config(config: RewardConfig) -> None:
    """Fail on a configuration that cannot score, before a run starts.

    Raises:
        ValueError: a number out of its range, an `extra` function that cannot be imported or does not take its options,
            a name in `extra` or `only_above_accuracy` that clashes or is unknown.
    """
    if isinstance(config, OfficialConfig):
        return
    alignment = config.temporal_alignment
    for key, value, least in (
        ("accuracy.number_relative_tolerance", config.accuracy.number_relative_tolerance, 0.0),
        ("temporal_alignment.beta", alignment.beta, 1e-6),
        ("temporal_alignment.buffer_seconds", alignment.buffer_seconds, 0.0),
        ("temporal_alignment.similarity_threshold", alignment.similarity_threshold, -1.0),
        ("temporal_alignment.max_range_excess_seconds", alignment.max_range_excess_seconds or 0.0, 0.0),
        ("temporal_alignment.range_cost_per_second", alignment.range_cost_per_second, 0.0),
        *((f"{name}.weight", weight, -math.inf) for name, weight in term_weights(config).items()),
    ):
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"reward.{key}: found {value}; give a number that is finite and at least {least}.")
    target = Target(question="Which? A. red B. green", solution="A")
    probe = read_response(_PROBE, target, config, context=_PROBE_CONTEXT)
    check_terms(config.extra, taken=(*TERMS, *METRICS), probe=probe)
    for name, bound in config.only_above_accuracy.items():
        if name == "accuracy" or name not in (*TERMS, *config.extra):
            known = ", ".join(known for known in (*TERMS, *config.extra) if known != "accuracy")
            raise ValueError(f"reward.only_above_accuracy.{name}: there is no such term to bound; use one of {known}.")
        if not 0 <= bound < 1:
            raise ValueError(f"reward.only_above_accuracy.{name}: found {bound}; a bound lies in [0, 1).")


def check_row(target: Target, context: Context, config: RewardConfig) -> None:
    """Fail on a term of one's own that cannot score a plain response to this row, before a run starts.

    `check_config` knows no row: of a term that asks for a row's own columns it cannot say whether it works.

    Raises:
        ValueError: names the term, what went wrong, and where.
    """
    if isinstance(config, OfficialConfig) or not config.extra:
        return
    context = replace(_PROBE_CONTEXT, sample_id=context.sample_id, extra=context.extra)
    probe = read_response(_PROBE, target, config, context=context)
    for name, term in config.extra.items():
        check_term(name, term, probe)


def score_response(
    response: str,
    target: Target,
    config: RewardConfig,
    *,
    similarity: Similarity,
    evidence: Evidence = NO_EVIDENCE,
    context: Context = NO_CONTEXT,
) -> Scored:
    """Score one response by every term.

    The reward sums weight times value over the terms that score; an abstention adds nothing, a failure in a term with a
    weight makes it None. Anything a response may contain yields verdicts; only a bad target raises.

    Args:
        response: the decoded text, without special tokens.
        similarity: cosines of claim and reference sentences, called at most once (`sentences_to_encode` lists them).
        evidence: claims already extracted, and the judge's replies that the config's `judge` readers need.
        context: what terms of one's own may want to know of the row, the step and the group.

    Raises:
        ValueError: the target cannot be scored against (`check_target`), or `similarity` gave another shape.
    """
    if isinstance(config, OfficialConfig):
        return official.score_response(response, target, config, similarity=similarity, evidence=evidence)
    reading = read_response(response, target, config, evidence, context)
    measured = {name: term(reading, config, similarity) for name, term in TERMS.items()}
    measured |= {name: extra_verdict(name, term, reading) for name, term in config.extra.items()}
    terms = {name: _bounded(name, verdict, measured["accuracy"], config) for name, verdict in measured.items()}
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


def _bounded(name: str, verdict: Verdict, accuracy: Verdict, config: VideoR2Config) -> Verdict:
    """A term's verdict where accuracy is above the term's bound (`only_above_accuracy`), else a 0 that says so."""
    bound = config.only_above_accuracy.get(name)
    if bound is None or verdict.value is None or (accuracy.value is not None and accuracy.value > bound):
        return verdict
    return scored(0.0, {**verdict.detail, "withheld": verdict.value, "accuracy_bound": bound})


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
        **{name: term.weight for name, term in config.extra.items()},
    }


def own_terms(config: RewardConfig) -> tuple[str, ...]:
    """The names of the terms from outside."""
    return () if isinstance(config, OfficialConfig) else tuple(config.extra)


def reward_range(config: RewardConfig) -> tuple[float, float]:
    """The least and the most that a response can earn."""
    weights = term_weights(config).values()
    return sum(min(weight, 0.0) for weight in weights), sum(max(weight, 0.0) for weight in weights)


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
"""The built-in terms by name; `extra` adds more without a change here.

A new built-in one needs a line here, one in `term_weights` and a section in `VideoR2Config`.
"""


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
