"""The frames of a clip and when a player shows them: each sampled picture belongs to its stated time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videor2_rl.config.sections import VideoConfig
from videor2_rl.video import with_decord, with_pyav
from videor2_rl.video.errors import VideoError
from videor2_rl.video.sampling import choose_frames, choose_size
from videor2_rl.video.timeline import Timeline, opened, read_timeline


@dataclass(frozen=True)
class _Plan:
    """Which pictures are taken, by which decoder, and what they become."""

    times_s: NDArray[np.float64]
    """[F] of the chosen pictures."""
    indices: NDArray[np.int64]
    """[F] places in `timeline`, or, without one, in what decoding from the start gives."""
    timeline: Timeline | None
    use_decord: bool
    height: int
    width: int
    """After the resize, in pixels."""


def decode(
    path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Sampled and resized frames [F, H, W, 3] uint8, and when a player shows them: times [F] in seconds.

    Raises:
        VideoError: with the reason.
    """
    plan = _plan(path, config, start_s=start_s, end_s=end_s)
    if plan.use_decord:
        try:
            return _resized(with_decord.pictures(path, plan.indices), plan), plan.times_s
        except VideoError:
            if config.decoder == "decord":
                raise
    if plan.timeline is not None:
        frames = _resized(with_pyav.pictures_at(path, plan.timeline, plan.indices), plan)
        if len(frames) == len(plan.indices):
            return frames, plan.times_s
        plan = _plan_by_decoding(path, config, start_s=start_s, end_s=end_s)
    return _resized(with_pyav.pictures_in_order(path, plan.indices.tolist()), plan), plan.times_s


def probe(
    path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> tuple[NDArray[np.float64], int, int]:
    """Times [F] in seconds, height and width of the frames that `decode` would give, for the cost of one frame; of all
    frames where only decoding tells the times.

    Raises:
        VideoError: with the reason.
    """
    plan = _plan(path, config, start_s=start_s, end_s=end_s)
    return plan.times_s, plan.height, plan.width


def decoder_of(path: str, config: VideoConfig) -> str:
    """Which decoder `decode` takes for the whole file: "decord" or "pyav".

    Raises:
        VideoError: with the reason.
    """
    return "decord" if _plan(path, config, start_s=None, end_s=None).use_decord else "pyav"


def duration_s(path: str) -> float:
    """Seconds at which the pictures end by the file's header, without reading a frame; containers round it.

    Raises:
        VideoError: with the reason; also where the header does not say.
    """
    with opened(path) as (container, stream):
        if stream.duration is not None and stream.time_base is not None:
            begin = stream.start_time or 0
            return float((begin + stream.duration) * stream.time_base) - (container.start_time or 0) / 1e6
        if container.duration is not None:
            return container.duration / 1e6
    raise VideoError("bad_times", f"{path}: the header gives no duration")


def _plan(path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None) -> _Plan:
    file = Path(path)
    if not file.is_file():
        raise VideoError("unreadable" if file.exists() else "missing", f"{path}: no such file")
    if file.stat().st_size == 0:
        raise VideoError("empty", f"{path}: the file is empty")
    timeline = read_timeline(path, start_s=start_s, end_s=end_s)
    if timeline is None:
        return _plan_by_decoding(path, config, start_s=start_s, end_s=end_s)
    indices = _choose(timeline.times_s, path, config, start_s=start_s, end_s=end_s)
    height, width, is_turned = with_pyav.shown_size(path)
    use_decord = config.decoder != "pyav" and not is_turned and with_decord.is_proven(path, timeline)
    if config.decoder == "decord" and not use_decord:
        raise VideoError("unreadable", f"{path}: decord's pictures are not proven for it (video.decoder=auto reads it)")
    size = _size(height, width, config)
    return _Plan(timeline.times_s[indices], indices, timeline, use_decord, *size)


def _plan_by_decoding(path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None) -> _Plan:
    if config.decoder == "decord":
        raise VideoError("unreadable", f"{path}: decord's pictures are not proven for it (video.decoder=auto reads it)")
    times_s = with_pyav.decoded_times(path)
    places = np.flatnonzero(~np.isnan(times_s))
    chosen = places[_choose(times_s[places], path, config, start_s=start_s, end_s=end_s)]
    height, width, _ = with_pyav.shown_size(path)
    return _Plan(times_s[chosen], chosen, None, False, *_size(height, width, config))


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


def _resized(pictures: Iterable[NDArray[np.uint8]], plan: _Plan) -> NDArray[np.uint8]:
    """[F, H, W, 3]; one after the other, so that one picture at a time is held at full size."""
    frames = [_resize(picture, plan.height, plan.width) for picture in pictures]
    return np.stack(frames) if frames else np.empty((0, plan.height, plan.width, 3), np.uint8)


def _resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bicubic in uint8; Pillow widens the kernel when it scales down, so fine patterns do not alias."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
