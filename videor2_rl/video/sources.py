"""Ways to a file's pictures, the best first; each knows when a player shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from videor2_rl.video import with_decord, with_pyav
from videor2_rl.video.errors import VideoError
from videor2_rl.video.timeline import Timeline, read_timeline

Decoder = Literal["auto", "pyav", "decord"]


@dataclass(frozen=True)
class Source:
    """One way to the pictures of a file, or of the part around a clip."""

    path: str
    decoder: Literal["pyav", "decord"]
    times_s: NDArray[np.float64]
    """[N] when a player shows each picture, in seconds."""
    height: int
    width: int
    """In pixels as a player shows them, upright and with square pixels; `pictures` have the file's own pixels."""
    frame_rate: float
    """Average pictures a second by the file's header; 0 where it does not say."""
    pictures: Callable[[NDArray[np.int64]], Iterator[NDArray[np.uint8]]]
    """The pictures [h, w, 3] at increasing places in `times_s`. Ends early where this way fails; then the next counts.
    Raises VideoError."""


def sources(
    path: str, decoder: Decoder, *, start_s: float | None = None, end_s: float | None = None
) -> Iterator[Source]:
    """The ways to the pictures of a file, the best first. A next one is needed where the one before ends early.

    Args:
        path: the file.
        decoder: `VideoConfig.decoder`.
        start_s: of a clip far inside a long file only the part around it is read; then `times_s` lacks the rest.
        end_s: None: to the end.

    Raises:
        VideoError: missing, empty, unreadable.
    """
    file = Path(path)
    if not file.is_file():
        raise VideoError("unreadable" if file.exists() else "missing", f"{path}: no such file")
    if file.stat().st_size == 0:
        raise VideoError("empty", f"{path}: the file is empty")
    timeline = read_timeline(path, start_s=start_s, end_s=end_s)
    look = with_pyav.first_look(path)
    if decoder != "pyav":
        if timeline is not None and not look.is_turned and with_decord.is_proven(path, timeline):
            yield _source(path, look, timeline, with_decord.pictures, "decord")
        if decoder == "decord":
            raise VideoError("unreadable", f"{path}: decord is not proven for this file; video.decoder=auto reads it")
    if timeline is not None:
        yield _source(path, look, timeline, with_pyav.pictures_at, "pyav")
    yield _by_decoding(path, look)


def _source(
    path: str,
    look: with_pyav.Look,
    timeline: Timeline,
    read: Callable[[str, Timeline, NDArray[np.int64]], Iterator[NDArray[np.uint8]]],
    decoder: Literal["pyav", "decord"],
) -> Source:
    return Source(
        path,
        decoder,
        timeline.times_s,
        look.height,
        look.width,
        look.frame_rate,
        lambda indices: read(path, timeline, indices),
    )


def _by_decoding(path: str, look: with_pyav.Look) -> Source:
    """Where packets do not tell the times, or other ones than the decoder: everything is decoded twice."""
    times_s = with_pyav.decoded_times(path)
    places = np.flatnonzero(~np.isnan(times_s))
    return Source(
        path,
        "pyav",
        times_s[places],
        look.height,
        look.width,
        look.frame_rate,
        lambda indices: with_pyav.pictures_in_order(path, places[indices].tolist()),
    )
