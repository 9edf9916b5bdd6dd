"""Pictures out of a file with PyAV: from its start, or from a keyframe where that saves much, told apart by their
presentation stamps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from videor2_rl.video.errors import VideoError
from videor2_rl.video.timeline import Timeline, opened

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_WORTH_A_SEEK = 250
"""Pictures that a seek must save; below that, decoding on is as fast."""


def pictures_at(path: str, timeline: Timeline, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """The pictures [H, W, 3] of `timeline` at increasing `indices`, each known by its stamp, turned upright.

    Ends early where a stamp does not come that the packets promised: then only decoding everything tells the times.

    Raises:
        VideoError: unreadable, damaged at one of these pictures.
    """
    wanted = [int(tick) for tick in timeline.ticks[indices]]
    with opened(path) as (container, stream):
        place = -_WORTH_A_SEEK if timeline.is_partial else 0
        frames = _frames(container, stream)
        for tick, index in zip(wanted, indices, strict=True):
            entry = _entry(timeline, tick)
            if int(np.searchsorted(timeline.ticks, entry)) - place >= _WORTH_A_SEEK:
                _seek(container, stream, entry)
                frames = _frames(container, stream)
            found = next((item for item in frames if item[0].pts is None or item[0].pts >= tick), None)
            if found is None or found[0].pts != tick:
                return
            yield _upright(found[0], path, is_damaged=found[1])
            place = int(index)


@dataclass(frozen=True)
class Look:
    """What the first picture and the header tell of a file."""

    height: int
    width: int
    """In pixels as a player shows it, upright and with square pixels."""
    is_turned: bool
    """The file has it turned or mirrored."""
    frame_rate: float
    """Average pictures a second; 0: the header does not say."""


def first_look(path: str) -> Look:
    """Raises VideoError: unreadable."""
    with opened(path) as (container, stream):
        frame, _ = next(_frames(container, stream), (None, False))
        if frame is None:
            raise VideoError("unreadable", f"{path}: no picture can be decoded")
        width = max(1, round(frame.width * float(stream.sample_aspect_ratio or 1)))
        (a, b), (c, d) = _turn(frame)
        size = (width, frame.height) if abs(b) > abs(a) else (frame.height, width)
        return Look(*size, is_turned=(a, b, c, d) != (1, 0, 0, 1), frame_rate=float(stream.average_rate or 0))


def decoded_times(path: str) -> NDArray[np.float64]:
    """[N] seconds at which the pictures are shown that decoding from the start gives; NaN for one that a player never
    shows. Without stamps in the file they follow each other at its frame rate."""
    with opened(path) as (container, stream):
        stamps = [frame.pts for frame, _ in _frames(container, stream)]
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < len(stamps) or stream.time_base is None:
            rate = stream.guessed_rate or stream.average_rate
            if not rate:
                raise VideoError("bad_times", f"{path}: neither times nor a frame rate")
            return np.arange(len(stamps), dtype=np.float64) / float(rate)
        times_s = np.asarray(known, np.float64) * float(stream.time_base) - (container.start_time or 0) / 1e6
    # One that is not later than all before it is never on the screen.
    is_later = (
        np.append(True, times_s[1:] > np.maximum.accumulate(times_s)[:-1]) if len(times_s) else np.array([], bool)
    )
    return np.where(is_later & (times_s >= -1e-3), np.maximum(times_s, 0.0), np.nan)


def pictures_in_order(path: str, places: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """The pictures [H, W, 3] at increasing places of what decoding from the start gives, turned upright.

    Raises:
        VideoError: unreadable, damaged at one of these pictures.
    """
    wanted = set(places)
    with opened(path) as (container, stream):
        for place, (frame, is_damaged) in enumerate(_frames(container, stream)):
            if place in wanted:
                yield _upright(frame, path, is_damaged=is_damaged)
            if place == places[-1]:
                return


def _frames(container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Decoded frames, and whether the stream was damaged since the last keyframe."""
    import av

    is_damaged, has_begun = False, False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            # Streams that were cut out of others begin with packets that nothing can be made of.
            is_damaged = has_begun
            continue
        for frame in frames:
            assert isinstance(frame, av.VideoFrame)
            is_damaged, has_begun = is_damaged and not frame.key_frame, True
            yield frame, is_damaged or frame.is_corrupt


def _entry(timeline: Timeline, tick: int) -> int:
    """The keyframe to begin with for `tick`: the last but one before it, or the first there is."""
    before = int(np.searchsorted(timeline.keyframes, tick, side="right"))
    if before == 0:
        return int(timeline.ticks[0])
    return int(timeline.keyframes[max(0, before - 2)])


def _seek(container: InputContainer, stream: av.VideoStream, entry: int) -> None:
    container.seek(entry, stream=stream, backward=True)
    stream.codec_context.flush_buffers()


def _upright(frame: av.VideoFrame, path: str, *, is_damaged: bool) -> NDArray[np.uint8]:
    if is_damaged:
        raise VideoError("unreadable", f"{path}: the picture at {frame.time:.1f} s of the stream is damaged")
    picture = cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24"))
    (a, b), (c, d) = _turn(frame)
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _turn(frame: av.VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """How the display matrix takes a pixel (x, y) to (a x + c y, b x + d y): ((a, b), (c, d)), each -1, 0 or 1.

    Players show quarter turns and mirrors; nothing else is made by cameras.
    """
    from av.sidedata.sidedata import Type

    # PyAV's stub has the mapping's keys wrong.
    data = cast(Mapping[Type, Any], frame.side_data).get(Type.DISPLAYMATRIX)
    if data is None:
        return (1, 0), (0, 1)
    a, b, _, c, d = (int(np.sign(value)) for value in np.frombuffer(data, np.int32)[:5])
    return (a, b), (c, d)
