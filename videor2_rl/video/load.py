"""A sample's clip, through the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import Clip, VideoSample
from videor2_rl.video.cache import ClipStats, cached, clip_key, file_hash, load_or_make
from videor2_rl.video.decode import decode
from videor2_rl.video.errors import VideoError
from videor2_rl.video.fonts import files_for, fonts_digest
from videor2_rl.video.overlay import draw_overlays
from videor2_rl.video.subtitles import Cue, read_subtitles

_RECIPE = 2
"""Raise it with every change of what frames look like: older entries of the cache no longer apply."""
_NOT_IN_KEY = ("cache_dir", "num_workers", "cpus_per_worker", "font", "subtitle_encoding")
"""The last two are in what is drawn."""
logger = logging.getLogger(__name__)


def load_clip(sample: VideoSample, config: VideoConfig) -> tuple[Clip, ClipStats]:
    """The sample's frames, sampled, resized and drawn on; decoded only where the cache does not have them.

    Raises:
        VideoError: the clip cannot be used; its reason is one of SkippedSample's.
    """
    started = time.perf_counter()
    cache_dir = Path(config.cache_dir)
    cues = cues_of(sample, config)
    key = clip_key(
        {
            "recipe": _RECIPE,
            "video": _hash(Path(sample.video), cache_dir),
            "subtitles": _drawn(cues, config.font) if cues else None,
            "bounds_s": [sample.clip_start_s, sample.clip_end_s],
            "config": {name: value for name, value in asdict(config).items() if name not in _NOT_IN_KEY},
        }
    )
    stored = load_or_make(cache_dir, key, lambda: _make(sample, config, cues))
    return stored.clip, ClipStats(
        decodes=stored.decodes,
        is_cached=stored.is_cached,
        seconds=time.perf_counter() - started,
        cache_fault=stored.cache_fault,
    )


def seen_frames(
    sample: VideoSample, config: VideoConfig, *, key: str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Frames [F, 3, H, W] and times [F] as `load_clip` gives them, for a reader: nothing is written.

    Args:
        sample: the row; its clip is decoded where the cache has no entry.
        config: how the model's frames were made.
        key: `Clip.key`, where it is known; the frames then come from the cache if it still has them.

    Raises:
        VideoError: the clip cannot be used; its reason is one of SkippedSample's.
    """
    clip = None if key is None else cached(Path(config.cache_dir), key)
    if clip is not None:
        return clip.frames, clip.timestamps_s
    try:
        return _make(sample, config, cues_of(sample, config))
    except OSError as error:
        raise VideoError("unreadable", f"{sample.video}: {error.strerror}") from None


def cues_of(sample: VideoSample, config: VideoConfig) -> tuple[Cue, ...]:
    """What is to be drawn on the sample's frames; a file without a readable cue is logged, and the clip used bare."""
    if not config.subtitles or sample.subtitles is None:
        return ()
    found = read_subtitles(sample.subtitles, encoding=config.subtitle_encoding)
    if found.fault:
        logger.warning("%s: %s; the clip is used without subtitles", sample.subtitles, found.fault)
    return found.cues


def _drawn(cues: tuple[Cue, ...], font: str | None) -> str:
    """A hash of cues and of the fonts that they need: what makes a difference on frames, and no more."""
    texts = json.dumps([(cue.start_s, cue.end_s, cue.text) for cue in cues])
    fonts = fonts_digest(files_for("".join(cue.text for cue in cues), font))
    return hashlib.sha256(f"{texts}{fonts}".encode()).hexdigest()


def _hash(video: Path, cache_dir: Path) -> str:
    try:
        return file_hash(video, cache_dir)
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("missing", f"{video}: no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise VideoError("unreadable", f"{video}: {error.strerror}") from None


def _make(
    sample: VideoSample, config: VideoConfig, cues: tuple[Cue, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Frames [F, 3, H, W] and times [F]."""
    frames, times_s = decode(sample.video, config, start_s=sample.clip_start_s, end_s=sample.clip_end_s)
    drawn = draw_overlays(frames, times_s, timestamps=config.timestamps, cues=cues, font=config.font)
    return np.ascontiguousarray(drawn.transpose(0, 3, 1, 2)), times_s
