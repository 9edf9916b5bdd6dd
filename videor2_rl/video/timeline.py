"""When each picture of a file is shown, read from its packets without decoding them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from videor2_rl.video.errors import VideoError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_FAR_S = 60.0
"""A clip that begins later in its file is sought; before that, reading from the start costs little."""
_SLACK_S = 1e-3
"""Containers round times."""
_CUT_SHARE, _CUT_S = 0.9, 1.0
"""A file whose last picture and sound end before this share of its stated length, less a second, was cut off."""


@dataclass(frozen=True)
class Timeline:
    """A player's time axis over the pictures of a file, or of the part around a clip."""

    ticks: NDArray[np.int64]
    """[N] presentation stamps of the pictures that are shown, increasing."""
    times_s: NDArray[np.float64]
    """[N] the same in seconds: 0 where the earliest picture or sound of the file begins, edit lists applied."""
    keyframes: NDArray[np.int64]
    """[K] stamps of the pictures with which decoding can begin, increasing."""
    is_partial: bool
    """Packets before the clip were not read; decoding has to begin at the first of `keyframes`."""
    is_plain: bool
    """Begins at 0 and has closed groups of pictures only: in the order of decoding, everything after a keyframe is
    shown after it and everything before it is shown before it. A decoder that counts pictures then cannot miscount."""
    codec: str
    container: str
    """FFmpeg's names, such as "h264" and "mov,mp4,m4a,3gp,3g2,mj2"."""


def read_timeline(path: str, *, start_s: float | None = None, end_s: float | None = None) -> Timeline | None:
    """The time axis; None where packets do not tell it, and only decoding does (no stamps, as in a bare H.264 stream).

    Args:
        path: the file.
        start_s: of a clip far inside a long file only the packets around it are read.
        end_s: None: to the end.

    Raises:
        VideoError: unreadable (no pictures, cut off).
    """
    with opened(path) as (container, stream):
        origin_s = (container.start_time or 0) / 1e6
        tick_s = stream.time_base
        if tick_s is None:
            return None
        first = None
        if start_s is not None and start_s > _FAR_S:
            first = _seek_before(container, stream, int((start_s + origin_s) / tick_s))
            if first is None:
                container.seek(0)
        is_partial = first is not None
        last = None if end_s is None or not is_partial else int((end_s + origin_s + 1) / tick_s)
        packets = _Packets()
        for packet in container.demux(*(stream,) if is_partial else _played(container, stream)):
            if packet.stream is not stream:
                packets.note_end(packet)
            elif packet.size and not packets.take(packet):
                return None
            elif last is not None and packet.dts is not None and packet.dts > last:
                break
        if not is_partial:
            packets.check_whole(path, container, stream, origin_s)
        return packets.timeline(origin_s, tick_s, is_partial=is_partial, container=container, stream=stream)


