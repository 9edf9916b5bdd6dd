"""Real files with a frame counter drawn in, so that a test can tell which frames came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

SIDE = 64
BITS = 8
WriteVideo = Callable[..., Path]


def draw_counter(number: int) -> NDArray[np.uint8]:
    """[64, 64, 3]: the number in eight vertical bars, one for each bit, white for 1."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    columns = np.repeat(np.asarray(bits, np.uint8) * 255, SIDE // BITS)
    return np.broadcast_to(columns[None, :, None], (SIDE, SIDE, 3)).copy()


@pytest.fixture
def counter_frame() -> Callable[[int], NDArray[np.uint8]]:
    """A picture [64, 64, 3] of a number."""
    return draw_counter


@pytest.fixture
def read_counter() -> Callable[[NDArray[np.uint8]], int]:
    """The number in a decoded frame [3, H, W]."""

    def read(frame: NDArray[np.uint8]) -> int:
        bars = frame.mean(axis=(0, 1)).reshape(BITS, -1).mean(axis=1)
        return sum(int(bar > 127) << bit for bit, bar in enumerate(bars))

    return read


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """write_video(name, times_s, codec=..., rate=..., options=...) -> path of a clip of numbered frames."""

    def write(
        name: str,
        times_s: Sequence[float],
        codec: str = "libx264",
        rate: int = 24,
        options: dict[str, str] | None = None,
    ) -> Path:
        import av

        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            for number, time_s in enumerate(times_s):
                frame = av.VideoFrame.from_ndarray(draw_counter(number), format="rgb24")
                frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def true_times() -> Callable[[Path], NDArray[np.float64]]:
    """Presentation times of all frames by PyAV, which decodes them one after the other."""

    def read(path: Path) -> NDArray[np.float64]:
        import av

        with av.open(str(path)) as container:
            frames = container.decode(video=0)
            times = [float(cast(int, frame.pts) * cast(Fraction, frame.time_base)) for frame in frames]
        return np.asarray(times) - times[0]

    return read
