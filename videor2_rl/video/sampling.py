"""Which frames of a clip are used, and how large they become. Pure functions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from videor2_rl.video.errors import VideoError

_TIME_SLACK_S = 1e-3
"""Containers round times; a frame this close to a bound of the clip is inside."""


def choose_frames(
    times_s: NDArray[np.float64],
    *,
    fps: float,
    min_frames: int,
    max_frames: int,
    start_s: float | None = None,
    end_s: float | None = None,
) -> NDArray[np.int64]:
    """Indices of an even number of frames, evenly spaced in time from the first to the last frame of the clip.

    Their number is the clip's duration times `fps`, to the nearest even number, between `min_frames` and `max_frames`
    and never more than there are. Each target time gets the frame whose presentation time is nearest, so a variable
    frame rate does not bend the spacing; no frame is used twice.

    Args:
        times_s: [N] presentation times of all frames of the file, in seconds.
        start_s: the clip's bounds in the file; None: its beginning.
        end_s: None: its end.

    Returns:
        [F] int64, strictly increasing.

    Raises:
        VideoError: too_short (fewer frames than `min_frames` and than 2), bad_times (not finite or not increasing).
    """
    if not are_times(times_s):
        raise VideoError("bad_times", "presentation times are not finite and increasing")
    first = 0 if start_s is None else int(np.searchsorted(times_s, start_s - _TIME_SLACK_S))
    stop = len(times_s) if end_s is None else int(np.searchsorted(times_s, end_s + _TIME_SLACK_S, side="right"))
    inside = times_s[first:stop]
    least = max(2, min_frames)
    if len(inside) < least:
        raise VideoError("too_short", f"{len(inside)} frames, at least {least} are needed")
    # The last frame is shown too, for about as long as the others.
    duration_s = inside[-1] - inside[0] + float(np.median(np.diff(inside)))
    wanted = min(max(2 * round(duration_s * fps / 2), least + least % 2), max_frames, len(inside))
    count = wanted - wanted % 2
    targets = np.linspace(inside[0], inside[-1], count)
    return first + _distinct(_nearest(inside, targets), size=len(inside))


def are_times(times_s: NDArray[np.float64]) -> bool:
    """Whether [N] times are finite and strictly increasing."""
    return bool(np.isfinite(times_s).all() and (np.diff(times_s) > 0).all())


def sample_fps(times_s: NDArray[np.float64]) -> float:
    """Frames per second of [F >= 2] sampled times."""
    return (len(times_s) - 1) / float(times_s[-1] - times_s[0])


def choose_size(height: int, width: int, *, min_pixels: int, max_pixels: int, multiple: int) -> tuple[int, int]:
    """Height and width in pixels after the resize: multiples of `multiple`, the area within bounds, the aspect kept.

    Of the sizes around the ideal one, those within the bounds are preferred, then the one nearest in aspect, then the
    larger. Where no multiple fits the bounds, or the frame is extremely long, `max_pixels` holds, the rest gives way.

    Raises:
        ValueError: not even one cell of `multiple` x `multiple` fits into `max_pixels`.
    """
    most = max_pixels // multiple**2
    if most < 1:
        raise ValueError(
            f"max_pixels is {max_pixels}, but one cell of {multiple} x {multiple} has {multiple**2} pixels"
        )
    area = min(max(height * width, min_pixels), max_pixels)
    scale = math.sqrt(area / (height * width)) / multiple
    rows, columns = height * scale, width * scale

    def rank(cells: tuple[int, int]) -> tuple[bool, float, int]:
        is_large_enough = cells[0] * cells[1] * multiple**2 >= min_pixels
        return (not is_large_enough, abs(math.log(cells[0] / cells[1] * width / height)), -cells[0] * cells[1])

    candidates = [cells for cells in product(_around(rows), _around(columns)) if cells[0] * cells[1] <= most]
    if not candidates:
        candidates = [(1, most)] if width > height else [(most, 1)]
    best = min(candidates, key=rank)
    return best[0] * multiple, best[1] * multiple


def _around(value: float) -> set[int]:
    return {max(1, math.floor(value)), max(1, math.ceil(value))}


def _nearest(times_s: NDArray[np.float64], targets_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the time nearest to each target; the earlier one where two are equally near."""
    middles = (times_s[1:] + times_s[:-1]) / 2
    return np.searchsorted(middles, targets_s).astype(np.int64)


def _distinct(indices: NDArray[np.int64], *, size: int) -> NDArray[np.int64]:
    """The same non-decreasing indices, pushed apart as little as makes them strictly increasing within 0..size-1."""
    steps = np.arange(len(indices))
    pushed = np.maximum.accumulate(indices - steps) + steps
    return np.minimum(pushed, size - len(indices) + steps)
