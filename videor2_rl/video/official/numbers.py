"""Which frames the paper's code takes, at what size, and how it counts their time. Pure functions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_PAIR = 2
"""Frames of one temporal patch."""
_MOST_PIXELS = 768 * 28 * 28
_ALL_PIXELS = 128_000 * 28 * 28 * 9 // 10
"""Of a frame and of a clip: caps on what `video.max_pixels` may ask for."""
_LONGEST_ASPECT = 200


def frame_range(num_frames: int, fps: float, *, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First and last picture of a clip in a file of `num_frames` pictures at an average of `fps`.

    Bounds outside the file are moved to its ends. They are places times the average rate: of a file whose rate varies
    they are not where a player stands.

    Raises:
        ValueError: the file has no pictures or no rate, or fewer than two pictures lie between the bounds.
    """
    if num_frames <= 0 or fps <= 0:
        raise ValueError(f"{num_frames} frames at {fps:g} frames a second")
    length_s = num_frames / fps
    first, last = 0, num_frames - 1
    if start_s is not None:
        first = math.ceil(max(0.0, min(start_s, length_s)) * fps)
    if end_s is not None:
        last = min(math.floor(max(0.0, min(end_s, length_s)) * fps), last)
    # Without bounds a single picture passes here and fails for its number.
    if (start_s is not None or end_s is not None) and first >= last:
        raise ValueError(f"its bounds leave frames {first} to {last} of {num_frames}")
    return first, last


def count_frames(available: int, video_fps: float, *, fps: float, min_frames: int, max_frames: int) -> int:
    """How many of `available` frames are taken: duration times `fps`, rounded down to an even number.

    Raises:
        ValueError: fewer than two.
    """
    least = math.ceil(min_frames / _PAIR) * _PAIR
    most = min(max_frames, available) // _PAIR * _PAIR
    wanted = min(max(available / video_fps * fps, least), most, available)
    count = math.floor(wanted / _PAIR) * _PAIR
    if count < _PAIR:
        raise ValueError(f"{available} frames, at least {_PAIR} are needed")
    return count


def frame_indices(first: int, last: int, count: int) -> NDArray[np.int64]:
    """[count] places from `first` to `last`, evenly spaced in float32, halves rounded to even."""
    import torch

    return torch.linspace(first, last, count).round().long().numpy()


def sample_fps(count: int, available: int, video_fps: float) -> float:
    """What the processor is told: the share of frames taken times the average rate.

    The frames stand (available - 1) / (count - 1) pictures apart, so this is not their true rate: of 4 frames it is a
    third too high.
    """
    return count / available * video_fps


def resized(
    height: int, width: int, num_frames: int, *, min_pixels: int, max_pixels: int, factor: int
) -> tuple[int, int]:
    """Height and width after the resize, multiples of `factor`; the aspect gives way to the area's bounds.

    Sides are rounded first; only where that misses the bounds is the frame scaled, down to multiples below or up to
    multiples above, and the other bound is not looked at again.

    Args:
        num_frames: of the clip; a long one gets fewer pixels a frame.
        max_pixels: capped as in the paper's code.

    Raises:
        ValueError: the frame is too long and narrow, or a side is scaled down to 0.
    """
    cap = max(min(_MOST_PIXELS, _ALL_PIXELS / num_frames * _PAIR), int(min_pixels * 1.05))
    most = min(max_pixels, cap)
    if max(height, width) / min(height, width) > _LONGEST_ASPECT:
        raise ValueError(f"frames of {width} x {height} pixels are too long and narrow")
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows = math.floor(height / shrink / factor) * factor
        columns = math.floor(width / shrink / factor) * factor
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    if not rows or not columns:
        raise ValueError(
            f"frames of {width} x {height} pixels, scaled down to {most}, are less than {factor} on a side"
        )
    return rows, columns


def time_text(time_s: float) -> str:
    """HH:MM:SS, cut to whole seconds: up to a second early."""
    seconds = int(time_s)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
