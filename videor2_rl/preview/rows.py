"""A row as the page shows it: the frames and the prompt are those that training would use, made by the same code."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rewards.terms.temporal import parse_time_key
from videor2_rl.config.sections import VideoConfig
from videor2_rl.inputs import outside_keys
from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.types import Clip, Prompt, VideoSample
from videor2_rl.video.errors import VideoError
from videor2_rl.video.load import drawn_cues, load_clip

_LOSSLESS_PIXELS = 200 * 200
"""Frames up to this size are shown as PNG: there every pixel counts and costs little."""


@dataclass(frozen=True)
class ShownFrame:
    """One frame as the model gets it."""

    source: str
    """A data URI."""
    time_s: float
    """Its presentation time."""
    left: float
    """Its place on the time line in per cent."""


@dataclass(frozen=True)
class ShownEvent:
    """A reference event or a subtitle."""

    key: str
    text: str
    left: float
    width: float
    """Place and length on the time line in per cent."""
    fault: str
    """Why it says nothing; empty where it does."""


@dataclass(frozen=True)
class ShownRow:
    """One row of the page."""

    sample: VideoSample
    problem: str
    """Why the row will be skipped; empty where it will not."""
    extra: str
    """Its further columns as JSON; empty where there are none."""
    frames: tuple[ShownFrame, ...] = ()
    height: int = 0
    width: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    """Of the time line: the clip from its begin to its last frame."""
    prompt: str = ""
    """All that the model reads, each run of video tokens as its number."""
    text_tokens: int = 0
    vision_tokens: int = 0
    response_tokens: int = 0
    """Of the solution with its end token; what SFT trains on."""
    events: tuple[ShownEvent, ...] = ()
    cues: tuple[ShownEvent, ...] = ()


def shown_row(sample: VideoSample, builder: PromptBuilder, video: VideoConfig, *, max_prompt_tokens: int) -> ShownRow:
    """The row through decoding, drawing, chat template and processor; a clip that cannot be used becomes a problem."""
    extra = json.dumps(dict(sample.extra), ensure_ascii=False, indent=1, default=str) if sample.extra else ""
    try:
        clip, _ = load_clip(sample, video)
    except VideoError as error:
        return ShownRow(sample, f"skipped: {error}", extra)
    prompt = builder.build(sample, clip)
    vision = int((prompt.token_ids == builder.video_token_id).sum())
    problem = ""
    if len(prompt.token_ids) > max_prompt_tokens:
        problem = f"skipped: too_long: the prompt has {len(prompt.token_ids)} tokens, at most {max_prompt_tokens} fit"
    start_s = min(sample.clip_start_s or 0.0, float(clip.timestamps_s[0]))
    end_s = float(clip.timestamps_s[-1])
    row = ShownRow(
        sample=sample,
        problem=problem,
        extra=extra,
        height=clip.frames.shape[2],
        width=clip.frames.shape[3],
        start_s=start_s,
        end_s=end_s,
        prompt=abbreviated(prompt, builder),
        text_tokens=len(prompt.token_ids) - vision,
        vision_tokens=vision,
        response_tokens=len(builder.encode_response(sample.solution)),
        cues=_cues(sample, video, start_s=start_s, end_s=end_s),
    )
    return replace(row, frames=_frames(clip, row), events=_events(row))


def abbreviated(prompt: Prompt, builder: PromptBuilder) -> str:
    """The prompt's tokens as text, each run of video tokens as `[128 video tokens]`."""
    is_video = prompt.token_ids == builder.video_token_id
    borders = [0, *(np.flatnonzero(np.diff(is_video)) + 1).tolist(), len(is_video)]
    parts = []
    for start, stop in pairwise(borders):
        if is_video[start]:
            parts.append(f"[{stop - start} video tokens]")
        else:
            parts.append(builder.tokenizer.decode(prompt.token_ids[start:stop].tolist(), skip_special_tokens=False))
    return "".join(parts)


def _frames(clip: Clip, row: ShownRow) -> tuple[ShownFrame, ...]:
    return tuple(
        ShownFrame(data_uri(frame), float(time_s), _place(float(time_s), row.start_s, row.end_s))
        for frame, time_s in zip(clip.frames, clip.timestamps_s, strict=True)
    )


def data_uri(frame: NDArray[np.uint8]) -> str:
    """A frame [3, H, W] as an image that stands in the page itself."""
    image = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    file = io.BytesIO()
    if image.width * image.height <= _LOSSLESS_PIXELS:
        kind = "png"
        image.save(file, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(file, "JPEG", quality=90, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _events(row: ShownRow) -> tuple[ShownEvent, ...]:
    """The reference events in order; those that say nothing last."""
    outside = {fault.key for fault in outside_keys(row.sample, end_s=row.end_s)}
    readable: list[tuple[float, ShownEvent]] = []
    unreadable: list[ShownEvent] = []
    for key, text in (row.sample.temporal_grounding or {}).items():
        interval = parse_time_key(key)
        if interval is None:
            unreadable.append(ShownEvent(key, text, 0.0, 0.0, "cannot be read as a time"))
            continue
        fault = "outside the clip" if key in outside else ""
        readable.append((interval[0], _on_line(key, text, interval, row.start_s, row.end_s, fault)))
    return (*(event for _, event in sorted(readable, key=lambda pair: pair[0])), *unreadable)


def _cues(sample: VideoSample, video: VideoConfig, *, start_s: float, end_s: float) -> tuple[ShownEvent, ...]:
    """The subtitles within the clip, where they are drawn."""
    return tuple(
        _on_line(f"{cue.start_s:.1f}-{cue.end_s:.1f} s", cue.text, (cue.start_s, cue.end_s), start_s, end_s, "")
        for cue in drawn_cues(sample, video)
        if cue.end_s >= start_s and cue.start_s <= end_s
    )


def _on_line(
    key: str, text: str, interval: tuple[float, float], start_s: float, end_s: float, fault: str
) -> ShownEvent:
    left, right = (_place(time_s, start_s, end_s) for time_s in interval)
    return ShownEvent(key, text, left, right - left, fault)


def _place(time_s: float, start_s: float, end_s: float) -> float:
    """Per cent of the time line, its ends at most."""
    return min(100.0, max(0.0, 100.0 * (time_s - start_s) / max(1e-9, end_s - start_s)))


def chosen(samples: Sequence[VideoSample], *, count: int) -> list[VideoSample]:
    """At most `count` rows, evenly spread over the file."""
    return list(samples[:: max(1, len(samples) // count)][:count])
