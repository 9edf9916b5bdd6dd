"""Codec x container x groups of pictures x frame rate: pictures carry numbers, every sampled one is checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from videor2_rl.config.sections import VideoConfig
from videor2_rl.video import timeline, with_pyav
from videor2_rl.video.decode import decode
from videor2_rl.video.sources import sources

RATE = 25
NUM_PICTURES = 51
GAP_S = 3.0
"""Kept free in "gaps", after a third of the pictures and after two."""

H264 = ["mp4", "mov", "mkv", "ts", "m2ts"]
HEVC = ["mp4", "mov", "mkv", "ts"]
AV1 = ["mp4", "mkv", "webm"]
VP9 = ["webm", "mkv", "mp4"]
MPEG2 = ["mpg", "ts", "mkv", "mov"]
MPEG4 = ["avi", "mp4", "mov", "mkv"]
GROUPS = ["closed", "open", "long", "intra"]
RATES = ["constant", "variable", "gaps"]

# An encoder's options for each kind of group; "long" is one group for the whole clip.
OPTIONS: dict[str, dict[str, dict[str, str]]] = {
    "libx264": {
        "closed": {"preset": "veryfast", "x264-params": "keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"},
        "open": {
            "preset": "veryfast",
            "x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0",
        },
        "long": {"preset": "veryfast", "bf": "3", "g": "1000"},
        "intra": {"preset": "veryfast", "g": "1"},
    },
    "libx265": {
        "closed": {
            "preset": "ultrafast",
            "x265-params": "log-level=none:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop=0",
        },
        "open": {
            "preset": "ultrafast",
            "x265-params": "log-level=none:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop=1",
        },
        "long": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=1000:bframes=3"},
        "intra": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=1"},
    },
    "libsvtav1": {
        "closed": {"preset": "12", "svtav1-params": "keyint=12:irefresh-type=2:lp=1"},
        "open": {"preset": "12", "svtav1-params": "keyint=16:irefresh-type=1:lp=1"},
        "long": {"preset": "12", "svtav1-params": "keyint=1000:lp=1"},
    },
    "libvpx-vp9": {
        "closed": {"deadline": "realtime", "cpu-used": "8", "g": "12"},
        # With pictures that are decoded and never shown.
        "long": {"deadline": "good", "cpu-used": "8", "g": "1000", "auto-alt-ref": "1", "lag-in-frames": "16"},
        "intra": {"deadline": "realtime", "cpu-used": "8", "g": "1"},
    },
    "mpeg2video": {
        "closed": {"g": "12", "bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"},
        "open": {"g": "12", "bf": "2", "sc_threshold": "1000000000"},
        "long": {"g": "600", "bf": "2", "sc_threshold": "1000000000"},
        "intra": {"g": "1"},
    },
    "mpeg4": {
        "closed": {"g": "12"},
        "open": {"g": "12", "bf": "2"},
        "long": {"g": "600", "bf": "2"},
        "intra": {"g": "1"},
    },
    "prores_ks": {"intra": {}},
    "mjpeg": {"intra": {}},
}
CONTAINERS = {
    "libx264": H264,
    "libx265": HEVC,
    "libsvtav1": AV1,
    "libvpx-vp9": VP9,
    "mpeg2video": MPEG2,
    "mpeg4": MPEG4,
    "prores_ks": ["mov", "mkv"],
    "mjpeg": ["avi", "mov", "mkv", "mp4"],
}
MATRIX = [
    (codec, container, group, rate)
    for codec, containers in CONTAINERS.items()
    for container in containers
    for group in OPTIONS[codec]
    for rate in RATES
]
FORMATS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}


def schedule(rate: str) -> list[int]:
    """When each picture is shown, in ticks of 1 / RATE s."""
    if rate == "constant":
        return list(range(NUM_PICTURES))
    if rate == "variable":
        return [int(tick) for tick in np.cumsum([(1, 1, 2, 4, 1, 3)[i % 6] for i in range(NUM_PICTURES)])]
    third = NUM_PICTURES // 3
    return [i + round(GAP_S * RATE) * (i // third) for i in range(NUM_PICTURES)]


@pytest.fixture
def write_numbered(
    tmp_path: Path, counter_frame: Callable[[int], NDArray[np.uint8]]
) -> Callable[[str, str, str, str], Path]:
    def write(codec: str, container: str, group: str, rate: str) -> Path:
        import av

        path = tmp_path / f"{codec}_{group}_{rate}.{container}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=RATE, options=OPTIONS[codec][group])
            assert isinstance(stream, av.VideoStream)
            stream.width = stream.height = 64
            stream.pix_fmt = FORMATS.get(codec, "yuv420p")
            stream.codec_context.time_base = Fraction(1, RATE)
            for number, tick in enumerate(schedule(rate)):
                frame = av.VideoFrame.from_ndarray(counter_frame(number), format="rgb24")
                frame.pts, frame.time_base = tick, Fraction(1, RATE)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        _as_before()
        return path

    return write


def _as_before() -> None:
    """SVT-AV1 leaves root's process at real-time priority; every child would inherit it and starve the others."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture
