"""The clip behind a group: where it may lie, and a copy that a browser plays where it cannot play the file itself."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videor2_rl.report.data import value_at
from videor2_rl.video.errors import VideoError
from videor2_rl.video.timeline import opened, read_timeline

logger = logging.getLogger(__name__)

CACHE_FOLDER = "view_cache"
"""In the run's folder; whoever deletes it loses nothing."""
_PLAYED = {"mp4": {"h264", "av1", "vp9"}, "webm": {"vp8", "vp9", "av1"}}
"""Container (in FFmpeg's name of it) -> codecs that browsers play in it."""
_PLAYED_PIXELS = ("yuv420p", "yuvj420p")
_GOP = 12
"""Pictures from one keyframe of a copy to the next: a seek decodes at most so many."""
_MAX_HEIGHT = 720
_TICK = Fraction(1, 90_000)


class ClipError(Exception):
    """The clip cannot be shown; the message says why, and what would help."""


@dataclass(frozen=True)
class Playable:
    """A file that a browser plays."""

    file: Path
    times_s: Sequence[float]
    """Presentation times of its pictures as the run knows them: seconds from the start of the original."""
    offset_s: float
    """What has to be taken from such a time to get the player's."""
    is_copy: bool
    """Made here, since a browser does not play the original, or not each of its pictures at its time."""

    def as_json(self) -> dict[str, Any]:
        """What the player needs besides the file."""
        times = [round(time, 6) for time in self.times_s]
        return {"times_s": times, "offset_s": self.offset_s, "is_copy": self.is_copy}


def media_roots(run_dir: Path, settings: Mapping[str, Any], more: Iterable[Path]) -> list[Path]:
    """The folders that clips may be read from: the run's own, its media folder, and those given.

    A relative media folder is looked for from here and from the folders above the run, since nothing says where the run
    was started.
    """
    named = value_at(settings, "data.media_dir")
    bases = [Path.cwd(), *run_dir.resolve().parents]
    places = [] if named is None else [base / str(named) for base in bases]
    found = next((place for place in places if place.is_dir()), None)
    return [folder.resolve() for folder in (*more, run_dir, *([] if found is None else [found]))]


def find_clip(video: str, settings: Mapping[str, Any], roots: Sequence[Path]) -> Path:
    """The clip's file, in one of the folders that clips may be read from.

    A clip that was moved is found by its path below the run's media folder, or by its name.

    Raises:
        ClipError: it is in none of them.
    """
    logged = Path(video)
    media_dir = str(value_at(settings, "data.media_dir") or "")
    tails = [logged.name]
    if media_dir and f"{media_dir}/" in video:
        tails.insert(0, video.rsplit(f"{media_dir}/", 1)[1])
    for place in (logged, *(root / tail for tail in tails for root in roots)):
        resolved = place.resolve()
        if resolved.is_file() and any(resolved.is_relative_to(root) for root in roots):
            return resolved
    if logged.resolve().is_file():
        raise ClipError(f"{video} lies outside the run's folders; allow its folder with --media {logged.parent}")
    raise ClipError(f"{video} is not there; name the folder it was moved to with --media FOLDER")


class Copies:
    """Playable copies, each made once, whoever asks for it at the same time."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / CACHE_FOLDER
        self._lock = threading.Lock()

    def playable(self, clip: Path) -> Playable:
        """The clip itself where a browser plays it, else its copy.

        Raises:
            ClipError: it cannot be read.
        """
        stat = clip.stat()
        return self._playable(clip, stat.st_size, stat.st_mtime_ns)

    @lru_cache(maxsize=256)  # noqa: B019 - one object a run, as long as the process
    def _playable(self, clip: Path, size: int, mtime_ns: int) -> Playable:
        try:
            timeline = read_timeline(str(clip))
            if timeline is not None and timeline.is_plain and is_even(timeline.times_s) and _is_played(clip):
                return Playable(clip, timeline.times_s.tolist(), 0.0, False)
            name = hashlib.sha256(f"{clip} {size} {mtime_ns}".encode()).hexdigest()[:24]
            with self._lock:
                file = self._writable() / f"{name}.mp4"
                if not file.exists():
                    make_copy(clip, file)
                first_s = 0.0 if timeline is None else float(timeline.times_s[0])
                copied = read_timeline(str(file))
        except (VideoError, OSError) as error:
            raise ClipError(f"{clip.name} cannot be played: {error}") from None
        assert copied is not None, "an MP4 file has stamps"
        return Playable(file, (copied.times_s + first_s).tolist(), first_s, True)

    def _writable(self) -> Path:
        """The run's cache, or where that cannot be written a folder that goes with the machine's temporary files."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            self._folder = Path(tempfile.mkdtemp(prefix="videor2_view_"))
        return self._folder


def make_copy(clip: Path, file: Path) -> None:
    """Write a clip's pictures as H.264 with their own times, moved so that the first is at 0; without sound.

    Raises:
        VideoError: the clip cannot be decoded.
    """
    import av

    part = file.with_name(f".{file.stem}.{os.getpid()}.part.mp4")
    encoded = {"movflags": "+faststart"}
    try:
        with opened(str(clip)) as (source, stream), av.open(str(part), "w", options=encoded) as target:
            origin_s, output, first = (source.start_time or 0) / 1e6, None, None
            stream.thread_type = "AUTO"
            for frame in source.decode(stream):
                if frame.pts is None or frame.time_base is None:
                    raise VideoError("bad_times", f"{clip.name}: a picture has no time")
                time_s = float(frame.pts * frame.time_base) - origin_s
                if time_s < -1e-3:
                    continue
                if output is None:
                    width, height = copy_size(frame.width, frame.height)
                    output = target.add_stream("libx264", options={"preset": "veryfast", "crf": "20", "bf": "0"})
                    output.width, output.height, output.pix_fmt = width, height, "yuv420p"
                    output.codec_context.gop_size, output.codec_context.time_base = _GOP, _TICK
                    first = time_s
                assert first is not None
                picture = frame.reformat(width=output.width, height=output.height, format="yuv420p")
                picture.pts, picture.time_base = round((time_s - first) / _TICK), _TICK
                picture.pict_type = av.video.frame.PictureType.NONE
                target.mux(output.encode(picture))
            if output is None:
                raise VideoError("empty", f"{clip.name}: no frames")
            target.mux(output.encode())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def is_even(times_s: NDArray[np.float64]) -> bool:
    """Whether pictures follow each other at nearly one rate: of others Chromium leaves the last ones out, where the
    order of decoding is not the order of showing."""
    gaps = np.diff(times_s)
    return len(gaps) > 0 and bool(gaps.max() < 1.5 * gaps.min())


def copy_size(width: int, height: int) -> tuple[int, int]:
    """Sides of a copy: even, and at most `_MAX_HEIGHT` high."""
    share = min(1.0, _MAX_HEIGHT / height)
    return max(2, round(width * share / 2) * 2), max(2, round(height * share / 2) * 2)


def _is_played(clip: Path) -> bool:
    with opened(str(clip)) as (container, stream):
        pixels, codec = stream.codec_context.pix_fmt, stream.codec_context.name
        # FFmpeg has one reader for Matroska and WebM; browsers tell them apart by what is inside.
        kind = "webm" if clip.suffix.lower() == ".webm" else "mp4" if "mp4" in container.format.name else ""
    return pixels in _PLAYED_PIXELS and codec in _PLAYED.get(kind, set())
