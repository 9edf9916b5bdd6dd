"""The rollouts that the page shows: which ones, and what of each."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rewards.terms.temporal import read_references
from videor2_rl.evaluation.results import TERM_OF
from videor2_rl.evaluation.summary import SCORE_KEY
from videor2_rl.report.data import STAGE_LABELS, STAGES, ReportData
from videor2_rl.run.rollout_log import events_of, read_rollouts

Mark: TypeAlias = Literal["hit", "miss", "open"]
"""Of an event: matched, not matched, or nobody judged."""


@dataclass(frozen=True)
class ShownEvent:
    """A claim or a reference event on the timeline."""

    text: str
    time: str
    """`MM:SS` or a range."""
    left: float
    """Start, in percent of the timeline."""
    width: float
    """In percent; 0 for an instant."""
    mark: Mark
    note: str = ""
    """What kept a claim from matching."""


@dataclass(frozen=True)
class ShownResponse:
    """One response with its claims and verdicts."""

    label: str
    stage: str
    """For its colour: base, sft or grpo."""
    text: str
    answer: str
    claims: tuple[ShownEvent, ...]
    no_claims: str
    """What stands in place of claims where there are none."""
    verdicts: tuple[tuple[str, str, str], ...]
    """Name, value as text, and good, middling, bad, none (abstained) or failed."""
    failures: tuple[str, ...]
    """Why verdicts failed, each reason once."""
    reward: str
    """Reward and advantage of a training rollout; "" for a held-out response."""


@dataclass(frozen=True)
class ShownSample:
    """One question with the references and the responses to it."""

    sample_id: str
    question: str
    target: str
    duration: str
    references: tuple[ShownEvent, ...]
    """Matched where the last response shown whose claims were judged matches it."""
    responses: tuple[ShownResponse, ...]


@dataclass(frozen=True)
class _Response:
    """A response as its log has it."""

    label: str
    stage: str
    text: str
    answer: str | None
    scores: Mapping[str, float | None]
    claims: Sequence[Mapping[str, Any]]
    failed: Mapping[str, str]
    """Metric -> why its judging failed."""
    reward: str = ""


_OUTCOMES = {
    "matched": "",
    "time": "no event at this time",
    "contrast": "another event",
    "similarity": "another event",
    "taken": "event already claimed",
}
_SHOWN = (
    ("accuracy", "accuracy"),
    ("tac", "TAC"),
    ("tar_precision", "TAR precision"),
    ("tar_recall", "TAR recall"),
    ("format", "format"),
)


def shown_samples(data: ReportData, *, count: int = 12, seed: int = 0) -> tuple[list[ShownSample], str]:
    """Up to `count` samples drawn by seed, not by hand, and a sentence that says where they come from.

    Held-out responses at temperature 1 where they were evaluated, every stage's answer to the same question together;
    else the first two responses of groups of the last logged training steps.
    """
    mode = "sampled" if any("sampled" in modes for modes in data.evaluations.values()) else "greedy"
    stages = [stage for stage in STAGES if mode in data.evaluations.get(stage, {})]
    if stages:
        rows = {stage: {row["doc"]["id"]: row for row in data.evaluations[stage][mode].rows} for stage in stages}
        common = sorted(set.intersection(*(set(by_id) for by_id in rows.values())))
        chosen = random.Random(seed).sample(common, min(count, len(common)))
        drawn = "at temperature 1" if mode == "sampled" else "decoded greedily"
        sentence = f"{len(chosen)} of {len(common)} held-out clips, drawn by a fixed seed and not by hand, {drawn}."
        return [_held_out({stage: rows[stage][sample_id] for stage in stages}) for sample_id in chosen], sentence
    files = [path for run in data.runs.values() for path in run.rollout_files]
    records = [
        {**record, "step": int(path.stem.split("_")[1])} for path in files[-3:] for record in read_rollouts(path)
    ]
    chosen_records = random.Random(seed).sample(records, min(count, len(records)))
    sentence = f"{len(chosen_records)} training groups of the last logged steps, drawn by a fixed seed and not by hand."
    return [_training(record) for record in chosen_records], sentence if chosen_records else ""


def _held_out(rows: Mapping[str, Mapping[str, Any]]) -> ShownSample:
    """One held-out sample with each stage's response."""
    last = rows[list(rows)[-1]]
    return _shown_sample(
        sample_id=last["doc"]["id"],
        question=last["doc"]["question"],
        target=last["target"],
        duration_s=last["doc"]["duration_s"],
        # A failed or abstaining verdict brings no references along.
        references=next((found for row in rows.values() if (found := row[SCORE_KEY]["references"])), []),
        responses=[
            _Response(
                label=STAGE_LABELS[stage],
                stage=stage,
                text=row["resps"][0][0],
                answer=row["filtered_resps"][0],
                scores=row[SCORE_KEY],
                claims=row[SCORE_KEY]["claims"],
                failed=row[SCORE_KEY]["failed"],
            )
            for stage, row in rows.items()
        ],
    )