def config(video_config: VideoConfig) -> VideoConfig:
    """Frames at their own size."""
    return replace(video_config, fps=6.0, max_frames=16, min_pixels=64 * 64, max_pixels=64 * 64, size_multiple=8)


def shown_times(path: Path, read_counter: Callable[[NDArray[np.uint8]], int]) -> dict[int, float]:
    """Number -> seconds on a player's axis, by FFmpeg's own decoding from the start."""
    import av

    with av.open(str(path)) as file:
        start_s = (file.start_time or 0) / 1e6
        return {
            read_counter(cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24")).transpose(2, 0, 1)): cast(
                float, frame.time
            )
            - start_s
            for frame in file.decode(video=0)
        }


@pytest.mark.parametrize(("codec", "container", "group", "rate"), MATRIX)
def test_each_picture_is_the_one_that_a_player_shows(
    codec: str,
    container: str,
    group: str,
    rate: str,
    write_numbered: Callable[[str, str, str, str], Path],
    read_counter: Callable[[NDArray[np.uint8]], int],
    config: VideoConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_numbered(codec, container, group, rate)
    shown = shown_times(path, read_counter)
    # AVI repeats pictures to fill gaps, and players count its delay for B-frames as time; program streams stamp some
    # pictures only, and players go on at the frame rate after them.
    if container != "avi" and (container, rate) not in (("mpg", "variable"), ("mpg", "gaps")):
        ticks = schedule(rate)
        meant = {number: (tick - ticks[0]) / RATE for number, tick in enumerate(ticks)}
        assert shown == pytest.approx(meant, abs=2e-3)

    def check(one: VideoConfig, start_s: float | None = None, end_s: float | None = None) -> NDArray[np.uint8]:
        frames, times_s = decode(str(path), one, start_s=start_s, end_s=end_s)
        numbers = [read_counter(frame.transpose(2, 0, 1)) for frame in frames]
        assert [shown[number] for number in numbers] == pytest.approx(times_s.tolist(), abs=2e-3)
        assert len(set(numbers)) == len(numbers)
        return frames

    every = replace(config, fps=100.0, max_frames=NUM_PICTURES)
    assert len(check(every)) == NUM_PICTURES - NUM_PICTURES % 2
    sparse = check(config)
    assert len(sparse) >= 12
    bounds = (shown[20] - 0.01, shown[40] + 0.01)
    part = check(replace(config, fps=25.0), *bounds)
    # The same by every way to the pictures: a seek before each of them, a part whose packets alone are read.
    assert np.array_equal(check(replace(config, decoder="pyav")), sparse)
    monkeypatch.setattr(with_pyav, "_WORTH_A_SEEK", 1)
    monkeypatch.setattr(timeline, "_FAR_S", 0.5)
    assert np.array_equal(check(replace(config, decoder="pyav")), sparse)
    assert np.array_equal(check(replace(config, decoder="pyav", fps=25.0), *bounds), part)


def test_decord_takes_the_files_for_which_it_is_proven_and_no_other(
    write_numbered: Callable[[str, str, str, str], Path], config: VideoConfig
) -> None:
    def taken(codec: str, container: str, group: str) -> str:
        return next(sources(str(write_numbered(codec, container, group, "constant")), config.decoder)).decoder

    assert taken("libx264", "mp4", "closed") == taken("libvpx-vp9", "webm", "closed") == "decord"
    assert taken("libsvtav1", "mp4", "closed") == taken("mjpeg", "mov", "intra") == "decord"
    assert taken("libx264", "mkv", "open") == taken("libx264", "ts", "closed") == "pyav"
    assert taken("libx265", "mp4", "closed") == taken("mpeg2video", "mpg", "closed") == "pyav"
