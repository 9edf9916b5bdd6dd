"""The frames of a clip and when a player shows them: each sampled picture belongs to its stated time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videor2_rl.config.sections import VideoConfig
from videor2_rl.video.errors import VideoError
from videor2_rl.video.official.clip import official_probe
from videor2_rl.video.sampling import choose_frames, choose_size
from videor2_rl.video.sources import Source, sources
from videor2_rl.video.timeline import opened


def decode(
    path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Sampled and resized frames [F, H, W, 3] uint8, and when a player shows them: times [F] in seconds; of
    `video.rule=player`.

    Raises:
        VideoError: with the reason.
    """
    for source in sources(path, config.decoder, start_s=start_s, end_s=end_s):
        indices = _choose(source, config, start_s=start_s, end_s=end_s)
        height, width = _size(source, config)
        # One after the other, so that one picture at a time is held at full size.
        frames = [resize(picture, height, width) for picture in source.pictures(indices)]
        if len(frames) == len(indices):
            return np.stack(frames), source.times_s[indices]
    raise VideoError("unreadable", f"{path}: decoding it twice gave different pictures")


def probe(
    path: str, config: VideoConfig, *, start_s: float | None, end_s: float | None
) -> tuple[NDArray[np.float64], int, int]:
    """Times [F] in seconds, height and width of the frames that `load_clip` would give, for the cost of one frame; of
    all frames where only decoding tells the times.

    Raises:
        VideoError: with the reason.
    """
    if config.rule == "video_r2_official":
        return official_probe(path, config, start_s=start_s, end_s=end_s)
    source = next(sources(path, config.decoder, start_s=start_s, end_s=end_s))
    return source.times_s[_choose(source, config, start_s=start_s, end_s=end_s)], *_size(source, config)


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


def resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bicubic in uint8; Pillow widens the kernel when it scales down, so fine patterns do not alias."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _choose(source: Source, config: VideoConfig, *, start_s: float | None, end_s: float | None) -> NDArray[np.int64]:
    try:
        return choose_frames(
            source.times_s,
            fps=config.fps,
            min_frames=config.min_frames,
            max_frames=config.max_frames,
            start_s=start_s,
            end_s=end_s,
        )
    except VideoError as error:
        raise VideoError(error.reason, f"{source.path}: {error.detail}") from None


def _size(source: Source, config: VideoConfig) -> tuple[int, int]:
    return choose_size(
        source.height,
        source.width,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        multiple=config.size_multiple,
    )