@contextmanager
def opened(path: str) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The file and the stream that a player would show.

    Raises:
        VideoError: unreadable, with FFmpeg's words; also for what FFmpeg raises while the file is open.
    """
    import av
    from av.stream import Disposition

    with decoder_errors(path), av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:
            raise VideoError("unreadable", f"{path}: the file has no moving pictures")
        assert isinstance(stream, av.VideoStream)
        # Each video worker is one process of several: threads of their own would only compete.
        stream.codec_context.thread_count = 1
        yield container, stream


@contextmanager
def decoder_errors(path: str) -> Iterator[None]:
    """Whatever a decoding library raises, as a VideoError: they have no common class of errors, and new files find
    new ones."""
    try:
        yield
    except (VideoError, MemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise VideoError("unreadable", f"{path}: {lines[0] if lines else type(error).__name__}") from error


class _Packets:
    """What the packets of a file say, collected one after the other."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        """In the order of decoding, with those that are decoded and not shown."""
        self._hidden: set[int] = set()
        self._keys: list[int] = []
        """Places of the keyframes in `_stamps`."""
        self._other_end_s = 0.0
        self._duration = 0

    def take(self, packet: av.Packet) -> bool:
        """Whether the packet says when its picture is shown."""
        if packet.pts is None:
            return False
        if packet.is_keyframe:
            self._keys.append(len(self._stamps))
        if packet.is_discard:
            self._hidden.add(packet.pts)
        self._stamps.append(packet.pts)
        self._duration = packet.duration or self._duration
        return True

    def note_end(self, packet: av.Packet) -> None:
        """Sound goes on where pictures may have ended."""
        if packet.pts is not None and packet.time_base is not None:
            self._other_end_s = max(self._other_end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def check_whole(self, path: str, container: InputContainer, stream: av.VideoStream, origin_s: float) -> None:
        """Raises VideoError where the header promises more than is there."""
        if not self._stamps:
            raise VideoError("empty", f"{path}: no frames")
        if "mp4" in container.format.name and (share := _share_of_boxes(Path(path))) < _CUT_SHARE:
            raise VideoError("unreadable", f"{path}: cut off, {share:.0%} of its data are there")
        assert stream.time_base is not None
        last_s = float((max(self._stamps) + self._duration) * stream.time_base)
        # Some containers count their length from their first stamp, some from 0.
        end_s = max(last_s, self._other_end_s) - min(origin_s, 0.0)
        length_s = (container.duration or 0) / 1e6
        if end_s < _CUT_SHARE * length_s - _CUT_S:
            raise VideoError("unreadable", f"{path}: cut off, {end_s:.1f} of {length_s:.1f} s are there")

    def timeline(
        self,
        origin_s: float,
        tick_s: Fraction,
        *,
        is_partial: bool,
        container: InputContainer,
        stream: av.VideoStream,
    ) -> Timeline | None:
        if not self._stamps:
            return None
        shown = np.unique(np.asarray([stamp for stamp in self._stamps if stamp not in self._hidden], np.int64))
        times_s = shown * tick_s.numerator / tick_s.denominator - origin_s
        is_shown = times_s >= -_SLACK_S
        starts_at_0 = bool(is_shown.all()) and len(shown) == len(self._stamps) and abs(times_s[0]) <= _SLACK_S
        return Timeline(
            ticks=shown[is_shown],
            times_s=np.maximum(times_s[is_shown], 0.0),
            keyframes=np.unique(np.asarray(self._stamps, np.int64)[self._keys]),
            is_partial=is_partial,
            is_plain=starts_at_0 and not is_partial and self._has_closed_groups(),
            codec=stream.codec_context.name,
            container=container.format.name,
        )

    def _has_closed_groups(self) -> bool:
        stamps = np.asarray(self._stamps, np.int64)
        least_from = np.minimum.accumulate(stamps[::-1])[::-1]
        most_until = np.maximum.accumulate(stamps)
        keys = np.asarray(self._keys, np.int64)
        if not len(keys) or keys[0] != 0:
            return False
        return bool((least_from[keys] == stamps[keys]).all() and (most_until[keys] == stamps[keys]).all())


def _share_of_boxes(file: Path) -> float:
    """Share of the bytes that the boxes of an MP4 file claim which are there; its edit lists may leave pictures out, so
    their number tells nothing."""
    size, place = file.stat().st_size, 0
    with file.open("rb") as data:
        while place + 8 <= size:
            data.seek(place)
            length = int.from_bytes(data.read(4), "big")
            if length == 1:
                data.seek(place + 8)
                length = int.from_bytes(data.read(8), "big")
            # 0: to the end of the file.
            place = place + length if length >= 8 else size
    return size / place


def _played(container: InputContainer, stream: av.VideoStream) -> tuple[av.stream.Stream, ...]:
    return (stream, *container.streams.audio)


def _seek_before(container: InputContainer, stream: av.VideoStream, tick: int) -> int | None:
    """Leave the file two keyframes before `tick`, one more than decoding needs: flags of keyframes are not always true.

    Returns:
        The stamp at which reading begins; None where the container cannot be sought.
    """
    found = None
    for _ in range(2):
        container.seek(tick, stream=stream, backward=True)
        packet = next(packet for packet in container.demux(stream))
        if packet.pts is None or not packet.is_keyframe or packet.pts > tick:
            break
        found, tick = packet.pts, packet.pts - 1
    if found is not None:
        container.seek(found, stream=stream, backward=True)
    return found
