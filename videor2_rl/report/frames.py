"""A frame at each cited second: which one the model saw nearest to it, as a small JPEG inside the page."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import VideoSample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SIDE = 120
"""Pixels; larger frames are scaled down, smaller ones stay as the model saw them."""
TINY_SIDE = 60
"""Pixels; below, a frame is enlarged on the page."""
JPEG_QUALITY = 80
MAX_CHARACTERS = 1_500_000
"""Of all data URIs of a page together: with text and plots it stays below 3 MB."""


@dataclass(frozen=True)
class Shot:
    """One frame, ready for the page."""

    uri: str
    """`data:image/jpeg;base64,...`"""
    time_s: float
    """Its true presentation time."""
    is_tiny: bool
    """Drawn larger than it is, pixel by pixel, so that nothing is shown which the model did not see."""


@dataclass(frozen=True)
class Film:
    """The frames that the model saw of a clip."""

    frames: NDArray[np.uint8]
    """[F, 3, H, W]."""
    times_s: NDArray[np.float64]

    def nearest(self, second: float) -> int:
        """Index of the frame whose time is nearest to a second; of two equally near ones the earlier."""
        return int(abs(self.times_s - second).argmin())


@dataclass(frozen=True)
class ClipSource:
    """Where a sample's frames come from."""

    sample: VideoSample
    config: VideoConfig | None
    """How the model's frames were made; None where the records do not say."""
    key: str | None = None
    """Of the cache, where the records have it."""


class Frames:
    """The frames of one page, as long as there is room for them; what cannot be shown is remembered with its reason."""

    def __init__(self, *, max_characters: int = MAX_CHARACTERS) -> None:
        self._max = self._left = max_characters
        self.missing: dict[str, str] = {}
        """Clip -> why it has no frames on the page."""
        self.num_left_out = 0
        """Frames for which there was no room."""

    def film(self, source: ClipSource) -> Film | None:
        """The clip's frames, None where it has none; never an error."""
        from videor2_rl.video.errors import VideoError
        from videor2_rl.video.load import seen_frames

        name = source.sample.video or source.sample.sample_id
        if source.config is None:
            self.missing[name] = f"{name}: the records do not say how its frames were sampled"
            return None
        try:
            return Film(*seen_frames(source.sample, source.config, key=source.key))
        except VideoError as error:
            unknown = f"{name}: the records do not say where its clip lies"
            self.missing[name] = error.detail if source.sample.video else unknown
            return None

    def shot(self, film: Film | None, second: float) -> Shot | None:
        """The frame nearest to a cited second."""
        if film is None:
            return None
        if self.num_left_out:
            # The first that did not fit ends it: smaller ones behind it would be a choice that nobody made.
            self.num_left_out += 1
            return None
        index = film.nearest(second)
        uri = jpeg_uri(film.frames[index])
        if len(uri) > self._left:
            self.num_left_out += 1
            return None
        self._left -= len(uri)
        return Shot(uri=uri, time_s=float(film.times_s[index]), is_tiny=max(film.frames.shape[2:]) < TINY_SIDE)

    def notes(self) -> list[str]:
        """What a reader has to know about frames that are not there."""
        sentences = [f"No frames: {reason}" for reason in self.missing.values()]
        if self.num_left_out:
            sentences.append(f"{self.num_left_out} frames left out: the page has room for {self._max / 1e6:g} MB.")
        return sentences


def jpeg_uri(frame: NDArray[np.uint8]) -> str:
    """A frame [3, H, W] as a data URI, at most `MAX_SIDE` pixels on its longer side."""
    from PIL import Image

    image = Image.fromarray(frame.transpose(1, 2, 0))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    # Full colour resolution: halved, a tiny frame's edges take their neighbours' colour.
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def video_config(settings: Mapping[str, Any] | None, *, beside: Path) -> VideoConfig | None:
    """A `video` section of a config.yaml or an evaluation's card; None where it lacks what shapes the frames.

    Args:
        beside: the run's folder: a relative `cache_dir` is looked for from here and from the folders above it, since
            nothing says where the run was started.
    """
    if settings is None:
        return None
    known = {field.name for field in dataclasses.fields(VideoConfig)}
    # What shapes no frame need not be said; records without a rule are from before there was a choice.
    values = {
        "cache_dir": "",
        "num_workers": 1,
        "cpus_per_worker": 1.0,
        "decoder": "auto",
        "font": None,
        "subtitle_encoding": None,
        "rule": "player",
        **{key: value for key, value in settings.items() if key in known},
    }
    if values.keys() != known:
        return None
    values["cache_dir"] = str(_found(Path(str(values["cache_dir"])), beside))
    return VideoConfig(**values)


def _found(cache_dir: Path, beside: Path) -> Path:
    places: Sequence[Path] = [Path.cwd(), *beside.resolve().parents]
    return next((place / cache_dir for place in places if (place / cache_dir / "clips").is_dir()), cache_dir)
