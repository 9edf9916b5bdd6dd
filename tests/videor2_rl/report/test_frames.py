"""The frames on the page: which one, of which second, and what stands there without a clip."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from videor2_rl.config.sections import VideoConfig
from videor2_rl.evaluation.summary import SampleResult, evaluation_dir, summarise, write_evaluation
from videor2_rl.report.__main__ import write_report
from videor2_rl.report.data import read_report_data
from videor2_rl.report.frames import ClipSource, Film, Frames, jpeg_uri, video_config
from videor2_rl.report.html import render
from videor2_rl.report.rollouts import shown_rollouts
from videor2_rl.report.timeline import rows_of, time_text
from videor2_rl.types import VideoSample
from videor2_rl.video.load import load_clip, seen_frames

CITED = (3.0, 8.4, 400.0)
SETTINGS = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels", "size_multiple", "timestamps", "subtitles")


@pytest.fixture(scope="module")
def clip(demo_dir: Path) -> VideoSample:
    path = sorted((demo_dir / "clips" / "heldout").glob("*.m*"))[0]
    return VideoSample("held-out", str(path), question="", solution="")


def evaluated(folder: Path, clip: VideoSample, config: VideoConfig) -> Path:
    """An evaluation of one response that cites three seconds, the last far behind the clip's end."""
    claims = tuple(
        {"start_s": second, "end_s": second, "text": "A thing.", "reference": None, "outcome": "time"}
        for second in CITED
    )
    result = SampleResult(
        sample_id="held-out",
        video=clip.video,
        question="Which?",
        target="<answer>A</answer>",
        response="r",
        answer="A",
        finish_reason="stop",
        response_tokens=1,
        **dict.fromkeys(("accuracy", "tac", "tar_precision", "tar_recall", "tar_f1", "format"), 1.0),  # type: ignore[arg-type]
        claims=claims,
        references=({"start_s": 1.0, "end_s": 2.0, "text": "An event."},),
        clip_start_s=clip.clip_start_s,
        clip_end_s=clip.clip_end_s,
    )
    card = {"video": {name: getattr(config, name) for name in SETTINGS}}
    path = evaluation_dir(folder, stage="grpo", mode="greedy")
    write_evaluation(path, [result], summary=summarise([result], resamples=10, seed=0, card=card))
    return folder


def page_of(folder: Path) -> str:
    data = read_report_data(folder)
    return render(data, plots=[], rollouts=shown_rollouts(data, Frames()))


def images(page: str) -> list[tuple[str, NDArray[np.int64]]]:
    """Alternative text and pixels [3, H, W] of every picture, in the order of the page."""
    found = re.findall(r'<img\s+src="data:image/jpeg;base64,([^"]*)" alt="([^"]*)"', page)
    pictures = [(alt, Image.open(io.BytesIO(base64.b64decode(data)))) for data, alt in found]
    return [(alt, np.asarray(picture).transpose(2, 0, 1).astype(np.int64)) for alt, picture in pictures]


def test_each_cited_second_shows_the_frame_that_the_model_saw_nearest_to_it(
    tmp_path: Path, clip: VideoSample, video_config: VideoConfig
) -> None:
    seen, _ = load_clip(clip, video_config)
    shown = images(page_of(evaluated(tmp_path, clip, video_config)))
    assert [alt.split(", cited as ")[1] for alt, _ in shown] == ["00:01-00:02", "00:03", "00:08.4", "06:40"]
    for (alt, pixels), second in zip(shown, (1.0, *CITED), strict=True):
        nearest = int(np.abs(seen.timestamps_s - second).argmin())
        minutes, rest = re.findall(r"Frame at (\d+):([\d.]+)", alt)[0]
        assert 60 * int(minutes) + float(rest) == pytest.approx(seen.timestamps_s[nearest], abs=0.005)
        gaps = [float(np.abs(pixels - frame.astype(np.int64)).mean()) for frame in seen.frames]
        # JPEG is not exact, but far nearer to this frame than to one that shows something else.
        assert gaps[nearest] < 4 and gaps[nearest] == min(gaps)


def test_only_the_part_of_a_clip_that_the_model_saw_is_shown(
    tmp_path: Path, clip: VideoSample, video_config: VideoConfig
) -> None:
    part = dataclasses.replace(clip, clip_start_s=4.0, clip_end_s=12.0)
    times_s = load_clip(part, video_config)[0].timestamps_s
    assert 3.9 < times_s[0] < 4.5 and 11.5 < times_s[-1] < 12.1
    shown = [alt.split(",")[0] for alt, _ in images(page_of(evaluated(tmp_path, part, video_config)))]
    nearest = [times_s[np.abs(times_s - second).argmin()] for second in (1.0, *CITED)]
    assert shown == [f"Frame at {time_text(time)}" for time in nearest]


def test_a_clip_that_is_gone_is_named_and_its_claims_stay(
    tmp_path: Path, clip: VideoSample, video_config: VideoConfig
) -> None:
    gone = dataclasses.replace(clip, video=str(tmp_path / "gone.mp4"))
    page = page_of(evaluated(tmp_path, gone, video_config))
    assert f"No frames: {tmp_path / 'gone.mp4'}: no such file" in page
    assert images(page) == [] and page.count("A thing.") == 6


