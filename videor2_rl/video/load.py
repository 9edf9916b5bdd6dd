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
from videor2_rl.video.cache import ClipStats, Made, cached, clip_key, file_hash, load_or_make
from videor2_rl.video.decode import decode
from videor2_rl.video.errors import VideoError
from videor2_rl.video.fonts import files_for, fonts_digest
from videor2_rl.video.official.clip import official_clip, read_cues
from videor2_rl.video.official.subtitles import Cue as OfficialCue
from videor2_rl.video.overlay import draw_overlays
from videor2_rl.video.sampling import sample_fps
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
            "subtitles": _drawn(sample, config, cues),
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
        made = _make(sample, config, cues_of(sample, config))
        return made.frames, made.times_s
    except OSError as error:
        raise VideoError("unreadable", f"{sample.video}: {error.strerror}") from None


def drawn_subtitles(sample: VideoSample, config: VideoConfig) -> Path | None:
    """The file that is drawn on the sample's frames; the paper's code knows only `.srt`, and none beside the clip."""
    if not config.subtitles or sample.subtitles is None:
        return None
    file = Path(sample.subtitles)
    if config.rule == "video_r2_official" and (sample.subtitles_beside or file.suffix != ".srt"):
        return None
    return file


def drawn_cues(sample: VideoSample, config: VideoConfig) -> tuple[Cue, ...] | tuple[OfficialCue, ...]:
    """The subtitles that may be drawn on the sample's frames, in order of their start."""
    if config.rule == "player":
        return cues_of(sample, config)
    file = drawn_subtitles(sample, config)
    return () if file is None else read_cues(file)


def cues_of(sample: VideoSample, config: VideoConfig) -> tuple[Cue, ...]:
    """What the player's rule draws on the sample's frames; a file without a readable cue is logged, and the clip used
    bare."""
    file = drawn_subtitles(sample, config)
    if file is None or config.rule != "player":
        return ()
    found = read_subtitles(str(file), encoding=config.subtitle_encoding)
    if found.fault:
        logger.warning("%s: %s; the clip is used without subtitles", file, found.fault)
    return found.cues


def _drawn(sample: VideoSample, config: VideoConfig, cues: tuple[Cue, ...]) -> str | None:
    """A hash of what of the subtitles makes a difference on frames: of cues and the fonts that they need, or, by the
    paper's rule, of the file."""
    file = drawn_subtitles(sample, config)
    if config.rule != "player":
        return None if file is None else file_hash(file, Path(config.cache_dir))
    if not cues:
        return None
    texts = json.dumps([(cue.start_s, cue.end_s, cue.text) for cue in cues])
    fonts = fonts_digest(files_for("".join(cue.text for cue in cues), config.font))
    return hashlib.sha256(f"{texts}{fonts}".encode()).hexdigest()


def _hash(video: Path, cache_dir: Path) -> str:
    try:
        return file_hash(video, cache_dir)
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("missing", f"{video}: no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise VideoError("unreadable", f"{video}: {error.strerror}") from None


def _make(sample: VideoSample, config: VideoConfig, cues: tuple[Cue, ...]) -> Made:
    if config.rule == "video_r2_official":
        return official_clip(
            sample.video,
            config,
            start_s=sample.clip_start_s,
            end_s=sample.clip_end_s,
            subtitles=drawn_subtitles(sample, config),
        )
    frames, times_s = decode(sample.video, config, start_s=sample.clip_start_s, end_s=sample.clip_end_s)
    drawn = draw_overlays(frames, times_s, timestamps=config.timestamps, cues=cues, font=config.font)
    return Made(np.ascontiguousarray(drawn.transpose(0, 3, 1, 2)), times_s, sample_fps(times_s))
