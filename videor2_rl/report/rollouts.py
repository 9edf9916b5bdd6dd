"""The rollouts that the page shows: which ones, and what of each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.evaluation.summary import SCORE_KEY
from videor2_rl.report.data import STAGES, ReportData
from videor2_rl.report.plots import STAGE_LABELS
from videor2_rl.rollout_log import events_of, read_rollouts


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
    is_matched: bool
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
    verdicts: tuple[tuple[str, str, str], ...]
    """Name, value as text, and good, middling, bad or none."""


@dataclass(frozen=True)
class ShownSample:
    """One question with the references and the responses to it."""

    sample_id: str
    question: str
    target: str
    duration: str
    references: tuple[ShownEvent, ...]
    """Matched where the last response shown matches it."""
    responses: tuple[ShownResponse, ...]


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
        references=last[SCORE_KEY]["references"],
        responses=[
            (STAGE_LABELS[stage], stage, row["resps"][0][0], row["filtered_resps"][0], row[SCORE_KEY])
            for stage, row in rows.items()
        ],
    )


def _training(record: Mapping[str, Any]) -> ShownSample:
    """One training group with its first two responses."""
    times = record["frame_times_s"]
    responses = []
    references: list[dict[str, Any]] = []
    for index, response in enumerate(record["responses"][:2]):
        claims, references = events_of(response["terms"]["temporal_alignment"]["detail"])
        answer = response["terms"]["accuracy"]["detail"].get("answer")
        scores = {**response["metrics"], "claims": claims}
        responses.append((f"Rollout {index + 1}", "grpo", response["text"], answer, scores))
    return _shown_sample(
        sample_id=f"{record['sample_id']}, step {record['step']}",
        question=record["question"],
        target=record["target"],
        duration_s=times[-1] if times else None,
        references=references,
        responses=responses,
    )


def _shown_sample(
    *,
    sample_id: str,
    question: str,
    target: str,
    duration_s: float | None,
    references: Sequence[Mapping[str, Any]],
    responses: Sequence[tuple[str, str, str, str | None, Mapping[str, Any]]],
) -> ShownSample:
    # Without the clip's length the timeline ends a second after its last event; no absurd claim may stretch it.
    end_s = duration_s or max([1.0, *(event["end_s"] + 1.0 for event in references)])
    last_claim_s = max((claim["end_s"] for *_, scores in responses for claim in scores["claims"]), default=0.0)
    end_s = min(max(end_s, last_claim_s), 1.5 * end_s)
    last_claims = responses[-1][4]["claims"] if responses else []
    matched = {claim["reference"] for claim in last_claims if claim["reference"] is not None}
    return ShownSample(
        sample_id=sample_id,
        question=question,
        target=target,
        duration=_time(end_s),
        references=tuple(
            _event(event, end_s=end_s, is_matched=index in matched) for index, event in enumerate(references)
        ),
        responses=tuple(
            ShownResponse(
                label=label,
                stage=stage,
                text=text,
                answer=answer if answer is not None else "",
                claims=tuple(
                    _event(
                        claim,
                        end_s=end_s,
                        is_matched=claim["reference"] is not None,
                        note=_OUTCOMES[claim["outcome"]],
                    )
                    for claim in scores["claims"]
                ),
                verdicts=tuple(_verdict(name, scores[key]) for key, name in _SHOWN),
            )
            for label, stage, text, answer, scores in responses
        ),
    )


def _event(event: Mapping[str, Any], *, end_s: float, is_matched: bool, note: str = "") -> ShownEvent:
    start, end = event["start_s"], event["end_s"]
    return ShownEvent(
        text=event["text"],
        time=_time(start) if start == end else f"{_time(start)}-{_time(end)}",
        left=100 * min(start, end_s) / end_s,
        width=100 * (min(end, end_s) - min(start, end_s)) / end_s,
        is_matched=is_matched,
        note=note,
    )


def _verdict(name: str, value: float | None) -> tuple[str, str, str]:
    if value is None:
        return name, "n/a", "none"
    grade = "good" if value >= 0.999 else "bad" if value <= 0.001 else "middling"
    return name, f"{value:.2f}".rstrip("0").rstrip("."), grade


def _time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    text = f"{rest:05.2f}".rstrip("0").rstrip(".")
    return f"{int(minutes):02d}:{text if len(text) > 1 else text.zfill(2)}"
