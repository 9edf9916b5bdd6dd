"""Frame choice and frame size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.video.errors import VideoError
from videor2_rl.video.sampling import choose_frames, choose_size, sample_fps

GAPS = st.lists(st.floats(0.001, 3.0), min_size=3, max_size=200)


def choose(times: list[float], **changes: float | None) -> list[int]:
    arguments = {"fps": 1.0, "min_frames": 4, "max_frames": 16, **changes}
    return choose_frames(np.asarray(times, np.float64), **arguments).tolist()  # type: ignore[arg-type]


def test_one_frame_a_second_is_taken_whole() -> None:
    assert choose([float(i) for i in range(16)]) == list(range(16))


def test_ten_seconds_at_30_fps_give_20_frames_at_2_fps() -> None:
    times = [i / 30 for i in range(300)]
    indices = choose(times, fps=2.0, max_frames=32)
    assert len(indices) == 20
    assert (indices[0], indices[-1]) == (0, 299)
    # 299 frames in 19 steps: 15.7 each.
    assert set(np.diff(indices)) == {15, 16}


def test_the_last_frame_counts_as_long_as_the_others() -> None:
    assert choose([float(i) for i in range(6)]) == list(range(6))


def test_a_variable_frame_rate_is_sampled_evenly_in_time_not_in_index() -> None:
    times = [float(i) for i in range(8)] + [8 + i / 10 for i in range(71)]
    indices = choose(times)
    assert [times[i] for i in indices] == [float(i) for i in range(16)]


def test_an_odd_number_of_frames_becomes_even() -> None:
    assert len(choose([float(i) for i in range(15)])) == 14
    assert len(choose([float(i) for i in range(5)])) == 4
    assert len(choose([float(i) for i in range(40)], max_frames=9)) == 8
    assert len(choose([i / 10 for i in range(40)], fps=0.1, min_frames=5)) == 6


def test_the_bounds_of_a_clip_are_kept() -> None:
    times = [float(i) for i in range(20)]
    assert choose(times, start_s=5.0, end_s=12.0) == list(range(5, 13))
    assert choose(times, start_s=15.0) == [15, 16, 18, 19]
    assert choose(times, end_s=3.0004) == [0, 1, 2, 3]
    # Containers round times to a millisecond.
    assert choose(times, start_s=5.0009, end_s=11.9991) == list(range(5, 13))
    assert choose(times, start_s=5.002, end_s=11.998) == list(range(6, 12))


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 1.0, 2.0]])
def test_a_clip_with_fewer_than_the_least_frames_is_too_short(times: list[float]) -> None:
    with pytest.raises(VideoError) as caught:
        choose(times)
    assert caught.value.reason == "too_short"


def test_a_start_behind_the_end_of_the_file_is_too_short() -> None:
    with pytest.raises(VideoError, match="too_short: 0 frames"):
        choose([float(i) for i in range(20)], start_s=100.0)


@pytest.mark.parametrize("times", [[0.0, 1.0, 1.0, 2.0], [0.0, 2.0, 1.0, 3.0], [0.0, float("nan"), 2.0, 3.0]])
def test_times_that_do_not_increase_are_bad(times: list[float]) -> None:
    with pytest.raises(VideoError) as caught:
        choose(times)
    assert caught.value.reason == "bad_times"


@given(GAPS, st.floats(0.1, 30), st.integers(2, 8), st.integers(8, 64))
def test_any_choice_is_even_increasing_and_spans_the_clip(gaps: list[float], fps: float, low: int, high: int) -> None:
    times = np.cumsum([0.0, *gaps])
    try:
        indices = choose_frames(times, fps=fps, min_frames=low, max_frames=high)
    except VideoError as error:
        assert error.reason == "too_short" and len(times) < low
        return
    assert len(indices) % 2 == 0 and 2 <= len(indices) <= min(high, len(times))
    assert (np.diff(indices) > 0).all()
    assert indices[0] == 0 and indices[-1] == len(times) - 1


@given(GAPS, st.integers(2, 16))
def test_no_other_frame_is_nearer_to_a_target_unless_it_is_taken(gaps: list[float], count: int) -> None:
    times = np.cumsum([0.0, *gaps])
    indices = choose_frames(times, fps=1e6, min_frames=2, max_frames=count)
    targets = np.linspace(0, times[-1], len(indices))
    nearest = [int(np.abs(times - target).argmin()) for target in targets]
    if len(set(nearest)) == len(nearest):
        assert np.allclose(np.abs(times[indices] - targets), np.abs(times[nearest] - targets))


def test_sample_fps_is_frames_over_time() -> None:
    assert sample_fps(np.asarray([3.0, 3.5, 4.0, 4.5])) == 2.0


@pytest.mark.parametrize(
    ("height", "width", "least", "most", "multiple", "expected"),
    [
        (112, 112, 784, 784, 14, (28, 28)),
        (360, 640, 784, 360 * 420, 28, (280, 504)),
        (1080, 1920, 784, 360 * 420, 28, (280, 504)),
        (280, 504, 784, 360 * 420, 28, (280, 504)),
        (60, 60, 28 * 28 * 16, 10**6, 28, (112, 112)),
        (10, 4000, 784, 28 * 28 * 20, 28, (28, 560)),
        (4000, 10, 784, 28 * 28 * 20, 28, (560, 28)),
        # Between 1 x 1 and 2 x 2 cells, all of the same aspect: the larger.
        (42, 42, 784, 10**6, 28, (56, 56)),
    ],
)
def test_sizes_worked_by_hand(
    height: int, width: int, least: int, most: int, multiple: int, expected: tuple[int, int]
) -> None:
    assert choose_size(height, width, min_pixels=least, max_pixels=most, multiple=multiple) == expected


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([14, 28]), st.integers(1, 40), st.integers(1, 40))
def test_any_size_is_a_multiple_within_the_budget(height: int, width: int, multiple: int, a: int, b: int) -> None:
    least, most = sorted((a * multiple**2, 4 * b * multiple**2))
    rows, columns = choose_size(height, width, min_pixels=least, max_pixels=most, multiple=multiple)
    assert rows % multiple == columns % multiple == 0
    assert 0 < rows * columns <= most


@given(st.integers(200, 4000), st.floats(0.5, 2.0))
def test_the_aspect_is_kept_within_a_cell(height: int, aspect: float) -> None:
    width = int(height * aspect)
    rows, columns = choose_size(height, width, min_pixels=784, max_pixels=360 * 420, multiple=28)
    scale = min(1.0, (360 * 420 / (height * width)) ** 0.5)
    assert abs(rows - height * scale) < 28 and abs(columns - width * scale) < 28


def test_a_budget_below_one_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="max_pixels is 100"):
        choose_size(10, 10, min_pixels=1, max_pixels=100, multiple=28)
