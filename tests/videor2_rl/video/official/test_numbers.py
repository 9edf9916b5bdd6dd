"""Frames, sizes, rates, stamps and subtitles equal what the paper's code gave for the same inputs.

`cases.jsonl`: inputs of ours, results of `train/qwen_vl_utils/vision_process.py`; `expected` null: it raised, or
(a size) went on with a side of 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.video.official import numbers
from videor2_rl.video.official.subtitles import parse_srt, texts_at

LINES = (Path(__file__).parent / "cases.jsonl").read_text(encoding="utf-8").splitlines()
CASES: list[dict[str, Any]] = [json.loads(line) for line in LINES]
_NEAR_BOUNDS_S = (
    *(0.95, 0.951, 0.949, 0.96, 1.9999, 2.0, 2.04, 2.05, 2.06, 2.99, 3.0, 3.04, 3.051),
    *(4.0, 4.05, 4.1, 4.5, 4.549, 4.55, 8.45, 8.55),
)
# The times at which the paper's code was asked for a subtitle, each list from its first to its last.
TIMES_S = (
    [round(i * 0.05, 2) for i in range(150)],
    [i / (30000 / 1001) for i in range(0, 250, 7)],
    _NEAR_BOUNDS_S,
    [5.0],
)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [case for case in CASES if case["kind"] == kind]


def sampled(case: dict[str, Any]) -> list[Any] | None:
    total, video_fps = case["total"], case["video_fps"]
    try:
        first, last = numbers.frame_range(total, video_fps, start_s=case["start_s"], end_s=case["end_s"])
        available = last - first + 1
        count = numbers.count_frames(available, video_fps, fps=case["fps"], min_frames=4, max_frames=case["max_frames"])
    except ValueError:
        return None
    return [numbers.frame_indices(first, last, count).tolist(), numbers.sample_fps(count, available, video_fps)]


def size(case: dict[str, Any]) -> list[int] | None:
    names = ("height", "width", "num_frames", "min_pixels", "max_pixels")
    try:
        return list(numbers.resized(**{name: case[name] for name in names}, factor=28))
    except ValueError:
        return None


def test_frames_and_rates_are_the_papers() -> None:
    cases = of_kind("sampling")
    assert sum(case["expected"] is not None for case in cases) > 200
    for case in cases:
        assert sampled(case) == case["expected"], case


def test_sizes_are_the_papers() -> None:
    cases = of_kind("size")
    assert sum(case["expected"] is not None for case in cases) > 100
    for case in cases:
        assert size(case) == case["expected"], case


def test_stamps_are_the_papers() -> None:
    for case in of_kind("time_text"):
        assert numbers.time_text(case["time_s"]) == case["expected"], case


@pytest.mark.parametrize("case", of_kind("subtitles"), ids=lambda case: str(case["name"]))
def test_subtitles_are_read_and_found_as_by_the_paper(case: dict[str, Any]) -> None:
    data = case["srt"].encode("latin-1")
    if case["cues"] is None:
        with pytest.raises(UnicodeDecodeError):
            parse_srt(data)
        return
    cues = parse_srt(data)
    assert [[cue.start_s, cue.end_s, cue.text] for cue in cues] == case["cues"]
    for times_s, changes in zip(TIMES_S, case["shown"], strict=True):
        texts = texts_at(cues, list(times_s))
        found = [[i, text] for i, text in enumerate(texts) if i == 0 or text != texts[i - 1]]
        assert found == changes, times_s


def test_the_rounding_down_and_the_rate_that_differ_from_ours() -> None:
    """Worked by hand: 3.9 s at 2 fps are 7 frames, so 6 of 117; the processor hears 6 / 117 x 30."""
    assert numbers.count_frames(117, 30.0, fps=2.0, min_frames=4, max_frames=32) == 6
    assert numbers.sample_fps(6, 117, 30.0) == pytest.approx(6 / 3.9)
    assert numbers.frame_indices(0, 116, 6).tolist() == [0, 23, 46, 70, 93, 116]
    assert numbers.time_text(1.999) == "00:00:01"