def _training(record: Mapping[str, Any]) -> ShownSample:
    """One training group with its first two responses."""
    times = record["frame_times_s"]
    unpaid = sum(response["reward"] is None for response in record["responses"])
    note = f", {unpaid} of its {len(record['responses'])} responses without a reward" if unpaid else ""
    return _shown_sample(
        sample_id=f"{record['sample_id']}, step {record['step']}{note}",
        question=record["question"],
        target=record["target"],
        duration_s=times[-1] if times else None,
        # Not out of a verdict: a failed or abstaining one has none.
        references=[dataclasses.asdict(event) for event in read_references(record["temporal_grounding"] or {})],
        responses=[
            _rollout(response, label=f"Rollout {index}") for index, response in enumerate(record["responses"][:2], 1)
        ],
    )


def _rollout(response: Mapping[str, Any], *, label: str) -> _Response:
    terms = response["terms"]
    answer = terms["accuracy"]["detail"].get("answer")
    if response["reward"] is None:
        reward = "No reward, because a term failed: out of the group's statistics and of the loss."
    else:
        advantage = "none" if response["advantage"] is None else f"{response['advantage']:+.2f}"
        reward = f"Reward {response['reward']:.2f}, advantage {advantage}."
    return _Response(
        label=label,
        stage="grpo",
        text=response["text"],
        answer=None if answer is None else str(answer),
        scores=response["metrics"],
        claims=events_of(terms["temporal_alignment"]["detail"])[0],
        failed={
            metric: terms[term]["detail"]["reason"]
            for metric, term in TERM_OF.items()
            if terms[term]["verdict"] == "failure"
        },
        reward=reward,
    )


def _shown_sample(
    *,
    sample_id: str,
    question: str,
    target: str,
    duration_s: float | None,
    references: Sequence[Mapping[str, Any]],
    responses: Sequence[_Response],
) -> ShownSample:
    # Without the clip's length the timeline ends a second after its last event; no absurd claim may stretch it.
    end_s = duration_s or max([1.0, *(event["end_s"] + 1.0 for event in references)])
    last_claim_s = max((claim["end_s"] for response in responses for claim in response.claims), default=0.0)
    end_s = min(max(end_s, last_claim_s), 1.5 * end_s)
    judged = [response for response in responses if response.scores["tar_recall"] is not None]
    matched = {claim["reference"] for claim in judged[-1].claims} if judged else set()
    return ShownSample(
        sample_id=sample_id,
        question=question,
        target=target,
        duration=_time(end_s),
        references=tuple(
            _event(event, end_s=end_s, mark=_mark(index in matched) if judged else "open")
            for index, event in enumerate(references)
        ),
        responses=tuple(_shown_response(response, end_s=end_s) for response in responses),
    )


def _shown_response(response: _Response, *, end_s: float) -> ShownResponse:
    return ShownResponse(
        label=response.label,
        stage=response.stage,
        text=response.text,
        answer=response.answer if response.answer is not None else "",
        claims=tuple(
            _event(claim, end_s=end_s, mark=_mark(claim["reference"] is not None), note=_OUTCOMES[claim["outcome"]])
            for claim in response.claims
        ),
        no_claims=_no_claims(response),
        verdicts=tuple(_verdict(name, response.scores[key], has_failed=key in response.failed) for key, name in _SHOWN),
        failures=tuple(dict.fromkeys(response.failed.values())),
        reward=response.reward,
    )


def _no_claims(response: _Response) -> str:
    if "tar_recall" in response.failed:
        return "claims not judged: the judging failed"
    return "claims not compared" if response.scores["tar_recall"] is None else "no timestamped claim"


def _mark(is_matched: bool) -> Mark:
    return "hit" if is_matched else "miss"


def _event(event: Mapping[str, Any], *, end_s: float, mark: Mark, note: str = "") -> ShownEvent:
    start, end = event["start_s"], event["end_s"]
    return ShownEvent(
        text=event["text"],
        time=_time(start) if start == end else f"{_time(start)}-{_time(end)}",
        left=100 * min(start, end_s) / end_s,
        width=100 * (min(end, end_s) - min(start, end_s)) / end_s,
        mark=mark,
        note=note,
    )


def _verdict(name: str, value: float | None, *, has_failed: bool) -> tuple[str, str, str]:
    if has_failed:
        return name, "failed", "failed"
    if value is None:
        return name, "n/a", "none"
    grade = "good" if value >= 0.999 else "bad" if value <= 0.001 else "middling"
    return name, f"{value:.2f}".rstrip("0").rstrip("."), grade


def _time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    text = f"{rest:05.2f}".rstrip("0").rstrip(".")
    return f"{int(minutes):02d}:{text if len(text) > 1 else text.zfill(2)}"
