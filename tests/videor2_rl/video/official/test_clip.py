"""Frames equal, pixel for pixel, what the paper's code drew on and made of the same ones.

`frames.npz.xz`: results of `train/qwen_vl_utils/vision_process.py` under the Pillow, torch and DejaVu Sans that the
project pins; `clip.mp4` and `clip.srt` are ours. Its reader was decord.
"""

from __future__ import annotations

import io
import lzma
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.evaluation.probes.interventions import INTERVENTIONS, altered_clip
from videor2_rl.inputs import count_subtitles
from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.types import VideoSample
from videor2_rl.video.decode import probe
from videor2_rl.video.errors import VideoError
from videor2_rl.video.load import drawn_cues, load_clip, seen_frames
from videor2_rl.video.official.overlay import draw_subtitle, draw_time

HERE = Path(__file__).parent
FPS = 30000 / 1001
SPEECH = "A cook opens the oven; then she slices\nbread, gypsum and a quay on the long wooden table."
GREY = (128, 128, 128)
DRAWN: dict[str, tuple[int, int, tuple[int, int, int], tuple[int, int, int], str, str]] = {
    "dark": (120, 160, (30, 30, 30), (30, 30, 30), "00:00:07", ""),
    "light": (120, 160, (220, 220, 200), (220, 220, 200), "00:00:07", "Yes."),
    "red": (240, 320, (200, 60, 60), (90, 200, 90), "01:02:03", "Hello there"),
    "reddish_and_light": (240, 320, (255, 210, 214), (10, 10, 10), "99:59:59", ""),
    "not_quite_red": (240, 320, (160, 121, 120), (10, 10, 10), "100:00:00", ""),
    "luminance_80": (240, 320, (80, 80, 80), (0, 0, 0), "00:00:00", ""),
    "luminance_79": (240, 320, (79, 80, 80), (255, 255, 255), "00:00:00", ""),
    "two_lines": (360, 640, (255, 255, 255), (120, 160, 200), "00:10:00", SPEECH),
    "portrait": (640, 360, (0, 0, 255), (200, 200, 200), "00:00:59", SPEECH + "\n\nEnd"),
    "long_word": (240, 320, GREY, GREY, "00:00:01", "x" + "Donaudampfschiff" * 4 + " end"),
    "fills_the_frame": (144, 176, GREY, (240, 240, 240), "00:00:01", " ".join(["word"] * 60)),
    "narrow": (60, 40, GREY, GREY, "00:00:01", "too wide"),
    "flat": (30, 400, GREY, GREY, "00:00:01", "ab"),
    "hd": (720, 1280, (250, 250, 250), (40, 80, 40), "00:00:01", "Café g j p q — 你好"),
    "largest": (1640, 1500, (250, 250, 250), (40, 80, 40), "00:12:34", "Agile"),
    "empty_line": (240, 320, GREY, GREY, "00:00:01", "\nbelow an empty line"),
}
"""Name -> height, width, colour of the corner and of the rest (halved in the lower half), time, subtitle."""


@cache
def expected(name: str) -> NDArray[Any]:
    with np.load(io.BytesIO(lzma.decompress((HERE / "frames.npz.xz").read_bytes()))) as arrays:
        return np.asarray(arrays[name])


