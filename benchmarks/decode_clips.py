"""Decoding a clip as we do beside decord alone: who takes it, time as a ratio, pictures of another time.

    python -m benchmarks.decode_clips [--seconds 20] [--repeats 5]

Clips of 640 x 360 at 25 frames a second, made here; each picture carries its number as a row of bars. 32 frames of each
clip, and 32 of ten seconds far inside an hour. Both sides decode on one thread and resize alike; they take turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from videor2_rl.config.sections import VideoConfig
from videor2_rl.video.decode import decode, resize
from videor2_rl.video.sampling import choose_frames, choose_size
from videor2_rl.video.sources import sources

RATE, BITS, HEIGHT, WIDTH = 25, 17, 360, 640
CLOSED = {"preset": "veryfast", "g": "250", "bf": "3"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=250:bframes=3"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "120"}
CLIPS: list[tuple[str, str, str, dict[str, str]]] = [
    ("H.264", "mp4", "libx264", CLOSED),
    ("H.264", "mkv", "libx264", CLOSED),
    ("H.264", "ts", "libx264", CLOSED),
    (
        "H.264 open groups",
        "mkv",
        "libx264",
        {"x264-params": "open-gop=1:keyint=50:scenecut=0:bframes=3:b-adapt=0", "preset": "veryfast"},
    ),
    ("HEVC", "mp4", "libx265", X265),
    ("VP9", "webm", "libvpx-vp9", VP9),
    ("AV1", "mp4", "libsvtav1", {"preset": "12", "svtav1-params": "lp=1:crf=20"}),
    ("MPEG-2", "mpg", "mpeg2video", {"g": "12", "bf": "2"}),
    ("MPEG-4", "avi", "mpeg4", {"g": "250", "bf": "2"}),
]


CONFIG = VideoConfig(
    rule="player",
    fps=4.0,
    min_frames=4,
    max_frames=32,
    min_pixels=3136,
    max_pixels=151200,
    size_multiple=28,
    timestamps=False,
    subtitles=False,
    cache_dir="",
    num_workers=1,
    cpus_per_worker=1,
    decoder="auto",
    font=None,
    subtitle_encoding=None,
)


@dataclass(frozen=True)
class Side:
    """What one side gave for a clip."""

    seconds: float
    num_wrong: int | None
    """Of 32 pictures; None: the clip cannot be read."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="length of a clip")
    parser.add_argument("--hour", type=int, default=3600, help="length of the long clip in seconds")
    parser.add_argument("--repeats", type=int, default=5, help="turns, of which the median counts")
    options = parser.parse_args()
    print("| clip | decoder | ours, ms | decord, ms | ratio | wrong pictures: ours | decord |")
    print("|---|---|---|---|---|---|---|")
    takers = []
    with tempfile.TemporaryDirectory() as folder:
        for name, suffix, codec, settings in CLIPS:
            path = _write(Path(folder) / f"{codec}.{suffix}", codec, settings, options.seconds)
            takers.append(next(sources(str(path), CONFIG.decoder)).decoder)
            _compare(f"{name}, {suffix}", path, None, options.repeats, takers[-1])
        hour = _write(Path(folder) / "hour.mp4", "mpeg4", {"g": "250"}, options.hour, small=True)
        far = options.hour * 0.8
        _compare("10 s far inside an hour", hour, (far, far + 10), options.repeats, "pyav")
    print(f"\n{takers.count('decord')} of {len(takers)} kinds go to decord, the others to PyAV")
    return 0


def _compare(name: str, path: Path, bounds: tuple[float, float] | None, repeats: int, taker: str) -> None:
    ours, alone = [], []
    for _ in range(repeats):
        ours.append(_ours(path, bounds))
        alone.append(_decord(path, bounds))
    mine, other = median(side.seconds for side in ours), median(side.seconds for side in alone)
    is_readable = alone[0].num_wrong is not None
    figures = (
        (f"{other * 1000:.0f}", f"{mine / other:.2f}", f"{alone[0].num_wrong}") if is_readable else ("-", "-", "no")
    )
    print(
        f"| {name} | {taker} | {mine * 1000:.0f} | {figures[0]} | {figures[1]} | {ours[0].num_wrong} | {figures[2]} |"
    )


def _ours(path: Path, bounds: tuple[float, float] | None) -> Side:
    start_s, end_s = bounds or (None, None)
    began = time.perf_counter()
    frames, times_s = decode(str(path), CONFIG, start_s=start_s, end_s=end_s)
    return Side(time.perf_counter() - began, _num_wrong(frames, times_s, path))


def _decord(path: Path, bounds: tuple[float, float] | None) -> Side:
    """decord as it is used elsewhere: its own times, its own seeks."""
    import decord

    start_s, end_s = bounds or (None, None)
    began = time.perf_counter()
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        times_s = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)[:, 0]
        chosen = choose_frames(
            times_s,
            fps=CONFIG.fps,
            min_frames=CONFIG.min_frames,
            max_frames=CONFIG.max_frames,
            start_s=start_s,
            end_s=end_s,
        )
        shape = (64, 256) if path.name == "hour.mp4" else (HEIGHT, WIDTH)
        height, width = choose_size(*shape, min_pixels=3136, max_pixels=151200, multiple=28)
        frames = [resize(frame, height, width) for i in range(0, len(chosen), 8) for frame in _batch(reader, chosen, i)]
    except Exception:
        return Side(time.perf_counter() - began, None)
    return Side(time.perf_counter() - began, _num_wrong(np.stack(frames), times_s[chosen], path))


def _batch(reader: object, chosen: NDArray[np.int64], start: int) -> NDArray[np.uint8]:
    return reader.get_batch(chosen[start : start + 8]).asnumpy()  # type: ignore[attr-defined]


def _num_wrong(frames: NDArray[np.uint8], times_s: NDArray[np.float64], path: Path) -> int:
    """Pictures whose number is not that of their stated time, up to half a picture; the first picture of a player's
    AVI is shown one picture late."""
    bars = frames[:, : frames.shape[1] // 2].mean(axis=(1, 3))
    width = frames.shape[2] / BITS
    centres = [int((bit + 0.5) * width) for bit in range(BITS)]
    numbers = (bars[:, centres] > 128) @ (1 << np.arange(BITS))
    late = 1 if path.suffix == ".avi" and times_s[0] > 0 else 0
    return int((np.abs(numbers + late - times_s * RATE) > 0.5).sum())


def _write(path: Path, codec: str, settings: dict[str, str], seconds: int, *, small: bool = False) -> Path:
    import av

    height, width = (64, 256) if small else (HEIGHT, WIDTH)
    noise = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    scene = noise.repeat(16, 0).repeat(16, 1)[:height, :width]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE, options=settings)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * RATE):
            picture = np.roll(scene, number % width, axis=1)
            columns = np.arange(width) * BITS // width
            picture[: height // 2 + 16] = ((number >> columns) & 1)[None, :, None] * 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        file.mux(stream.encode())
    # SVT-AV1 gives root's process real-time priority and leaves it so: the measured turns should not have it.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
