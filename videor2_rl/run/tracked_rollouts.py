"""A step's first groups as a table for the trackers that have one: W&B with the clips, TensorBoard as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "step",
    "group",
    "sample",
    "question",
    "target",
    "response",
    "text",
    "reward",
    "advantage",
    "accuracy",
    "tac",
    "tar_precision",
    "tar_recall",
)
_PLAYED = (".mp4", ".webm", ".ogg", ".gif")
"""Files that W&B shows as they are."""


def table_rows(records: Sequence[Mapping[str, Any]], *, step: int) -> list[list[Any]]:
    """One row a response, in the order of `COLUMNS`.

    Args:
        records: groups as the rollout log has them.
    """
    return [
        [
            step,
            record["group_id"],
            record["sample_id"],
            record["question"],
            record["target"],
            number,
            response["text"],
            response["reward"],
            response["advantage"],
            *(response["metrics"].get(name) for name in COLUMNS[9:]),
        ]
        for record in records
        for number, response in enumerate(record["responses"], start=1)
    ]


def shown_clip(record: Mapping[str, Any], *, max_mib: float) -> Path | None:
    """The group's clip, where it is there, small enough and of a kind that is shown as it is."""
    clip = Path(record["video"])
    is_shown = clip.suffix.lower() in _PLAYED and clip.is_file() and clip.stat().st_size <= max_mib * 2**20
    return clip if is_shown else None


def log_to_wandb(wandb: Any, records: Sequence[Mapping[str, Any]], *, step: int, max_mib: float) -> None:
    """The table, and beside it the groups' clips, each under its group and sample: a table's cell plays none.

    Args:
        wandb: its module, a run begun.
    """
    clips = [(record, shown_clip(record, max_mib=max_mib)) for record in records]
    videos = [
        wandb.Video(
            str(clip), caption=f"group {record['group_id']}: {record['sample_id']}", format=clip.suffix[1:].lower()
        )
        for record, clip in clips
        if clip is not None
    ]
    table = wandb.Table(columns=list(COLUMNS), data=table_rows(records, step=step))
    wandb.log({"rollouts": table, **({"rollout_clips": videos} if videos else {})}, step=step)
