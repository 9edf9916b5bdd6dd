"""rollouts/step_000010.jsonl: every group of a step with all that explains its rewards, one JSON object a line.

The driver makes the records (`rollout_records`); a worker adds what only the prompts know, prompt text and frame times,
and what the learner's ranks found for each token, and writes the file (`write_rollouts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videor2_rl.run.files import read_jsonl, write_jsonl_atomic
from videor2_rl.types import Group, Prompt, Rollout, TokenValues, TrainGroup, VideoSample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rewards.types import Scored


def rollout_records(
    groups: Sequence[Group],
    samples: Sequence[VideoSample],
    scored: Sequence[Sequence[Scored]],
    train_groups: Sequence[TrainGroup],
    *,
    learner_log_probs: Mapping[int, Sequence[NDArray[np.float32]]] | None = None,
) -> list[dict[str, Any]]:
    """One JSON object per group; the four sequences correspond.

    Args:
        learner_log_probs: by group, [T] of each response, as `TokenValues.log_probs`; of those that the driver has.

    Raises:
        ValueError: they do not correspond.
    """
    if not all(
        group.group_id == train_group.group_id and group.sample_id == sample.sample_id
        for group, sample, train_group in zip(groups, samples, train_groups, strict=True)
    ):
        raise ValueError("Groups, samples and train groups do not correspond: their ids differ.")
    return [
        {
            "group_id": group.group_id,
            "sample_id": group.sample_id,
            "video": sample.video,
            # With these the frames that the model saw can be made again (videor2_rl.video.load).
            "subtitles": sample.subtitles,
            "subtitles_beside": sample.subtitles_beside,
            "clip_start_s": sample.clip_start_s,
            "clip_end_s": sample.clip_end_s,
            "question": sample.question,
            "target": sample.solution,
            # With these a response can be scored again (videor2_rl.score).
            "options": list(sample.options),
            "problem_type": sample.problem_type,
            "temporal_grounding": None if sample.temporal_grounding is None else dict(sample.temporal_grounding),
            "extra": _plain(sample.extra),
            "responses": [
                _response(rollout, score, advantage=advantage, learner=learner)
                for rollout, score, advantage, learner in zip(
                    group.rollouts,
                    scores,
                    _advantages(train_group),
                    (learner_log_probs or {}).get(group.group_id, [None] * len(group.rollouts)),
                    strict=True,
                )
            ],
        }
        for group, sample, scores, train_group in zip(groups, samples, scored, train_groups, strict=True)
    ]


def write_rollouts(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    prompts: Sequence[Prompt],
    *,
    token_values: Iterable[TokenValues] = (),
) -> None:
    """Write a step's file whole, prompt text, clip and frame times added; a file of the same name is replaced.

    Args:
        token_values: of those responses on which the learner was trained, in any order.

    Raises:
        ValueError: records and prompts do not correspond.
    """
    if [record["sample_id"] for record in records] != [prompt.sample_id for prompt in prompts]:
        raise ValueError("Rollout records and prompts do not correspond: their sample ids differ.")
    found = {(one.group_id, one.response): one for one in token_values}
    write_jsonl_atomic(
        path,
        (
            {
                **record,
                "responses": [
                    _with_values(response, found.get((record["group_id"], place)))
                    for place, response in enumerate(record["responses"])
                ],
                "clip_key": prompt.clip_key,
                "frame_times_s": [round(float(time), 6) for time in prompt.timestamps_s],
                "prompt": prompt.text,
            }
            for record, prompt in zip(records, prompts, strict=True)
        ),
    )


def remove_rollouts_after(run_dir: Path, step: int) -> None:
    """Remove the files of later steps, which a run resumed after `step` writes again."""
    for path in (run_dir / "rollouts").glob("step_*.jsonl"):
        if int(path.stem.removeprefix("step_")) > step:
            path.unlink()


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """The records of one step.

    Raises:
        ConfigError: the file is missing or broken.
    """
    return read_jsonl(path)


def sample_of(record: Mapping[str, Any]) -> VideoSample:
    """What a logged group was asked about, without a solution: enough to make its frames and its prompt again."""
    return VideoSample(
        sample_id=str(record["sample_id"]),
        video=record.get("video") or "",
        question=record.get("question") or "",
        solution="",
        subtitles=record.get("subtitles"),
        subtitles_beside=bool(record.get("subtitles_beside")),
        clip_start_s=record.get("clip_start_s"),
        clip_end_s=record.get("clip_end_s"),
    )


def events_of(detail: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Claims and references in the detail of a temporal-alignment verdict; both empty where the term did not apply.

    A claim: `start_s`, `end_s`, `text`, `reference` (index of the matched one or None) and `outcome` (matched, or what
    kept it from matching). A reference: `start_s`, `end_s`, `text`.
    """
    claims = [_picked(claim, "start_s", "end_s", "text", "reference", "outcome") for claim in detail.get("claims", ())]
    references = [_picked(reference, "start_s", "end_s", "text") for reference in detail.get("references", ())]
    return claims, references


def _with_values(response: dict[str, Any], values: TokenValues | None) -> dict[str, Any]:
    """`learner_log_probs` and `entropy` of each token, None where nobody computed them."""
    if values is None:
        return {**response, "entropy": None}
    found = {**response, "entropy": _rounded(values.entropy, 4)}
    return found if values.log_probs is None else {**found, "learner_log_probs": _rounded(values.log_probs, 6)}


def _rounded(values: NDArray[np.float32], digits: int) -> list[float | None]:
    """As many as tell something: the last bits of a log-prob differ between any two programs."""
    return [_finite(round(value, digits)) for value in values.tolist()]


def _response(
    rollout: Rollout, score: Scored, *, advantage: float | None, learner: NDArray[np.float32] | None
) -> dict[str, Any]:
    return {
        "text": rollout.text,
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "continued": [list(start) for start in rollout.continued],
        "token_ids": rollout.token_ids.tolist(),
        "log_probs": [_finite(value) for value in rollout.log_probs.tolist()],
        "learner_log_probs": None if learner is None else _rounded(learner, 6),
        "reward": score.reward,
        "advantage": advantage,
        "terms": {
            name: {"verdict": verdict.status, "value": verdict.value, "detail": _plain(verdict.detail)}
            for name, verdict in score.terms.items()
        },
        "metrics": dict(score.metrics),
        "judge": {purpose: reply.text for purpose, reply in score.judge.items()},
    }


def _advantages(group: TrainGroup) -> list[float | None]:
    """One a response; None for those that take no part in the loss."""
    size = len(group.response_ids)
    if group.advantages is None:
        return [None] * size
    in_loss = np.ones(size, dtype=bool) if group.in_loss is None else group.in_loss
    return [float(value) if taken else None for value, taken in zip(group.advantages, in_loss, strict=True)]


def _picked(event: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: event[key] for key in keys}


def _plain(value: Any) -> Any:
    """A user's columns and details as JSON: what it cannot hold becomes null (NaN, infinity) or a text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return _finite(value)
    return value if value is None or isinstance(value, str | int) else str(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
