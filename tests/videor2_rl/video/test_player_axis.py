"""Files as cameras, cutters and browsers leave them: pictures at a player's times and in its shape, or a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import VideoSample
from videor2_rl.video import with_pyav
from videor2_rl.video.decode import decode, duration_s, probe
from videor2_rl.video.errors import VideoError
from videor2_rl.video.load import load_clip
from videor2_rl.video.sources import sources

Read = Callable[[NDArray[np.uint8]], int]
Write = Callable[..., Path]
CONSTANT = [i / 24 for i in range(96)]
GROUPS_OF_12 = {"g": "12", "bf": "2"}


@pytest.fixture
def config(video_config: VideoConfig) -> VideoConfig:
    return replace(video_config, fps=4.0, max_frames=64, min_pixels=64 * 64, max_pixels=64 * 64, size_multiple=8)


@pytest.fixture
def numbers_and_times(read_counter: Read, config: VideoConfig) -> Callable[[Path], tuple[list[int], list[float]]]:
    def read(path: Path) -> tuple[list[int], list[float]]:
        frames, times_s = decode(str(path), config, start_s=None, end_s=None)
        return [read_counter(frame.transpose(2, 0, 1)) for frame in frames], times_s.tolist()

    return read


def remux(source: Path, target: Path, *, shift_s: float = 0.0) -> Path:
    """The packets of a file in another container, as `ffmpeg -c copy` does."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size and packet.pts is not None and packet.dts is not None:
                shift = round(shift_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = stream
                new.mux(packet)
    return target


def add_sound(source: Path, target: Path, *, length_s: float, picture_at_s: float) -> Path:
    """Silence from 0 on, and the pictures from `picture_at_s` on."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0])
        audio = new.add_stream("aac", rate=48000)
        assert isinstance(audio, av.AudioStream)
        audio.layout = "mono"
        for start in range(0, round(length_s * 48000), 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            new.mux(audio.encode(frame))
        new.mux(audio.encode(None))
        for packet in old.demux(video=0):
            if packet.size and packet.pts is not None and packet.dts is not None:
                shift = round(picture_at_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = video
                new.mux(packet)
    return target


def test_a_cut_by_copy_begins_where_its_edit_list_says(
    tmp_path: Path, write_video: Write, numbers_and_times: Callable[[Path], tuple[list[int], list[float]]]
) -> None:
    whole = write_video("whole.mp4", CONSTANT, options={"g": "48", "bf": "2"})
    # From 1.5 s on: the copy begins with the keyframe at 0, and the edit list hides what lies before the cut.
    cut = remux(whole, tmp_path / "cut.mp4", shift_s=-1.5)
    numbers, times = numbers_and_times(cut)
    assert numbers[0] == 36 and numbers[-1] == 95
    assert times == pytest.approx([(number - 36) / 24 for number in numbers], abs=2e-3)


def test_a_picture_that_begins_after_the_sound_keeps_its_time(
    tmp_path: Path, write_video: Write, numbers_and_times: Callable[[Path], tuple[list[int], list[float]]]
) -> None:
    whole = write_video("whole.mp4", CONSTANT, options=GROUPS_OF_12)
    for suffix in ("mp4", "mkv", "ts"):
        late = add_sound(whole, tmp_path / f"late.{suffix}", length_s=5.0, picture_at_s=1.0)
        numbers, times = numbers_and_times(late)
        assert numbers[0] == 0 and numbers[-1] == 95
        assert times == pytest.approx([1 + number / 24 for number in numbers], abs=0.03)
    assert duration_s(str(tmp_path / "late.mp4")) == pytest.approx(5.0, abs=0.1)


def test_a_stream_that_begins_at_any_time_begins_at_0(
    tmp_path: Path, write_video: Write, numbers_and_times: Callable[[Path], tuple[list[int], list[float]]]
) -> None:
    whole = write_video("whole.mp4", CONSTANT, options=GROUPS_OF_12)
    for suffix in ("mkv", "ts"):
        numbers, times = numbers_and_times(remux(whole, tmp_path / f"later.{suffix}", shift_s=4000.0))
        assert times == pytest.approx([number / 24 for number in numbers], abs=2e-3)


def test_a_transport_stream_cut_between_keyframes_begins_with_its_first_whole_picture(
    tmp_path: Path, write_video: Write, numbers_and_times: Callable[[Path], tuple[list[int], list[float]]]
) -> None:
    whole = write_video("whole.ts", CONSTANT, options=GROUPS_OF_12)
    data = whole.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(data[len(data) // 3 // 188 * 188 :])
    numbers, times = numbers_and_times(cut)
    steps = np.diff(numbers)
    assert (steps > 0).all() and numbers[0] > 12
    assert np.diff(times) == pytest.approx(steps / 24, abs=2e-3)


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "h264"), ("libx265", "hevc"), ("mpeg4", "m4v")])
def test_a_bare_stream_without_times_goes_at_its_frame_rate(
    codec: str,
    suffix: str,
    write_video: Write,
    config: VideoConfig,
    numbers_and_times: Callable[[Path], tuple[list[int], list[float]]],
) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_video(f"bare.{suffix}", [i / 25 for i in range(75)], codec=codec, rate=25, options=options)
    numbers, times = numbers_and_times(path)
    assert len(numbers) >= 10
    assert times == pytest.approx([number / 25 for number in numbers], abs=2e-3)
    assert probe(str(path), config, start_s=None, end_s=None)[0].tolist() == times


# FFmpeg's display matrix, and where it takes the white mark at the top left of a picture of 64 x 32.
TURNS = {
    "upright": ((1, 0, 0, 1), "top left"),
    "quarter": ((0, -1, 1, 0), "bottom left"),
    "half": ((-1, 0, 0, -1), "bottom right"),
    "three quarters": ((0, 1, -1, 0), "top right"),
    "mirrored": ((-1, 0, 0, 1), "top right"),
    "upside down": ((1, 0, 0, -1), "bottom left"),
    "mirrored quarter": ((0, 1, 1, 0), "top left"),
}


def write_marked(
    path: Path, *, aspect: Fraction | None = None, matrix: tuple[int, int, int, int] | None = None
) -> Path:
    import av

    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:12, :24] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (value << 16 for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_turned_or_mirrored_picture_is_shown_as_a_player_shows_it(
    turn: str, decoder: Any, tmp_path: Path, config: VideoConfig
) -> None:
    matrix, where = TURNS[turn]
    path = write_marked(tmp_path / "turned.mp4", matrix=matrix)
    own_size = replace(config, decoder=decoder, min_pixels=32 * 64, max_pixels=32 * 64)
    frames, _ = decode(str(path), own_size, start_s=None, end_s=None)
    assert frames.shape[1:3] == ((64, 32) if "quarter" in turn else (32, 64))
    height, width = frames.shape[1:3]
    rows = {"top": slice(0, height // 4), "bottom": slice(height - height // 4, height)}
    columns = {"left": slice(0, width // 4), "right": slice(width - width // 4, width)}
    corners = {f"{y} {x}": frames[0][rows[y], columns[x]].mean() for y in rows for x in columns}
    assert [name for name, mean in corners.items() if mean > 128] == [where]
    assert next(sources(str(path), own_size.decoder)).decoder == (
        "decord" if decoder == "auto" and turn == "upright" else "pyav"
    )


@pytest.mark.parametrize(
    ("aspect", "matrix", "shape"),
    [
        (None, None, (32, 64)),
        (Fraction(2), None, (24, 96)),
        (Fraction(1, 2), None, (48, 48)),
        (Fraction(2), TURNS["quarter"][0], (96, 24)),
    ],
)
def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(
    aspect: Fraction | None,
    matrix: tuple[int, int, int, int] | None,
    shape: tuple[int, int],
    tmp_path: Path,
    config: VideoConfig,
) -> None:
    path = write_marked(tmp_path / "aspect.mp4", aspect=aspect, matrix=matrix)
    sized = replace(config, min_pixels=32 * 64, max_pixels=48 * 48)
    frames, times_s = decode(str(path), sized, start_s=None, end_s=None)
    assert frames.shape[1:3] == shape
    assert probe(str(path), sized, start_s=None, end_s=None)[1:] == shape
    assert len(times_s) == len(frames)


def test_a_short_part_of_a_long_file_is_read_and_decoded_alone(
    write_video: Write, read_counter: Read, config: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An hour of one picture in 0.4 s; the counter begins anew after 256.
    times = [i * 0.4 for i in range(9000)]
    path = write_video("hour.mp4", times, codec="mpeg4", options={"g": "25"})
    decoded = []
    original = with_pyav._frames

    def counted(*arguments: Any) -> Iterator[Any]:
        for item in original(*arguments):
            decoded.append(item[0].pts)
            yield item

    monkeypatch.setattr(with_pyav, "_frames", counted)
    frames, times_s = decode(str(path), replace(config, fps=2.5), start_s=3000.0, end_s=3012.4)
    assert len(frames) == 32 and times_s[0] == pytest.approx(3000.0)
    numbers = [read_counter(frame.transpose(2, 0, 1)) for frame in frames]
    assert numbers == [round(time_s / 0.4) % 256 for time_s in times_s]
    assert len(decoded) < 32 + 2 * 25 + 10
    # 32 frames of the whole hour: a seek before each of them.
    decoded.clear()
    spread = replace(config, max_frames=32, decoder="pyav")
    frames, times_s = decode(str(path), spread, start_s=None, end_s=None)
    numbers = [read_counter(frame.transpose(2, 0, 1)) for frame in frames]
    assert numbers == [round(time_s / 0.4) % 256 for time_s in times_s]
    assert times_s[0] == 0 and times_s[-1] == pytest.approx(8999 * 0.4) and len(decoded) < 32 * 60


def sound_alone(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        for start in range(0, 48000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cut_download(whole: Path, path: Path) -> None:
    """The header first, as for the web, then half of the pictures."""
    import av

    with av.open(str(whole)) as old, av.open(str(path), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_what_no_player_shows_is_skipped_with_its_reason(
    decoder: Any, tmp_path: Path, write_video: Write, config: VideoConfig
) -> None:
    from PIL import Image

    whole = write_video("whole.mp4", CONSTANT, options=GROUPS_OF_12)
    sound_alone(tmp_path / "sound.mp4")
    cut_download(whole, tmp_path / "download.mp4")
    for name in ("picture.jpg", "picture.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    reasons = {}
    for name in ("sound.mp4", "download.mp4", "picture.jpg", "picture.png"):
        with pytest.raises(VideoError) as caught:
            load_clip(VideoSample("s", str(tmp_path / name), "q", "a"), replace(config, decoder=decoder))
        assert name in caught.value.detail
        reasons[name] = (caught.value.reason, caught.value.detail.partition(": ")[2])
    assert reasons["sound.mp4"] == ("unreadable", "the file has no moving pictures")
    assert reasons["download.mp4"][0] == "unreadable" and "cut off" in reasons["download.mp4"][1]
    assert reasons["picture.jpg"][0] == reasons["picture.png"][0] == "too_short"


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "mp4"), ("libx264", "ts"), ("mpeg4", "avi"), ("libvpx-vp9", "webm")]
)
def test_a_damaged_file_gives_frames_or_a_reason_and_never_another_error(
    codec: str, suffix: str, tmp_path: Path, write_video: Write, config: VideoConfig
) -> None:
    fast = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx-vp9" else {}
    whole = write_video(f"whole.{suffix}", CONSTANT, codec=codec, options={"g": "12"} | fast).read_bytes()
    damaged = tmp_path / f"damaged.{suffix}"
    outcomes: list[str] = []
    for seed in range(12):
        random, data = np.random.default_rng(seed), bytearray(whole)
        place = int(random.uniform(0.1, 0.9) * len(data))
        if seed % 3 == 0:
            data[place : place + 200] = random.bytes(200)
        elif seed % 3 == 1:
            del data[place : place + 300]
        else:
            del data[place:]
        damaged.write_bytes(data)
        try:
            frames, times_s = decode(str(damaged), config, start_s=None, end_s=None)
        except VideoError as error:
            assert str(damaged) in error.detail
            outcomes.append(error.reason)
        else:
            assert len(frames) == len(times_s) and (np.diff(times_s) > 0).all()
            outcomes.append("used")
    assert len(outcomes) == 12


def test_decord_alone_skips_what_it_is_not_proven_for(write_video: Write, config: VideoConfig) -> None:
    alone = replace(config, decoder="decord")
    closed = write_video("closed.mp4", CONSTANT, options=GROUPS_OF_12)
    frames, times_s = decode(str(closed), alone, start_s=None, end_s=None)
    expected, expected_times_s = decode(str(closed), replace(config, decoder="pyav"), start_s=None, end_s=None)
    assert np.array_equal(frames, expected) and np.array_equal(times_s, expected_times_s)
    stream = write_video("stream.ts", CONSTANT, options=GROUPS_OF_12)
    with pytest.raises(VideoError, match="decoder=auto reads it") as caught:
        decode(str(stream), alone, start_s=None, end_s=None)
    assert caught.value.reason == "unreadable"
