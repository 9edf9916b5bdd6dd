"""Which layout a row has, and the row itself; docs/data.md shows a row of each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from videor2_rl.layouts.chat import Chat, VideoPart, read_chat, read_video, without_vision_tokens
from videor2_rl.layouts.row import Row, RowError, kind_of

LAYOUTS = {
    "paper": "conversations (the paper's: human and gpt turns, and video)",
    "messages": "messages (user and assistant turns, a video part in them or a video beside them)",
    "trl": "prompt with solution (TRL's)",
    "verl": "prompt with reward_model (verl's)",
}
"""Name of a layout -> the columns that tell it, in the order in which they are looked for."""
_TURNS = {"paper": "conversations", "messages": "messages", "trl": "prompt", "verl": "prompt"}
_SHARED = ("id", "problem_type", "options", "temporal_grounding", "video_start", "video_end")
_MEDIA = ("video", "videos", "image", "images")


def read_row(row: Any) -> Row:
    """The row of a file, in whichever of the LAYOUTS it is.

    A column that is null counts as absent. What verl's `extra_info` holds of id, problem_type, options,
    temporal_grounding, video_start and video_end is taken where the row itself has none.

    Raises:
        RowError: the layout is unknown or a column is malformed; the message names the key and the mend.
    """
    if not isinstance(row, dict):
        raise RowError(f"is a {kind_of(row)}, expected an object with the keys video and conversations")
    layout = _layout_of(row)
    key = _TURNS[layout]
    chat = read_chat(row[key], key, has_answer={"paper": True, "messages": None}.get(layout, False))
    solution, consumed = (chat.answer, ()) if chat.answer is not None else _solution(row, layout)
    video = _video(row, chat)
    columns = {name: row.get(name) for name in _SHARED}
    beside = row.get("extra_info")
    if layout == "verl" and isinstance(beside, Mapping):
        columns = {name: beside.get(name) if value is None else value for name, value in columns.items()}
    start_s, end_s = _bounds(columns, video)
    return Row(
        layout=layout,
        id=_id(columns["id"]),
        video=video.path,
        question=chat.question,
        solution=solution,
        system_prompt=chat.system,
        temporal_grounding=_grounding(columns["temporal_grounding"]),
        problem_type=_problem_type(columns["problem_type"]),
        options=_options(columns["options"]),
        video_start_s=start_s,
        video_end_s=end_s,
        extra={name: value for name, value in row.items() if name not in (key, *consumed, *_SHARED, *_MEDIA)},
    )


def _layout_of(row: Mapping[str, Any]) -> str:
    present = {name for name, value in row.items() if value is not None}
    if "conversations" in present:
        return "paper"
    if "messages" in present:
        return "messages"
    if "prompt" in present:
        return "verl" if "reward_model" in present else "trl"
    found = f"the keys {', '.join(sorted(row))}" if row else "no keys"
    *known, last = LAYOUTS.values()
    raise RowError(f"has {found}, which is no layout known here; expected {', '.join(known)} or {last}")


def _solution(row: Mapping[str, Any], layout: str) -> tuple[str, tuple[str, ...]]:
    """The expected answer that stands beside the question, and the columns that it is made of."""
    if layout == "verl":
        judged = row["reward_model"]
        value = judged.get("ground_truth") if isinstance(judged, Mapping) else None
        return _answer_text(value, "reward_model.ground_truth"), ("reward_model",)
    if row.get("solution") is None and isinstance(row.get("completion"), list):
        turns = row["completion"]
        value = turns[0].get("content") if len(turns) == 1 and isinstance(turns[0], Mapping) else None
        return _answer_text(value, "completion"), ("completion",)
    name = "completion" if row.get("solution") is None and row.get("completion") is not None else "solution"
    return _answer_text(row.get(name), name), (name,)


def _answer_text(value: Any, key: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{key} is {value!r:.80}, expected the expected answer as a text or a number")
    return without_vision_tokens(value.strip(), key)


def _video(row: Mapping[str, Any], chat: Chat) -> VideoPart:
    named = [chat.video, *(read_video(row[key], key) for key in ("video", "videos") if row.get(key) is not None)]
    videos = {video.path: video for video in reversed(named) if video is not None}
    if len(videos) > 1:
        raise RowError(f"names {len(videos)} clips, {' and '.join(sorted(videos))}; keep one")
    if not videos:
        if row.get("image") or row.get("images"):
            raise RowError("has an image and no video; leave image rows out of the file")
        raise RowError(f"video is {row.get('video')!r}, expected the clip's path relative to data.media_dir")
    return next(iter(videos.values()))


def _id(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise RowError(f"id is {value!r}, expected a text or a whole number; or leave it out")
    return str(value)


def _problem_type(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise RowError(f"problem_type is {value!r:.80}, expected a text; or leave it out")
    return value


def _options(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RowError(f"options is {value!r:.80}, expected a list of texts; or leave it out")
    return tuple(value)


def _grounding(value: Any) -> dict[str, str] | None:
    """A map as it is, as JSON text, or as the list of pairs that Parquet makes of one; a null sentence is none.

    Parquet gives each row the keys of all rows, with nulls, where a map was written as a struct.
    """
    if value is None:
        return None
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError:
            found = None
    if isinstance(found, list) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in found):
        found = dict(found)
    if not isinstance(found, dict) or not all(text is None or isinstance(text, str) for text in found.values()):
        raise RowError(
            f"temporal_grounding is {value!r:.80}, expected a map from time keys to sentences; or leave it out"
        )
    return {str(key): text for key, text in found.items() if text is not None}


def _bounds(columns: Mapping[str, Any], video: VideoPart) -> tuple[float | None, float | None]:
    start, end = columns["video_start"], columns["video_end"]
    start_s = _seconds(video.start if start is None else start, "video_start")
    end_s = _seconds(video.end if end is None else end, "video_end")
    if end_s is not None and end_s <= (start_s or 0.0):
        raise RowError(f"video_end is {end_s}, expected more than video_start ({start_s or 0.0}); both are seconds")
    return start_s, end_s


def _seconds(value: Any, key: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise RowError(f"{key} is {value!r}, expected seconds from the start of the file, 0 or more")
    return float(value)
