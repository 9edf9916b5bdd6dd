"""One scored response of an evaluation -> its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videor2_rl.evaluation.summary import SampleResult
from videor2_rl.run.rollout_log import events_of

if TYPE_CHECKING:
    from rewards.types import Scored
    from videor2_rl.types import Rollout, VideoSample

TERM_OF = {
    "accuracy": "accuracy",
    "tac": "consistency",
    "tar_precision": "temporal_alignment",
    "tar_recall": "temporal_alignment",
    "tar_f1": "temporal_alignment",
    "format": "format",
}
"""Metric -> the reward term whose verdict it is read from (`rewards.compose`)."""


def sample_result(
    sample: VideoSample, rollout: Rollout, score: Scored, *, duration_s: float | None = None
) -> SampleResult:
    """What the summary and samples.jsonl need; a metric that abstained or failed is None.

    Args:
        sample: the held-out row.
        rollout: the response to it.
        score: its verdicts.
        duration_s: of the clip, for the report's timeline; None: the timeline ends with its last event.
    """
    claims, references = events_of(score.terms["temporal_alignment"].detail)
    answer = score.terms["accuracy"].detail.get("answer")
    reasons = {
        name: str(verdict.detail["reason"]) for name, verdict in score.terms.items() if verdict.status == "failure"
    }
    return SampleResult(
        sample_id=sample.sample_id,
        video=sample.video,
        question=sample.question,
        target=sample.solution,
        response=rollout.text,
        answer=None if answer is None else str(answer),
        finish_reason=rollout.finish_reason,
        response_tokens=len(rollout.token_ids),
        accuracy=score.metrics["accuracy"],
        tac=score.metrics["tac"],
        tar_precision=score.metrics["tar_precision"],
        tar_recall=score.metrics["tar_recall"],
        tar_f1=score.metrics["tar_f1"],
        format=score.metrics["format"],
        problem_type=sample.problem_type,
        duration_s=duration_s,
        clip_start_s=sample.clip_start_s,
        clip_end_s=sample.clip_end_s,
        subtitles=sample.subtitles,
        subtitles_beside=sample.subtitles_beside,
        claims=tuple(claims),
        references=tuple(references),
        failed={metric: reasons[term] for metric, term in TERM_OF.items() if term in reasons},
    )
