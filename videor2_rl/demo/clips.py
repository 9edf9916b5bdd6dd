"""Demo clips: rendered with numpy, written as real H.264 files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videor2_rl.demo.events import COLOURS, DURATION_S, DWELL_S, SHAPES, Event

SIDE = 112
"""Pixels; the video stage scales a frame down to 28, so that a quadrant becomes one token of the tiny model."""
_QUADRANT = SIDE // 2
_HALF_SHAPE = 22
_SHIFT = 4
_BACKGROUND = 110
_NOISE_STD = 4.0
_NOISE_BLOCK = 4
"""Noise in blocks of this side survives the encoder and the resize, and costs few bits."""


def frame_times(*, variable: bool) -> NDArray[np.float64]:
    """[F] presentation times in seconds.

    One frame a second, or with `variable` two a second in the second half: there, index / average rate is not the time.
    """
    if not variable:
        return np.arange(DURATION_S, dtype=np.float64)
    half = DURATION_S // 2
    return np.concatenate([np.arange(half), np.arange(half, DURATION_S - 0.5, 0.5)]).astype(np.float64)


def render(events: tuple[Event, ...], times_s: NDArray[np.float64], *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[F, SIDE, SIDE, 3] uint8 RGB: the shapes visible at each time, on noisy grey."""
    frames = np.full((len(times_s), SIDE, SIDE, 3), _BACKGROUND, np.int16)
    for event in events:
        is_visible = (times_s >= event.time_s) & (times_s < event.time_s + DWELL_S)
        mask = _mask(event)[..., None]
        frames[is_visible] = np.where(mask, np.array(COLOURS[event.colour], np.int16), frames[is_visible])
    blocks = SIDE // _NOISE_BLOCK
    noise = rng.normal(0.0, _NOISE_STD, (len(times_s), blocks, blocks, 3)).round().astype(np.int16)
    frames += noise.repeat(_NOISE_BLOCK, axis=1).repeat(_NOISE_BLOCK, axis=2)
    return frames.clip(0, 255).astype(np.uint8)


def encode(path: Path, frames: NDArray[np.uint8], *, times_s: NDArray[np.float64]) -> None:
    """Write `frames` [F, H, W, 3] as H.264 with the given presentation times; the suffix picks the container.

    One encoder thread, so that the same frames give the same file. Written under another name and renamed.
    """
    import av

    to_encoder = av.video.reformatter.VideoReformatter()
    part = path.with_name(f".{path.name}.part{path.suffix}")
    # Matroska would draw random ids.
    with av.open(str(part), "w", container_options={"fflags": "+bitexact"}) as container:
        rate = round(1 / np.diff(times_s).min())
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time_s in zip(frames, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(to_encoder.reformat(frame, format="yuv420p")))
        container.mux(stream.encode())
    part.rename(path)


def _mask(event: Event) -> NDArray[np.bool_]:
    """[SIDE, SIDE] True where the shape covers the frame."""
    top, left = event.quadrant // 2 * _QUADRANT, event.quadrant % 2 * _QUADRANT
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    y -= top + (_QUADRANT - 1) / 2 + _SHIFT * event.shift[0]
    x -= left + (_QUADRANT - 1) / 2 + _SHIFT * event.shift[1]
    if event.shape == "square":
        return (np.abs(x) <= _HALF_SHAPE) & (np.abs(y) <= _HALF_SHAPE)
    assert event.shape == "triangle", f"unknown shape {event.shape!r}, expected one of {SHAPES}"
    return (np.abs(y) <= _HALF_SHAPE) & (2 * np.abs(x) <= y + _HALF_SHAPE)
