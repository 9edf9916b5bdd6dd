"""What a row of every layout becomes, and the one way back: the paper's layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VIDEO_MARKER = "<video>"


class RowError(Exception):
    """What is wrong with one row; whoever reads the file adds its name and the row's number."""


@dataclass(frozen=True)
class Row:
    """One question about one clip, its layout forgotten; paths and texts as the file has them."""

    layout: str
    """The name of the layout that it came in (`reading.LAYOUTS`)."""
    id: str | None
    video: str
    """The clip's path, relative to the folder of clips or absolute."""
    question: str
    """Without the marker of the video."""
    solution: str
    """The expected answer, normally `<think>...</think><answer>...</answer>`."""
    system_prompt: str | None = None
    """The row's own system turn."""
    temporal_grounding: Mapping[str, str] | None = None
    """Time key -> one short sentence."""
    problem_type: str | None = None
    options: tuple[str, ...] | None = None
    """As the row lists them, with or without letters; None: it lists none."""
    video_start_s: float | None = None
    video_end_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Columns that no field above is made of."""

    def as_paper(self, default_id: str) -> dict[str, Any]:
        """The row in the paper's layout, ready for JSON; `default_id` where it has no id of its own."""
        turns = [("human", f"{VIDEO_MARKER}\n{self.question}"), ("gpt", self.solution)]
        if self.system_prompt is not None:
            turns.insert(0, ("system", self.system_prompt))
        optional = {
            "problem_type": self.problem_type,
            "options": None if self.options is None else list(self.options),
            "temporal_grounding": None if self.temporal_grounding is None else dict(self.temporal_grounding),
            "video_start": self.video_start_s,
            "video_end": self.video_end_s,
        }
        return {
            "id": default_id if self.id is None else self.id,
            "video": self.video,
            "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
            **{key: value for key, value in optional.items() if value is not None},
            **self.extra,
        }


def kind_of(value: Any) -> str:
    """What JSON calls a value."""
    kinds: dict[type, str] = {dict: "object", list: "list", str: "string", type(None): "null", bool: "boolean"}
    return kinds.get(type(value), "number")
