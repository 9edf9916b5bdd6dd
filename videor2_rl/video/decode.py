"""Frames and their true times out of a file, with decord."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videor2_rl.config.sections import VideoConfig
from videor2_rl.video.errors import VideoError
from videor2_rl.video.sampling import are_times, choose_frames, choose_size

_FRAMES_AT_ONCE = 8
"""Decoded frames held at full size."""


def decode(
    path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Sampled and resized frames [F, H, W, 3] uint8, and their presentation times [F] in seconds.

    Raises:
        VideoError: with the reason.
    """
    reader = _open(path)
    times_s = _frame_times(reader, path)
    indices = _choose(times_s, path, config, start_s=start_s, end_s=end_s)
    return _read(reader, indices, path, config), times_s[indices]


def probe(
    path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> tuple[NDArray[np.float64], int, int]:
    """Times [F] in seconds, height and width of the frames that `decode` would give, for the cost of one frame.

    Raises:
        VideoError: with the reason.
    """
    reader = _open(path)
    times_s = _frame_times(reader, path)
    indices = _choose(times_s, path, config, start_s=start_s, end_s=end_s)
    try:
        height, width = reader[0].shape[:2]
    except RuntimeError as error:
        raise VideoError("unreadable", f"{path}: {_first_line(error)}") from None
    return times_s[indices], *_size(height, width, config)


def duration_s(path: str) -> float:
    """Seconds that the file lasts by its header, without reading a frame; containers round it.

    Raises:
        VideoError: with the reason; also where the header does not say.
    """
    import av

    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            if stream.duration is not None and stream.time_base is not None:
                return float(stream.duration * stream.time_base)
            if container.duration is not None:
                return float(container.duration / av.time_base)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise VideoError("unreadable", f"{path}: {_first_line(error)}") from None
    raise VideoError("bad_times", f"{path}: the header gives no duration")


def _choose(
    times_s: NDArray[np.float64], path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> NDArray[np.int64]:
    try:
        return choose_frames(
            times_s,
            fps=config.fps,
            min_frames=config.min_frames,
            max_frames=config.max_frames,
            start_s=start_s,
            end_s=end_s,
        )
    except VideoError as error:
        raise VideoError(error.reason, f"{path}: {error.detail}") from None


def _size(height: int, width: int, config: VideoConfig) -> tuple[int, int]:
    return choose_size(
        height,
        width,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        multiple=config.size_multiple,
    )


def _open(path: str) -> Any:
    import decord

    file = Path(path)
    if not file.is_file():
        raise VideoError("missing", f"{path}: no such file")
    if file.stat().st_size == 0:
        raise VideoError("empty", f"{path}: the file is empty")
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except RuntimeError as error:
        raise VideoError("unreadable", f"{path}: {_first_line(error)}") from None
    if len(reader) == 0:
        raise VideoError("empty", f"{path}: no frames")
    return reader


def _frame_times(reader: Any, path: str) -> NDArray[np.float64]:
    """[N] presentation times of all frames in seconds; the first frame is at 0."""
    try:
        times_s = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)[:, 0]
    except (RuntimeError, IndexError) as error:
        raise VideoError("bad_times", f"{path}: {_first_line(error)}") from None
    # decord2 3.4.0 counts from the first packet's decode time. H.264 in Matroska may lack one, and then every time is
    # 9e15; the container's own presentation times are right.
    if are_times(times_s):
        return times_s
    times_s = _container_times(path)
    if len(times_s) != len(reader):
        raise VideoError("bad_times", f"{path}: {len(reader)} frames, but {len(times_s)} presentation times")
    return times_s


def _container_times(path: str) -> NDArray[np.float64]:
    """The same as `_frame_times`, read from the packets without decoding them."""
    import av

    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            ticks = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
            second_per_tick = float(stream.time_base or 0)
            return (np.asarray(ticks, np.float64) - ticks[0]) * second_per_tick
    except (av.FFmpegError, IndexError) as error:
        raise VideoError("bad_times", f"{path}: {_first_line(error)}") from None


def _read(reader: Any, indices: NDArray[np.int64], path: str, config: VideoConfig) -> NDArray[np.uint8]:
    frames: list[NDArray[np.uint8]] = []
    for start in range(0, len(indices), _FRAMES_AT_ONCE):
        try:
            batch = reader.get_batch(indices[start : start + _FRAMES_AT_ONCE]).asnumpy()
        except RuntimeError as error:
            raise VideoError("unreadable", f"{path}: {_first_line(error)}") from None
        height, width = _size(batch.shape[1], batch.shape[2], config)
        frames += [_resize(frame, height, width) for frame in batch]
    return np.stack(frames)


def _resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bicubic in uint8; Pillow widens the kernel when it scales down, so fine patterns do not alias."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
