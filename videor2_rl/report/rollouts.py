"""The rollouts that the page shows: what of each sample and response, with a frame at each cited second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.terms.temporal import read_references
from videor2_rl.evaluation.results import TERM_OF
from videor2_rl.evaluation.summary import SCORE_KEY
from videor2_rl.report.choose import (
    Kind,
    choose,
    held_out_reason,
    held_out_reasons,
    told_apart,
)
from videor2_rl.report.claims import expected_answer, note_of
from videor2_rl.report.curves import BUILT_IN_TERMS
from videor2_rl.report.data import STAGE_LABELS, STAGES, Evaluation, ReportData
from videor2_rl.report.frames import ClipSource, Film, Frames, video_config
from videor2_rl.report.timeline import ShownEvent, events_on, time_text
from videor2_rl.run.rollout_index import KINDS, kind_of_group
from videor2_rl.run.rollout_log import events_of, read_rollouts
from videor2_rl.types import VideoSample

COUNT, SEED = 12, 0


@dataclass(frozen=True)
class ShownResponse:
    """One response with its claims and verdicts."""

    label: str
    stage: str
    """For its colour: base, sft, grpo, or another name."""
    text: str
    answer: str
    claims: tuple[ShownEvent, ...]
    no_claims: str
    """What stands in place of claims where there are none."""
    verdicts: tuple[tuple[str, str, str], ...]
    """Name, value as text, and good, middling, bad, none (abstained, or a term of one's own) or failed."""
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
    expected: str
    """The answer in the target."""
    duration: str
    references: tuple[ShownEvent, ...]
    """Found where the last response shown whose claims were judged matches it, else missed."""
    responses: tuple[ShownResponse, ...]


@dataclass(frozen=True)
class ShownRollouts:
    """The page's section."""

    kinds: tuple[Kind[ShownSample], ...]
    selection: str
    """Where they come from."""
    notes: tuple[str, ...]
    """Frames that could not be shown."""

    @property
    def samples(self) -> list[ShownSample]:
        return [sample for kind in self.kinds for sample in kind.items]


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
    own: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Terms of reward.extra -> their verdicts."""
    reward: str = ""


_SHOWN = (
    ("accuracy", "accuracy"),
    ("tac", "TAC"),
    ("tar_precision", "TAR precision"),
    ("tar_recall", "TAR recall"),
    ("format", "format"),
)
_SOURCE = "chosen by kind, one of each in turn, and within a kind drawn by a fixed seed and not by hand"


def shown_rollouts(data: ReportData, frames: Frames, *, count: int = COUNT, seed: int = SEED) -> ShownRollouts:
    """Held-out responses, every stage's to a question together; without them, groups of the last logged steps."""
    mode = "sampled" if any("sampled" in modes for modes in data.evaluations.values()) else "greedy"
    stages = [stage for stage in STAGES if mode in data.evaluations.get(stage, {})]
    if stages:
        evaluations = {stage: data.evaluations[stage][mode] for stage in stages}
        return held_out_rollouts(evaluations, frames, folder=data.folder, mode=mode, count=count, seed=seed)
    files = [(run, path) for run in data.runs.values() for path in run.rollout_files][-3:]
    reasons = [
        (kind_of_group(record["responses"]), (record, run.settings, int(path.stem.split("_")[1])))
        for run, path in files
        for record in read_rollouts(path)
        if record["responses"]
    ]
    chosen = choose(reasons, order=KINDS, count=count, seed=seed)
    kinds = tuple(
        Kind(
            kind.reason,
            kind.total,
            tuple(
                _training(record, frames, settings=settings, step=step, folder=data.folder)
                for record, settings, step in kind.items
            ),
        )
        for kind in chosen
    )
    number = sum(len(kind.items) for kind in kinds)
    sentence = f"{number} of {len(reasons)} training groups of the last logged steps, {_SOURCE}." if kinds else ""
    return ShownRollouts(kinds, sentence, tuple(frames.notes()))


def held_out_rollouts(
    evaluations: Mapping[str, Evaluation],
    frames: Frames,
    *,
    folder: Path,
    mode: str,
    count: int = COUNT,
    seed: int = SEED,
    clips: Callable[[str], VideoSample | None] = lambda sample_id: None,
) -> ShownRollouts:
    """Samples that every one of the evaluations, in their order, has a response to.

    Args:
        folder: what the evaluations lie in.
        clips: sample id -> its clip, where a row of samples.jsonl does not say it.
    """
    rows = {stage: {row["doc"]["id"]: row for row in item.rows} for stage, item in evaluations.items()}
    common = sorted(set.intersection(*(set(by_id) for by_id in rows.values())))
    samples = [{stage: rows[stage][sample_id] for stage in rows} for sample_id in common]
    chosen = choose(
        [(held_out_reason(sample), sample) for sample in samples],
        order=held_out_reasons(list(rows)),
        count=count,
        seed=seed,
    )
    card = list(evaluations.values())[-1].summary["card"]
    config = video_config(card.get("video"), beside=folder)

    def shown(sample: Mapping[str, Mapping[str, Any]]) -> ShownSample:
        row = list(sample.values())[-1]
        clip = clips(row["doc"]["id"]) or _clip_of(row)
        return _held_out(sample, frames.film(ClipSource(clip, config)), frames)

    kinds = tuple(Kind(kind.reason, kind.total, tuple(map(shown, kind.items))) for kind in chosen)
    drawn = {"sampled": "at temperature 1", "greedy": "decoded greedily"}.get(mode, mode)
    number = sum(len(kind.items) for kind in kinds)
    sentence = f"{number} of {len(common)} held-out clips, {drawn}, {_SOURCE}."
    return ShownRollouts(kinds, sentence, tuple(frames.notes()))


def _clip_of(row: Mapping[str, Any]) -> VideoSample:
    doc = row["doc"]
    return VideoSample(
        sample_id=str(doc["id"]),
        video=str(doc.get("video") or doc["id"]),
        question="",
        solution="",
        subtitles=doc.get("subtitles"),
        subtitles_beside=doc.get("subtitles_beside", False),
        clip_start_s=doc.get("clip_start_s"),
        clip_end_s=doc.get("clip_end_s"),
    )


def _held_out(rows: Mapping[str, Mapping[str, Any]], film: Film | None, frames: Frames) -> ShownSample:
    """One held-out sample with each stage's response."""
    last = list(rows.values())[-1]
    return _shown_sample(
        sample_id=str(last["doc"]["id"]),
        question=last["input"],
        target=last["target"],
        duration_s=last["doc"].get("duration_s"),
        # A failed or abstaining verdict brings no references along.
        references=next((found for row in rows.values() if (found := row[SCORE_KEY]["references"])), []),
        responses=[
            _Response(
                label=STAGE_LABELS.get(stage, stage),
                stage=stage,
                text=row["resps"][0][0],
                # A benchmark's filtered response is the whole one.
                answer=None if row["filtered_resps"][0] == row["resps"][0][0] else row["filtered_resps"][0],
                scores=row[SCORE_KEY],
                claims=row[SCORE_KEY]["claims"],
                failed=row[SCORE_KEY]["failed"],
            )
            for stage, row in rows.items()
        ],
        film=film,
        frames=frames,
    )


def _training(
    record: Mapping[str, Any], frames: Frames, *, settings: Mapping[str, Any], step: int, folder: Path
) -> ShownSample:
    """One training group with the two responses that differ most."""
    times, responses = record["frame_times_s"], record["responses"]
    unpaid = sum(response["reward"] is None for response in responses)
    note = f", {unpaid} of its {len(responses)} responses without a reward" if unpaid else ""
    clip = VideoSample(record["sample_id"], record.get("video") or "", question="", solution="")
    config = video_config(settings.get("video"), beside=folder)
    return _shown_sample(
        sample_id=f"{record['sample_id']}, step {step}{note}",
        question=record["question"],
        target=record["target"],
        duration_s=times[-1] if times else None,
        # Not out of a verdict: a failed or abstaining one has none.
        references=[dataclasses.asdict(event) for event in read_references(record["temporal_grounding"] or {})],
        responses=[
            _rollout(responses[index], label=", ".join(filter(None, (f"Rollout {index + 1}", what))))
            for index, what in told_apart(responses)
        ],
        film=frames.film(ClipSource(clip, config, key=record.get("clip_key"))),
        frames=frames,
    )


def _rollout(response: Mapping[str, Any], *, label: str) -> _Response:
    terms = response["terms"]
    answer = terms["accuracy"]["detail"].get("answer")
    if response["reward"] is None:
        reward = "No reward, because a term failed: out of the group's statistics and of the loss."
    else:
        advantage = "none" if response["advantage"] is None else f"{response['advantage']:+.2f}"
        reward = f"Reward {response['reward']:.2f}, advantage {advantage}."
    own = {name: verdict for name, verdict in terms.items() if name not in BUILT_IN_TERMS}
    failed_terms = {name: str(verdict["detail"].get("reason")) for name, verdict in own.items() if _failed(verdict)}
    return _Response(
        label=label,
        stage="grpo",
        text=response["text"],
        answer=None if answer is None else str(answer),
        scores=response["metrics"],
        claims=events_of(terms["temporal_alignment"]["detail"])[0],
        failed={
            **{metric: terms[term]["detail"]["reason"] for metric, term in TERM_OF.items() if _failed(terms[term])},
            **failed_terms,
        },
        own=own,
        reward=reward,
    )


def _failed(verdict: Mapping[str, Any]) -> bool:
    return bool(verdict["verdict"] == "failure")


def _shown_sample(
    *,
    sample_id: str,
    question: str,
    target: str,
    duration_s: float | None,
    references: Sequence[Mapping[str, Any]],
    responses: Sequence[_Response],
    film: Film | None,
    frames: Frames,
) -> ShownSample:
    if film is not None:
        duration_s = max(duration_s or 0.0, float(film.times_s[-1]))
    # Without the clip's length the timeline ends a second after its last event; no absurd claim may stretch it.
    end_s = duration_s or max([1.0, *(event["end_s"] + 1.0 for event in references)])
    last_claim_s = max((claim["end_s"] for response in responses for claim in response.claims), default=0.0)
    end_s = min(max(end_s, last_claim_s), 1.5 * end_s)
    judged = [response for response in responses if response.scores["tar_recall"] is not None]
    found = None if not judged else {claim["reference"] for claim in judged[-1].claims}
    by = judged[-1].label if judged else ""

    def on_lane(events: Sequence[Mapping[str, Any]], marks: Sequence[tuple[str, str]]) -> tuple[ShownEvent, ...]:
        return events_on(events, marks, end_s=end_s, film=film, frames=frames)

    return ShownSample(
        sample_id=sample_id,
        question=question,
        target=target,
        expected=expected_answer(target),
        duration=time_text(end_s),
        references=on_lane(
            references,
            [
                ("open", "") if found is None else ("hit", "") if index in found else ("missed", f"missed by {by}")
                for index in range(len(references))
            ],
        ),
        responses=tuple(_shown_response(response, references, on_lane) for response in responses),
    )


def _shown_response(
    response: _Response,
    references: Sequence[Mapping[str, Any]],
    on_lane: Callable[[Sequence[Mapping[str, Any]], Sequence[tuple[str, str]]], tuple[ShownEvent, ...]],
) -> ShownResponse:
    marks = [("miss" if claim["reference"] is None else "hit", note_of(claim, references)) for claim in response.claims]
    verdicts = [_verdict(name, response.scores[key], has_failed=key in response.failed) for key, name in _SHOWN]
    own = [_verdict(name, verdict["value"], has_failed=_failed(verdict)) for name, verdict in response.own.items()]
    # What a full score of one's own term is, only its author knows.
    own = [(name, value, grade if grade == "failed" else "none") for name, value, grade in own]
    return ShownResponse(
        label=response.label,
        stage=response.stage,
        text=response.text,
        answer=response.answer if response.answer is not None else "",
        claims=on_lane(response.claims, marks),
        no_claims=_no_claims(response),
        verdicts=(*verdicts, *own),
        failures=tuple(dict.fromkeys(response.failed.values())),
        reward=response.reward,
    )


def _no_claims(response: _Response) -> str:
    if "tar_recall" in response.failed:
        return "claims not judged: the judging failed"
    return "claims not compared" if response.scores["tar_recall"] is None else "no timestamped claim"


def _verdict(name: str, value: float | None, *, has_failed: bool) -> tuple[str, str, str]:
    if has_failed:
        return name, "failed", "failed"
    if value is None:
        return name, "n/a", "none"
    grade = "good" if value >= 0.999 else "bad" if value <= 0.001 else "middling"
    return name, f"{value:.2f}".rstrip("0").rstrip("."), grade