def test_a_training_rollouts_frames_come_from_the_cache_when_its_clip_is_gone(
    tmp_path: Path, clip: VideoSample, video_config: VideoConfig
) -> None:
    seen, _ = load_clip(clip, video_config)
    source = ClipSource(dataclasses.replace(clip, video="gone.mp4"), video_config, key=seen.key)
    film = Frames().film(source)
    assert film is not None and np.array_equal(film.frames, seen.frames)


def test_reading_frames_for_the_page_writes_nothing(clip: VideoSample, video_config: VideoConfig) -> None:
    frames, times_s = seen_frames(clip, video_config)
    assert not Path(video_config.cache_dir).exists()
    seen, _ = load_clip(clip, video_config)
    assert np.array_equal(frames, seen.frames) and np.array_equal(times_s, seen.timestamps_s)


def test_a_page_has_room_for_so_many_frames_and_says_what_it_left_out() -> None:
    film = Film(np.full((2, 3, 400, 300), 90, np.uint8), np.array([0.0, 1.0]))
    size = len(jpeg_uri(film.frames[0]))
    frames = Frames(max_characters=2 * size)
    assert [frames.shot(film, second) is not None for second in (0.0, 0.4, 0.6, 1.0)] == [True, True, False, False]
    assert frames.notes() == [f"2 frames left out: the page has room for {2 * size / 1e6:g} MB."]
    # 400 x 300 pixels become 120 x 90.
    picture = Image.open(io.BytesIO(base64.b64decode(jpeg_uri(film.frames[0]).split(",")[1])))
    assert (picture.height, picture.width) == (120, 90)


def test_frames_are_shown_only_where_the_records_say_how_they_were_sampled(tmp_path: Path, clip: VideoSample) -> None:
    assert video_config(None, beside=tmp_path) is None
    assert video_config({"fps": 1.0}, beside=tmp_path) is None
    frames = Frames()
    assert frames.film(ClipSource(clip, None)) is None
    assert frames.notes() == [f"No frames: {clip.video}: the records do not say how its frames were sampled"]


def test_a_relative_cache_is_found_from_the_runs_folder_upwards(
    tmp_path: Path, video_config: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was made here, by the demo perhaps, would be found first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "cache" / "clips").mkdir(parents=True)
    settings: dict[str, Any] = {**dataclasses.asdict(video_config), "cache_dir": "outputs/cache"}
    found = video_config_of(settings, tmp_path / "outputs" / "run")
    assert Path(found.cache_dir) == (tmp_path / "outputs" / "cache").resolve()


def video_config_of(settings: dict[str, Any], run_dir: Path) -> VideoConfig:
    config = video_config(settings, beside=run_dir)
    assert config is not None
    return config


def test_no_frame_covers_another_on_a_phones_lane() -> None:
    lefts = [0.0, 5.0, 30.0, 31.0, 32.0, 98.0, 100.0]
    rows = rows_of(lefts)
    assert rows[:5] == [0, 1, 0, 1, 2]
    assert rows[5] != rows[6]


def test_the_page_stays_below_three_megabytes(tmp_path: Path, clip: VideoSample, demo_folder: Path) -> None:
    """Every sample cites many seconds of a clip of large noisy frames, which JPEG cannot make small."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 3, 360, 420), dtype=np.uint8)
    key = "ab" * 32
    cache = tmp_path / "cache"
    (cache / "clips" / "ab").mkdir(parents=True)
    np.savez(cache / "clips" / "ab" / f"{key}.npz", frames=noise, timestamps_s=np.arange(32.0), sample_fps=1.0)
    run = demo_folder / "grpo"
    claims = [
        {"start_s": float(s), "end_s": float(s), "text": "x " * 20, "reference": None, "outcome": "time"}
        for s in range(30)
    ]
    detail = {"temporal_alignment": {"claims": claims}, "accuracy": {"answer": "A"}, "consistency": {}, "format": {}}
    response = {
        "text": "r " * 500,
        "reward": 1.0,
        "advantage": 0.0,
        "terms": {name: {"verdict": "score", "value": 1.0, "detail": value} for name, value in detail.items()},
        "metrics": dict.fromkeys(("accuracy", "tac", "tar_precision", "tar_recall", "format"), 1.0),
    }
    record = {
        "sample_id": "s",
        "video": "gone.mp4",
        "question": "?",
        "target": "A",
        "temporal_grounding": {"00:03": "x"},
        "clip_key": key,
        "frame_times_s": [0.0, 31.0],
        "responses": [response] * 8,
    }
    (run / "rollouts").mkdir()
    (run / "rollouts" / "step_000001.jsonl").write_text("".join(json.dumps(record) + "\n" for _ in range(16)))
    settings = {**dict.fromkeys(SETTINGS, 1), "cache_dir": str(cache)}
    (run / "config.yaml").write_text(json.dumps({"video": settings}))
    alone = Path(shutil.move(run, tmp_path / "run"))
    page = write_report(alone)
    text = page.read_text()
    assert 1_000_000 < page.stat().st_size < 3_000_000
    assert "frames left out: the page has room for 1.5 MB." in text
