"""One group as its page shows it: what was asked, what each response claims and when, and what each was paid for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rewards.terms.temporal import read_references
from videor2_rl.report.claims import expected_answer, note_of, shift_s
from videor2_rl.report.data import number_at, value_at
from videor2_rl.run.rollout_index import kind_of_group
from videor2_rl.run.rollout_log import events_of
from videor2_rl.view.tokens import pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TERM_LABELS = {"accuracy": "accuracy", "format": "format", "consistency": "TAC", "temporal_alignment": "TAR"}


def shown_group(
    record: Mapping[str, Any], settings: Mapping[str, Any], *, step: int, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Everything of a logged group but its frames, as JSON.

    Args:
        record: of the rollout log.
        settings: the run's configuration, for the weights of the terms.
        step: that trained on it.
        tokenizer: None: responses have no tokens to colour.
    """
    references = [dataclasses.asdict(event) for event in read_references(record.get("temporal_grounding") or {})]
    times = record.get("frame_times_s") or []
    return {
        "step": step,
        "group_id": record["group_id"],
        "sample_id": record["sample_id"],
        "question": record.get("question") or "",
        "options": record.get("options") or [],
        "expected": expected_answer(record.get("target") or ""),
        "kind": kind_of_group(record["responses"]),
        "clip": PurePath(record.get("video") or "").name,
        "prompt": record.get("prompt") or "",
        "frame_times_s": times,
        "references": references,
        "found_by": _found_by(record["responses"], len(references)),
        "responses": [
            _response(response, references, settings, number=number, tokenizer=tokenizer)
            for number, response in enumerate(record["responses"])
        ],
    }


def _found_by(responses: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """How many responses found each reference."""
    found = [0] * count
    for response in responses:
        for place in {claim["reference"] for claim in _claims(response)} - {None}:
            found[place] += 1
    return found


def _claims(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    verdict = response["terms"].get("temporal_alignment")
    return [] if verdict is None else events_of(verdict["detail"])[0]


def _response(
    response: Mapping[str, Any],
    references: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    *,
    number: int,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    detail = response["terms"].get("temporal_alignment", {}).get("detail", {})
    more = [(claim.get("quote"), claim.get("similarity")) for claim in detail.get("claims", ())]
    claims = [
        {
            **claim,
            "quote": quote,
            "similarity": similarity,
            "note": note_of(claim, references),
            "shift_s": shift_s(claim, references) if claim["outcome"] == "time" else None,
        }
        for claim, (quote, similarity) in zip(_claims(response), more, strict=True)
    ]
    return {
        "number": number,
        "text": response["text"],
        "reward": response["reward"],
        "advantage": response["advantage"],
        "finish_reason": response["finish_reason"],
        "num_tokens": len(response["token_ids"]),
        "policies": [[response["policy_version"], 0], *response.get("continued", [])],
        "terms": [_term(name, verdict, settings) for name, verdict in response["terms"].items()],
        "metrics": response["metrics"],
        "claims": claims,
        "judge": response.get("judge") or {},
        "tokens": [] if tokenizer is None else _tokens(response, tokenizer),
    }


def _tokens(response: Mapping[str, Any], tokenizer: Tokenizer) -> list[list[Any]]:
    """Of each token its text, its log-prob as the engine sampled it, the learner's less that one, and the entropy.

    In nats; None where it was not finite, or the response was not in the loss.
    """
    texts, sampled = pieces(tokenizer, response["token_ids"]), response["log_probs"]
    nothing = [None] * len(sampled)
    own, entropy = (response.get(name) or nothing for name in ("learner_log_probs", "entropy"))
    return [
        [
            text,
            None if value is None else round(value, 4),
            None if value is None or learner is None else round(learner - value, 6),
            spread,
        ]
        for text, value, learner, spread in zip(texts, sampled, own, entropy, strict=True)
    ]


def _term(name: str, verdict: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    weight = weight_of(name, settings)
    value = verdict["value"]
    return {
        "name": name,
        "label": TERM_LABELS.get(name, name.replace("_", " ")),
        "verdict": verdict["verdict"],
        "value": value,
        "weight": weight,
        "paid": None if weight is None or value is None else weight * value,
        "why": why(name, verdict),
        "detail": {key: item for key, item in verdict["detail"].items() if key not in ("claims", "references")},
    }


def weight_of(name: str, settings: Mapping[str, Any]) -> float | None:
    """A term's weight; None where the configuration is not there."""
    own = value_at(settings, "reward.extra")
    key = f"reward.extra.{name}.weight" if isinstance(own, Mapping) and name in own else f"reward.{name}.weight"
    found = number_at(settings, key)
    # The official rule has no weight of its own for consistency.
    return 0.0 if found is None and value_at(settings, f"reward.{name}") is not None else found


def why(name: str, verdict: Mapping[str, Any]) -> str:
    """What led to a verdict, in a few words."""
    detail = verdict["detail"]
    if verdict["verdict"] == "failure":
        return f"failed: {detail.get('reason')}"
    if name == "temporal_alignment" and "claims" in detail:
        claims = detail["claims"]
        matched = sum(claim["reference"] is not None for claim in claims)
        said = f"{matched} of {len(claims)} claims match an event" if claims else "no time cited"
        gate = detail.get("gate")
        return said + ("" if gate is None else ", gate open" if gate == 1 else f", gate closed ({gate:g})")
    if verdict["verdict"] == "abstention":
        return f"abstains: {detail.get('reason')}"
    if name == "accuracy":
        answer, reference = detail.get("answer"), detail.get("reference")
        return f"answered {'nothing readable' if answer is None else answer}, expected {reference}"
    if name == "format":
        return str(detail.get("fault") or "one think block, then one answer block")
    if name == "consistency" and "reply" in detail:
        return f"the judge finds that reasoning and answer {'agree' if verdict['value'] else 'do not agree'}"
    if name == "consistency":
        return f"the reasoning concludes {detail.get('conclusion')}, the answer says {detail.get('answer')}"
    return str(detail.get("reason") or "")