def background(height: int, width: int, corner: tuple[int, int, int], rest: tuple[int, int, int]) -> NDArray[np.uint8]:
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = rest
    frame[:40, :200] = corner
    frame[height // 2 :] //= 2
    return frame


@pytest.fixture
def official(video_config: VideoConfig) -> VideoConfig:
    return replace(
        video_config,
        rule="video_r2_official",
        fps=2.0,
        max_frames=32,
        min_pixels=3136,
        max_pixels=15680,
        size_multiple=28,
        timestamps=True,
        subtitles=True,
    )


def sample(**changes: Any) -> VideoSample:
    return VideoSample("s", str(HERE / "clip.mp4"), "q", "a", **{"subtitles": str(HERE / "clip.srt"), **changes})


@pytest.mark.parametrize("name", DRAWN)
def test_overlays_are_the_papers(name: str) -> None:
    height, width, corner, rest, time, text = DRAWN[name]
    frame = draw_time(background(height, width, corner, rest), time)
    frame = draw_subtitle(frame, text) if text else frame
    wrong = np.argwhere((frame != expected(f"drawn_{name}")).any(axis=-1))
    assert not len(wrong), f"{len(wrong)} pixels differ, the first at row and column {wrong[0]}"


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize(
    ("name", "bounds"), [("whole", {}), ("part", {"clip_start_s": 0.5, "clip_end_s": 2.4})], ids=["whole", "part"]
)
def test_a_clip_is_the_papers(name: str, bounds: dict[str, float], decoder: Any, official: VideoConfig) -> None:
    config = replace(official, decoder=decoder)
    clip, _ = load_clip(sample(**bounds), config)
    assert np.array_equal(clip.frames, expected(f"clip_{name}"))
    assert clip.sample_fps == float(expected(f"clip_{name}_fps"))
    first, last = (0, 89) if name == "whole" else (15, 71)
    places = np.linspace(first, last, len(clip.frames)).round()
    assert np.allclose(clip.timestamps_s, places / FPS, atol=1e-12)


def test_the_stored_clip_is_the_made_one_with_its_rate(official: VideoConfig) -> None:
    made, first = load_clip(sample(), official)
    read, second = load_clip(sample(), official)
    assert not first.is_cached and second.is_cached
    assert read.sample_fps == made.sample_fps == 6 / 90 * FPS
    assert np.array_equal(read.frames, made.frames) and np.array_equal(read.timestamps_s, made.timestamps_s)
    ours, _ = load_clip(sample(), replace(official, rule="player"))
    assert ours.key != made.key and ours.sample_fps != made.sample_fps
    frames, times_s = seen_frames(sample(), official)
    assert np.array_equal(frames, made.frames) and np.array_equal(times_s, made.timestamps_s)


def test_what_is_predicted_is_what_comes(official: VideoConfig) -> None:
    for bounds in ({}, {"clip_start_s": 0.5, "clip_end_s": 2.4}, {"clip_end_s": 0.9}):
        clip, _ = load_clip(sample(**bounds), official)
        limits = {"start_s": bounds.get("clip_start_s"), "end_s": bounds.get("clip_end_s")}
        times_s, height, width = probe(sample().video, official, **limits)
        assert np.array_equal(times_s, clip.timestamps_s) and clip.frames.shape[2:] == (height, width)


def test_learner_and_engine_hear_the_papers_rate(official: VideoConfig, model_config: ModelConfig) -> None:
    """The seconds of a temporal step travel in the prompt to both: two frames over 6 / 90 of the average rate."""
    clip, _ = load_clip(sample(), replace(official, min_pixels=784, max_pixels=3136, size_multiple=14))
    prompt = PromptBuilder(model_config).build(sample(), clip)
    assert prompt.second_per_grid_s == float(np.float32(2 / (6 / 90 * FPS)))
    assert prompt.second_per_grid_s < 2 * np.diff(clip.timestamps_s).mean() * 0.9


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"clip_start_s": 2.0, "clip_end_s": 1.0}, "too_short"),
        ({"clip_start_s": 99.0}, "too_short"),
        ({"clip_start_s": 1.0, "clip_end_s": 1.01}, "too_short"),
    ],
)
def test_bounds_that_leave_nothing_are_refused(bounds: dict[str, float], reason: str, official: VideoConfig) -> None:
    with pytest.raises(VideoError) as error:
        load_clip(sample(**bounds), official)
    assert error.value.reason == reason and "clip.mp4" in error.value.detail


def test_subtitles_beside_the_clip_are_not_drawn(official: VideoConfig) -> None:
    beside = sample(subtitles_beside=True)
    bare, _ = load_clip(sample(subtitles=None), official)
    assert np.array_equal(load_clip(beside, official)[0].frames, bare.frames)
    assert count_subtitles([beside], official) == (0, 1) and drawn_cues(beside, official) == ()
    ours = replace(official, rule="player")
    assert count_subtitles([beside], ours) == (1, 1) == count_subtitles([sample()], official)
    assert drawn_cues(sample(), official)[0].text == "The white box\nmoves right"


def test_subtitles_that_are_not_utf8_are_left_out_with_a_warning(
    tmp_path: Path, official: VideoConfig, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "latin.srt"
    file.write_bytes("1\n00:00:00,000 --> 00:00:03,000\nCafé\n".encode("latin-1"))
    clip, _ = load_clip(sample(subtitles=str(file)), official)
    assert np.array_equal(clip.frames, load_clip(sample(subtitles=None), official)[0].frames)
    assert "latin.srt: not UTF-8" in caplog.text


def test_pixels_that_are_not_square_stay_bent(tmp_path: Path, official: VideoConfig) -> None:
    """A player shows 64 x 64 pixels of 2 : 1 as 128 x 64; the paper's code never asks."""
    import av

    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    _, height, width = probe(str(path), official, start_s=None, end_s=None)
    assert height == width
    _, low, wide = probe(str(path), replace(official, rule="player"), start_s=None, end_s=None)
    assert wide == 2 * low
    assert load_clip(replace(sample(), video=str(path)), official)[0].frames.shape[2:] == (height, width)


def test_an_intervention_alters_the_pictures_before_they_are_drawn_on(official: VideoConfig) -> None:
    true, _ = load_clip(sample(), official)
    for name in INTERVENTIONS:
        altered = altered_clip(sample(), official, name, seed=0)
        assert altered.sample_fps == true.sample_fps and np.array_equal(altered.timestamps_s, true.timestamps_s)
        assert altered.key != true.key and altered.frames.shape == true.frames.shape
        assert not np.array_equal(altered.frames, true.frames)
    first = altered_clip(sample(), official, "first_frame", seed=0)
    assert np.array_equal(first.frames[0], true.frames[0])
    # The same picture under another time.
    assert not np.array_equal(first.frames[-1], first.frames[0])
