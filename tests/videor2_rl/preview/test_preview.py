"""The page shows what training would use: the same frames, times and tokens."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.dataset import load_samples
from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.preview.__main__ import main
from videor2_rl.preview.rows import abbreviated, data_uri, shown_row
from videor2_rl.types import VideoSample
from videor2_rl.video.decode import decode
from videor2_rl.video.load import load_clip


def overrides(demo_dir: Path, tmp_path: Path) -> list[str]:
    return [
        "experiment=demo",
        f"data.media_dir={demo_dir}",
        f"model.path={demo_dir / 'model'}",
        f"video.cache_dir={tmp_path / 'cache'}",
    ]


def pixels(uri: str) -> NDArray[np.uint8]:
    """[3, H, W] of a data URI."""
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return np.asarray(image).transpose(2, 0, 1)


def articles(page: str) -> list[str]:
    return page.split("<article")[1:]


def test_the_page_holds_the_sampled_frames_with_their_times_and_the_prompts_tokens(
    demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    assert main(["grpo", "--rows", "2", str(file), *overrides(demo_dir, tmp_path)]) == 0
    page = file.read_text()
    run = compose_run("grpo", GrpoRun, overrides(demo_dir, tmp_path))
    samples = load_samples(str(demo_dir / "grpo.json"), data=run.data)[::4]
    builder = PromptBuilder(run.model)
    assert len(articles(page)) == len(samples) == 2
    for article, sample in zip(articles(page), samples, strict=True):
        clip, _ = load_clip(sample, run.video)
        _, times_s = decode(sample.video, run.video, start_s=None, end_s=None)
        assert re.findall(r"<figcaption>([\d.]+) s", article) == [f"{time_s:.3f}" for time_s in times_s]
        shown = [pixels(uri) for uri in re.findall(r'src="(data:image/png;[^"]+)"', article)]
        np.testing.assert_array_equal(np.stack(shown), clip.frames)
        prompt = builder.build(sample, clip)
        vision = int((prompt.token_ids == builder.video_token_id).sum())
        assert f"<b>{len(prompt.token_ids)}</b> tokens" in article
        assert f"<b>{len(prompt.token_ids) - vision}</b> text" in article and f"<b>{vision}</b> vision" in article
        assert f"[{vision} video tokens]" in article
        assert sample.sample_id in article and all(f"<li>{option}</li>" in article for option in sample.options)
        for key, text in (sample.temporal_grounding or {}).items():
            assert f"<b>{key}</b> {text}" in article
    assert "2 of 8 rows, 32 frames" in capsys.readouterr().out


def test_the_page_stands_alone(demo_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert main(["grpo", str(file), "--ids=grpo-00001-second", *overrides(demo_dir, tmp_path)]) == 0
    page = file.read_text()
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert all(link.startswith(("#row-", "data:image/")) for link in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


def test_a_row_is_escaped_and_what_says_nothing_is_marked(demo_dir: Path, tmp_path: Path) -> None:
    rows = json.loads((demo_dir / "grpo.json").read_text())
    grounding = {"00:02-00:04": "A <i>range</i>.", "junk": "Unread.", "10:00": "Late."}
    row: dict[str, Any] = {**rows[0], "temporal_grounding": grounding, "note": "<b>own</b>"}
    row["conversations"] = [{"from": "system", "value": "Watch & tell."}, *row["conversations"]]
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    given = [*overrides(demo_dir, tmp_path), f"data.train_file={tmp_path / 'rows.json'}", "video.subtitles=true"]
    # Frames of 28 pixels are too small for a subtitle to be read, not for one to be drawn.
    assert main(["grpo", str(tmp_path / "page.html"), *given]) == 0
    page = (tmp_path / "page.html").read_text()
    for words in (
        "A &lt;i&gt;range&lt;/i&gt;.",
        "<b>junk</b> Unread. (cannot be read as a time)",
        "<b>10:00</b> Late. (outside the clip)",
        "&lt;b&gt;own&lt;/b&gt;",
        "Watch &amp; tell.&lt;|im_end|&gt;",
        "00000.srt",
        "<b>0.0-8.0 s</b> Shapes come and go.",
    ):
        assert words in page
    assert "left: min(13.33%, calc(100% - 7px)); width: 13.33%" in page


def test_a_clip_that_cannot_be_used_is_shown_as_such(
    demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((demo_dir / "grpo.json").read_text())[:2]
    rows[0]["video"] = "gone.mp4"
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    given = [*overrides(demo_dir, tmp_path), f"data.train_file={tmp_path / 'rows.json'}"]
    assert main(["grpo", str(tmp_path / "page.html"), *given]) == 0
    assert "2 of 2 rows, 16 frames, 1 rows would be skipped" in capsys.readouterr().out
    first, second = articles((tmp_path / "page.html").read_text())
    assert "skipped: missing: " in first and "gone.mp4" in first and "<figure>" not in first
    assert "skipped" not in second and second.count("<figure>") == 16


def test_a_prompt_that_is_too_long_is_shown_and_said(
    model_config: ModelConfig, video_config: VideoConfig, demo_dir: Path
) -> None:
    sample = VideoSample("a", str(demo_dir / "clips/grpo/00001.mp4"), "What?", "<answer>B</answer>")
    row = shown_row(sample, PromptBuilder(model_config), video_config, max_prompt_tokens=10)
    assert re.fullmatch(r"skipped: too_long: the prompt has \d+ tokens, at most 10 fit", row.problem)
    assert len(row.frames) == 16 and row.sample.temporal_grounding is None and row.events == ()


def test_time_as_text_stands_between_the_pictures_of_a_qwen3_vl(
    tiny_qwen3_vl_dir: Path, model_config: ModelConfig, video_config: VideoConfig, demo_dir: Path
) -> None:
    builder = PromptBuilder(replace(model_config, path=str(tiny_qwen3_vl_dir), text_timestamps=True))
    sample = VideoSample("a", str(demo_dir / "clips/grpo/00001.mp4"), "What?", "<answer>B</answer>")
    text = abbreviated(builder.build(sample, load_clip(sample, video_config)[0]), builder)
    pictures = re.findall(r"<([\d.]+) seconds><\|vision_start\|>\[\d+ video tokens\]<\|vision_end\|>", text)
    assert pictures == [f"{2 * patch + 0.5:.1f}" for patch in range(8)]


def test_large_frames_are_jpegs_close_to_what_the_model_gets() -> None:
    rows, columns = np.mgrid[0:252, 0:280]
    frame = np.stack([rows % 256, columns % 256, (rows + columns) // 3 % 256]).astype(np.uint8)
    uri = data_uri(frame)
    assert uri.startswith("data:image/jpeg;base64,")
    assert np.abs(pixels(uri).astype(int) - frame).mean() < 3


@pytest.mark.parametrize("app", ["sft", "evaluate"])
def test_the_rows_of_the_other_apps(app: str, demo_dir: Path, tmp_path: Path) -> None:
    experiment = {"sft": "demo_sft", "evaluate": "demo_evaluate"}[app]
    given = [f"experiment={experiment}", *overrides(demo_dir, tmp_path)[1:]]
    if app == "evaluate":
        given.append(f"evaluation.checkpoints=[tiny:{demo_dir / 'model'}]")
    assert main([app, str(tmp_path / "page.html"), "--rows=1", *given]) == 0
    page = (tmp_path / "page.html").read_text()
    file = demo_dir / ("sft.json" if app == "sft" else "heldout.json")
    assert f"rows of {file}, as <code>{app}</code>" in page and page.count("<figure>") == 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ids=nobody"], "--ids: "),
        (["data.media_dir=/nope", "data.train_file=/nope/x.json"], "data.media_dir: there is no folder /nope"),
        (["model.path=Qwen/Qwen3-VL-8B-Instruct"], "hf download Qwen/Qwen3-VL-8B-Instruct"),
        (["data.media_dyr=/nope"], "data.media_dyr"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grpo", str(tmp_path / "page.html"), *overrides(demo_dir, tmp_path), *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_the_page_comes_before_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grpo", "experiment=demo", "page.html"])
    assert ended.value.code == 2 and "OUT.html comes before KEY=VALUE" in capsys.readouterr().err
