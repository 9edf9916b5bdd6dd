"""What a model says when the video is not the true one: clips that are blank, frozen, shuffled or shifted in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import Clip, VideoSample
from videor2_rl.video.load import cues_of, drawn_subtitles, load_clip
from videor2_rl.video.official.clip import official_clip
from videor2_rl.video.overlay import draw_overlays

Frames = NDArray[np.uint8]


def _blank(frames: Frames, seed: int) -> Frames:
    return np.full_like(frames, 128)


def _first_frame(frames: Frames, seed: int) -> Frames:
    return np.broadcast_to(frames[:1], frames.shape)


def _shuffled(frames: Frames, seed: int) -> Frames:
    return frames[np.random.default_rng(seed).permutation(len(frames))]


def _time_shifted(frames: Frames, seed: int) -> Frames:
    return np.roll(frames, len(frames) // 2, axis=0)


INTERVENTIONS: Mapping[str, Callable[[Frames, int], Frames]] = MappingProxyType(
    {"blank": _blank, "first_frame": _first_frame, "shuffled": _shuffled, "time_shifted": _time_shifted}
)
"""blank: mid-grey; first_frame: the first one throughout; shuffled: in random order; time_shifted: by half the clip,
what runs over comes first. Number and times of the frames stay."""


def altered_clip(sample: VideoSample, config: VideoConfig, intervention: str, *, seed: int) -> Clip:
    """The sample's clip with other frames under its true times; stamps and subtitles are drawn afterwards.

    Raises:
        VideoError: the clip cannot be used.
    """
    if config.rule == "video_r2_official":
        return _official(sample, config, intervention, seed=seed)
    bare, _ = load_clip(sample, replace(config, timestamps=False, subtitles=False))
    frames = INTERVENTIONS[intervention](bare.frames, seed)
    drawn = draw_overlays(
        np.ascontiguousarray(frames.transpose(0, 2, 3, 1)),
        bare.timestamps_s,
        timestamps=config.timestamps,
        cues=cues_of(sample, config),
        font=config.font,
    )
    return replace(bare, key=f"{bare.key}-{intervention}", frames=np.ascontiguousarray(drawn.transpose(0, 3, 1, 2)))


def _official(sample: VideoSample, config: VideoConfig, intervention: str, *, seed: int) -> Clip:
    """There the true pictures are altered at their full size: overlays are drawn before the resize."""
    key = load_clip(sample, config)[0].key
    made = official_clip(
        sample.video,
        config,
        start_s=sample.clip_start_s,
        end_s=sample.clip_end_s,
        subtitles=drawn_subtitles(sample, config),
        alter=lambda pictures: INTERVENTIONS[intervention](pictures, seed),
    )
    return Clip(f"{key}-{intervention}", made.frames, made.times_s, made.sample_fps)
