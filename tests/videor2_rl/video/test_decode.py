"""The right frames with the right times, out of every kind of file, and a reason for each file that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import VideoSample
from videor2_rl.video.decode import decode, probe, resize
from videor2_rl.video.errors import VideoError
from videor2_rl.video.load import load_clip
from videor2_rl.video.overlay import draw_overlays
from videor2_rl.video.subtitles import Cue

CONSTANT = [i / 24 for i in range(96)]
VARIABLE = [float(i) / 24 for i in range(24)] + [1 + i / 5 for i in range(20)]
SLOW_THEN_FAST = [float(i) for i in range(8)] + [8 + i / 2 for i in range(15)]


@pytest.fixture
def config(video_config: VideoConfig) -> VideoConfig:
    """Frames at their own size."""
    return replace(video_config, fps=4.0, max_frames=64, min_pixels=64 * 64, max_pixels=64 * 64, size_multiple=8)


def sample(path: Path, **changes: float) -> VideoSample:
    return VideoSample("s", str(path), "q", "a", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "times", "codec", "rate", "options"),
    [
        ("h264_b_frames.mp4", CONSTANT, "libx264", 24, {"bf": "3", "preset": "medium"}),
        ("h264_variable.mkv", VARIABLE, "libx264", 24, {"bf": "3", "preset": "medium"}),
        ("h264_variable.mp4", VARIABLE, "libx264", 24, {"bf": "2"}),
        # Without decode times in the container: decord2 3.4.0 gives 9e15 for every frame, so it is not taken.
        ("h264_no_decode_times.mkv", SLOW_THEN_FAST, "libx264", 1, {"preset": "ultrafast"}),
        ("vp9.webm", CONSTANT, "libvpx-vp9", 24, {"deadline": "realtime", "cpu-used": "8"}),
        ("hevc.mp4", CONSTANT, "libx265", 24, {"preset": "ultrafast", "x265-params": "log-level=none"}),
    ],
)
def test_frames_and_times_belong_together(
    name: str,
    times: list[float],
    codec: str,
    rate: int,
    options: dict[str, str],
    write_video: Callable[..., Path],
    true_times: Callable[[Path], NDArray[np.float64]],
    read_counter: Callable[[NDArray[np.uint8]], int],
    config: VideoConfig,
) -> None:
    path = write_video(name, times, codec=codec, rate=rate, options=options)
    clip, _ = load_clip(sample(path), config)
    numbers = [read_counter(frame) for frame in clip.frames]
    assert len(set(numbers)) == len(numbers) >= 14
    assert np.allclose(clip.timestamps_s, true_times(path)[numbers], atol=1e-4)
    assert clip.frames.dtype == np.uint8 and clip.frames.shape[1:] == (3, 64, 64)


def test_only_the_part_between_start_and_end_is_used(
    write_video: Callable[..., Path], read_counter: Callable[[NDArray[np.uint8]], int], config: VideoConfig
) -> None:
    path = write_video("clip.mp4", CONSTANT)
    clip, _ = load_clip(sample(path, clip_start_s=1.0, clip_end_s=2.5), config)
    assert read_counter(clip.frames[0]) == 24 and read_counter(clip.frames[-1]) == 60
    assert clip.timestamps_s[0] == pytest.approx(1.0) and clip.timestamps_s[-1] == pytest.approx(2.5)
    assert clip.sample_fps == pytest.approx((len(clip.frames) - 1) / 1.5)


def test_a_part_is_stamped_and_subtitled_with_the_times_of_its_file(
    tmp_path: Path, write_video: Callable[..., Path], config: VideoConfig
) -> None:
    path = write_video("long.mp4", [float(i) for i in range(40)], rate=1)
    subtitles = tmp_path / "long.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:09,000\nearly\n\n2\n00:00:30,000 --> 00:00:39,000\nlate\n")
    part = replace(sample(path, clip_start_s=30.0, clip_end_s=35.0), subtitles=str(subtitles))
    large = replace(config, fps=1.0, min_pixels=112 * 112, max_pixels=112 * 112)
    plain, _ = load_clip(part, large)
    drawn, _ = load_clip(part, replace(large, timestamps=True, subtitles=True))
    expected = draw_overlays(
        plain.frames.transpose(0, 2, 3, 1),
        np.arange(30.0, 36.0, dtype=np.float64),
        timestamps=True,
        cues=(Cue(0.0, 9.0, "early"), Cue(30.0, 39.0, "late")),
    )
    assert drawn.timestamps_s.tolist() == [30.0, 31.0, 32.0, 33.0, 34.0, 35.0]
    assert np.array_equal(drawn.frames, expected.transpose(0, 3, 1, 2))
    assert not np.array_equal(drawn.frames, plain.frames)


def test_a_probe_tells_what_decoding_would_give(write_video: Callable[..., Path], config: VideoConfig) -> None:
    path = str(write_video("clip.mp4", CONSTANT))
    for bounds in ({"start_s": None, "end_s": None}, {"start_s": 1.0, "end_s": 2.5}):
        frames, times_s = decode(path, config, **bounds)
        probed, height, width = probe(path, config, **bounds)
        assert np.array_equal(probed, times_s) and frames.shape[1:] == (height, width, 3)


def test_a_frame_is_scaled_to_the_budget(write_video: Callable[..., Path], config: VideoConfig) -> None:
    path = write_video("clip.mp4", CONSTANT)
    clip, _ = load_clip(sample(path), replace(config, min_pixels=64, max_pixels=64))
    assert clip.frames.shape[2:] == (8, 8)
    # One column for each bar of the last frame's counter, 95 = 0b01011111.
    bars = clip.frames[-1].mean(axis=(0, 1))
    assert (bars > 127).tolist() == [True, True, True, True, True, False, True, False]


def test_a_pattern_finer_than_a_pixel_becomes_its_mean() -> None:
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = resize(np.repeat(checkers[..., None], 3, axis=2), 16, 16)
    assert small.dtype == np.uint8 and (np.abs(small[1:-1, 1:-1].astype(int) - 127) <= 2).all()


@pytest.fixture
def broken(tmp_path: Path, write_video: Callable[..., Path]) -> dict[str, Path]:
    whole = write_video("whole.mp4", CONSTANT)
    files = {name: tmp_path / f"{name}.mp4" for name in ("empty", "truncated", "text", "audio")}
    files["empty"].touch()
    files["truncated"].write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    files["text"].write_text("This is no video.\n" * 100)
    files["short"] = write_video("short.mp4", CONSTANT[:3])
    files["missing"] = tmp_path / "missing.mp4"
    files["folder"] = tmp_path
    return files


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "empty"),
        ("truncated", "unreadable"),
        ("text", "unreadable"),
        ("short", "too_short"),
        ("missing", "missing"),
        ("folder", "unreadable"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    name: str, reason: str, broken: dict[str, Path], config: VideoConfig
) -> None:
    with pytest.raises(VideoError) as caught:
        load_clip(sample(broken[name]), config)
    assert caught.value.reason == reason
    assert str(broken[name]) in caught.value.detail


def test_a_matroska_file_cut_in_the_middle_gives_its_true_frames_or_a_reason(
    tmp_path: Path,
    write_video: Callable[..., Path],
    read_counter: Callable[[NDArray[np.uint8]], int],
    config: VideoConfig,
) -> None:
    whole = write_video("whole.mkv", CONSTANT, options={"g": "12"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    try:
        clip, _ = load_clip(sample(cut), config)
    except VideoError as error:
        assert error.reason in ("unreadable", "bad_times", "too_short")
        return
    numbers = [read_counter(frame) for frame in clip.frames]
    assert np.allclose(clip.timestamps_s, np.asarray(numbers) / 24, atol=2e-3)
