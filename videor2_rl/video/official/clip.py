"""A clip as the paper's code makes it: sampled by number, drawn on at the file's size, then resized."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videor2_rl.config.sections import VideoConfig
from videor2_rl.video.cache import Made
from videor2_rl.video.errors import VideoError
from videor2_rl.video.official import numbers
from videor2_rl.video.official.overlay import draw_subtitle, draw_time
from videor2_rl.video.official.subtitles import Cue, parse_srt, texts_at
from videor2_rl.video.sources import Source, sources

logger = logging.getLogger(__name__)

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class _Choice:
    """The frames taken out of a file."""

    indices: NDArray[np.int64]
    """[F], increasing."""
    times_s: NDArray[np.float64]
    """[F] index / average rate."""
    sample_fps: float


def official_clip(
    path: str,
    config: VideoConfig,
    *,
    start_s: float | None,
    end_s: float | None,
    subtitles: Path | None,
    alter: Callable[[Frames], Frames] | None = None,
) -> Made:
    """The clip, with index / average rate for its times.

    Args:
        subtitles: the `.srt` to draw; None: none.
        alter: makes other pictures [F, h, w, 3] of the true ones, before they are drawn on.

    Raises:
        VideoError: with the reason.
    """
    cues = read_cues(subtitles) if subtitles else ()
    for source in sources(path, config.decoder):
        choice = _choose(source, config, start_s=start_s, end_s=end_s)
        texts = texts_at(cues, choice.times_s.tolist())
        pictures = map(np.ascontiguousarray, source.pictures(choice.indices))
        if alter is not None:
            true = list(pictures)
            pictures = map(np.ascontiguousarray, alter(np.stack(true)) if true else ())
        # One after the other, so that one picture at a time is held at full size.
        frames = [
            _resized(_drawn(picture, float(time_s), text, config), _size(path, picture, len(texts), config))
            for picture, time_s, text in zip(pictures, choice.times_s, texts, strict=False)
        ]
        if len(frames) == len(choice.indices):
            return Made(np.concatenate(frames), choice.times_s, choice.sample_fps)
    raise VideoError("unreadable", f"{path}: decoding it twice gave different pictures")


def official_probe(
    path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> tuple[NDArray[np.float64], int, int]:
    """Times [F] in seconds, height and width of the frames that `official_clip` would give, for the cost of one.

    Raises:
        VideoError: with the reason.
    """
    for source in sources(path, config.decoder):
        choice = _choose(source, config, start_s=start_s, end_s=end_s)
        for picture in source.pictures(choice.indices[:1]):
            return choice.times_s, *_size(path, picture, len(choice.indices), config)
    raise VideoError("unreadable", f"{path}: decoding it twice gave different pictures")


def read_cues(file: Path) -> tuple[Cue, ...]:
    """The subtitles of a file; none and a warning where it is not UTF-8, as in the paper's code."""
    try:
        return parse_srt(file.read_bytes())
    except UnicodeDecodeError:
        logger.warning("%s: not UTF-8; video.rule=video_r2_official draws none of its subtitles", file)
        return ()


def _choose(source: Source, config: VideoConfig, *, start_s: float | None, end_s: float | None) -> _Choice:
    fps = source.frame_rate
    if fps <= 0:
        raise VideoError("bad_times", f"{source.path}: the header gives no frame rate, and the paper's times need one")
    try:
        first, last = numbers.frame_range(len(source.times_s), fps, start_s=start_s, end_s=end_s)
        available = last - first + 1
        count = numbers.count_frames(
            available, fps, fps=config.fps, min_frames=config.min_frames, max_frames=config.max_frames
        )
    except ValueError as error:
        raise VideoError("too_short", f"{source.path}: {error}") from None
    indices = numbers.frame_indices(first, last, count)
    return _Choice(indices, indices / fps, numbers.sample_fps(count, available, fps))


def _size(path: str, picture: Frames, num_frames: int, config: VideoConfig) -> tuple[int, int]:
    """By the file's own pixels: where they are not square, the picture stays bent."""
    height, width = picture.shape[:2]
    try:
        return numbers.resized(
            height,
            width,
            num_frames,
            min_pixels=config.min_pixels,
            max_pixels=config.max_pixels,
            factor=config.size_multiple,
        )
    except ValueError as error:
        raise VideoError("unreadable", f"{path}: {error}") from None


def _drawn(picture: Frames, time_s: float, text: str, config: VideoConfig) -> Frames:
    """The time first: its colour is chosen on the bare picture, and a high subtitle covers it."""
    if config.timestamps:
        picture = draw_time(picture, numbers.time_text(time_s))
    return draw_subtitle(picture, text) if text else picture


def _resized(picture: Frames, size: tuple[int, int]) -> Frames:
    """[H, W, 3] -> [1, 3, *size]: bicubic with a wider kernel when it scales down, in float32, rounded."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    frames = torch.tensor(picture)[None].permute(0, 3, 1, 2)
    scaled = resize(frames, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return np.ascontiguousarray(scaled.numpy())
