"""Pictures out of a file with decord, where its count of pictures is proven.

decord2 3.4.0 seeks to a keyframe and counts on from there. With open groups of pictures (x265's default), in MPEG-1, -2
and transport streams it lands elsewhere, by up to seconds and without a word, and it knows nothing of edit lists and of
pictures that begin later than the sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videor2_rl.video.errors import VideoError
from videor2_rl.video.timeline import Timeline, decoder_errors

_CODECS = frozenset({"h264", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores"})
_CONTAINERS = ("mp4", "matroska")
_FRAMES_AT_ONCE = 8
"""Decoded frames held at full size."""
_TIME_SLACK_S = 2e-3


def is_proven(path: str, timeline: Timeline) -> bool:
    """Whether decord's n-th picture is the n-th of `timeline`: closed groups from 0 on, in a kind of file for which the
    tests compared every picture, and decord itself has as many with the same times."""
    if not timeline.is_plain or timeline.codec not in _CODECS:
        return False
    if not any(name in timeline.container for name in _CONTAINERS):
        return False
    try:
        with decoder_errors(path):
            reader = _open(path)
            if len(reader) != len(timeline.ticks):
                return False
            times_s = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)[:, 0]
    except VideoError:
        return False
    return bool((np.abs(times_s - timeline.times_s) <= _TIME_SLACK_S).all())


def pictures(path: str, timeline: Timeline, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """The pictures [H, W, 3] of `timeline` at increasing `indices`. Ends early where decord fails."""
    try:
        with decoder_errors(path):
            reader = _open(path)
            for start in range(0, len(indices), _FRAMES_AT_ONCE):
                yield from reader.get_batch(indices[start : start + _FRAMES_AT_ONCE]).asnumpy()
    except VideoError:
        return


def _open(path: str) -> Any:
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
