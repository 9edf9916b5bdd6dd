"""Faults of a run's data are one sentence before anything starts, or a line where they do not end it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.app import checked_held_out, checked_inputs, compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun
from videor2_rl.inputs import OUTSIDE, KeyFault, fault_text, outside_keys
from videor2_rl.types import VideoSample
from videor2_rl.video.decode import duration_s
from videor2_rl.video.errors import VideoError

AnyRun = GrpoRun | SftRun | EvaluateRun
EDITS = Callable[[list[dict[str, Any]]], None]


@pytest.fixture
def grpo(demo_dir: Path) -> GrpoRun:
    return compose_run(
        "grpo",
        GrpoRun,
        ["experiment=demo", f"data.media_dir={demo_dir}", f"model.path={demo_dir / 'model'}", "video.subtitles=true"],
    )


@pytest.fixture
def sft(demo_dir: Path) -> SftRun:
    media = f"data.media_dir={demo_dir}"
    return compose_run("sft", SftRun, ["experiment=demo_sft", media, f"model.path={demo_dir / 'model'}"])


@pytest.fixture
def evaluation(demo_dir: Path) -> EvaluateRun:
    checkpoints = f"evaluation.checkpoints=[tiny:{demo_dir / 'model'}]"
    return compose_run("evaluate", EvaluateRun, ["experiment=demo_evaluate", f"data.media_dir={demo_dir}", checkpoints])


def edited(run: GrpoRun, tmp_path: Path, change: EDITS) -> GrpoRun:
    """The run over its rows, changed."""
    assert run.data.train_file is not None
    rows = json.loads(Path(run.data.train_file).read_text())
    change(rows)
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    return replace(run, data=replace(run.data, train_file=str(file)))


def refusal(run: AnyRun) -> str:
    with pytest.raises(ConfigError) as caught:
        checked_inputs(run)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_media_folder_that_is_not_there_is_refused_by_every_app(
    grpo: GrpoRun, sft: SftRun, evaluation: EvaluateRun
) -> None:
    runs: list[AnyRun] = [grpo, sft, evaluation]
    for run in runs:
        message = refusal(replace(run, data=replace(run.data, media_dir="/nope")))
        assert message.startswith("data.media_dir: there is no folder /nope; give the folder")


def test_a_subtitles_folder_that_is_not_there_is_refused(grpo: GrpoRun) -> None:
    message = refusal(replace(grpo, data=replace(grpo.data, subtitles_dir="/nope")))
    assert message.startswith("data.subtitles_dir: there is no folder /nope; give the folder of subtitle files")


def test_too_many_missing_clips_are_refused_at_once(grpo: GrpoRun, tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["video"] = "gone.mp4"

    run = edited(grpo, tmp_path, change)
    message = refusal(run)
    for words in (
        "1 of 8 samples name a clip that is not there, more than data.max_skipped_frac=0.1",
        "first: row grpo-00000-",
        "gone.mp4",
        f"check data.media_dir={run.data.media_dir}",
    ):
        assert words in message


def test_the_validation_clips_of_sft_count_with_its_others(sft: SftRun, tmp_path: Path) -> None:
    assert sft.data.validation_file is not None
    rows = json.loads(Path(sft.data.validation_file).read_text())
    file = tmp_path / "validation.json"
    file.write_text(json.dumps([{**row, "video": "gone.mp4"} for row in rows]))
    run = replace(sft, data=replace(sft.data, validation_file=str(file)))
    assert f"{len(rows)} of {12 + len(rows)} samples name a clip that is not there" in refusal(run)


def test_the_held_out_rows_of_grpo_are_looked_at_too(grpo: GrpoRun, tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text(json.dumps([{"prompt": "Who?", "solution": "B", "video": "gone.mp4"}]))
    run = replace(
        grpo,
        data=replace(grpo.data, validation_file=str(tmp_path / "held.json")),
        evaluation=replace(grpo.evaluation, every_steps=1),
    )
    with pytest.raises(ConfigError, match=r"held\.json: 1 of 1 samples name a clip that is not there"):
        checked_held_out(run)


def test_what_does_not_end_a_run_is_a_line(grpo: GrpoRun, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["temporal_grounding"] = {"junk": "x", "soon": "y", "00:02": "A shape appears."}
        rows[1]["temporal_grounding"] = {"00:01": "A shape appears.", "10:00": "z"}
        rows[2]["temporal_grounding"] = {"later": "x", "00:03": "A shape appears."}
        rows[3]["video"] = "gone.mp4"

    run = edited(grpo, tmp_path, change)
    run = replace(run, data=replace(run.data, max_skipped_frac=0.2))
    with caplog.at_level(logging.INFO, logger="videor2_rl.inputs"):
        samples = checked_inputs(run)
    first, second = (sample.sample_id for sample in samples[:2])
    text = "\n".join(record.getMessage() for record in caplog.records)
    for line in (
        "1 of 8 samples name a clip that is not there and will be skipped; first: row ",
        f"3 time keys in 2 rows cannot be read, first: row {first}, key 'junk'",
        f"1 time key in 1 row lies outside its clip, first: row {second}, key '10:00' of a clip of 16.0 s",
        "1 of 5 clips have subtitles",
    ):
        assert line in text


def test_a_file_whose_time_keys_cannot_be_read_is_refused_where_they_are_paid_for(
    grpo: GrpoRun, sft: SftRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows[:2]:
            row["temporal_grounding"] = {"frame 12": "x"}

    run = edited(grpo, tmp_path, change)
    message = refusal(run)
    assert "2 of 8 rows with a temporal_grounding have no key that can be read as a time" in message
    assert "first: row grpo-00000-first, key 'frame 12'; write MM:SS" in message
    checked_inputs(replace(sft, data=replace(sft.data, train_file=run.data.train_file)))
    assert "2 time keys in 2 rows cannot be read" in caplog.text


def test_a_clean_file_is_no_warning(grpo: GrpoRun, sft: SftRun, caplog: pytest.LogCaptureFixture) -> None:
    checked_inputs(grpo)
    checked_inputs(sft)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_keys_outside_a_clip_are_those_before_its_begin_and_behind_its_end() -> None:
    grounding = dict.fromkeys(("00:03", "00:04", "00:10", "00:20-00:31", "00:20-00:33", "junk"), "x")
    sample = VideoSample("a", "/a.mp4", "q", "s", temporal_grounding=grounding, clip_start_s=5.0)
    faults = outside_keys(sample, end_s=30.5)
    assert faults == [KeyFault("a", "00:03", 25.5), KeyFault("a", "00:20-00:33", 25.5)]
    assert fault_text(faults, OUTSIDE) == (
        "2 time keys in 1 row lie outside their clip, first: row a, key '00:03' of a clip of 25.5 s"
    )
    assert fault_text([], OUTSIDE) == "0 time keys lie outside their clip"


def test_a_files_length_is_read_from_its_header_and_a_bad_file_is_a_video_error(demo_dir: Path, tmp_path: Path) -> None:
    clips = sorted((demo_dir / "clips/grpo").glob("*.mp4"))
    assert duration_s(str(clips[0])) == pytest.approx(16.0, abs=0.5)
    (variable,) = (demo_dir / "clips/heldout").glob("*.mkv")
    assert duration_s(str(variable)) == pytest.approx(16.0, abs=0.5)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for file in (tmp_path / "bad.mp4", tmp_path / "none.mp4"):
        with pytest.raises(VideoError, match="unreadable"):
            duration_s(str(file))


def damaged(model: Path, folder: Path, name: str, text: str | None) -> Path:
    """A copy of the model without the file `name`, or with `text` in it."""
    shutil.copytree(model, folder)
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", None, "holds no config.json"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[]", "config.json holds no JSON object"),
        ("processor_config.json", None, "holds no processor, processor_config.json or preprocessor_config.json; copy"),
        ("processor_config.json", "{", "processor_config.json is not valid JSON"),
        ("tokenizer.json", None, "holds no tokenizer, tokenizer.json or vocab.json with merges.txt; copy"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not valid JSON"),
        ("chat_template.jinja", None, "holds no chat template, chat_template.jinja"),
        ("model.safetensors", None, "holds no weights (*.safetensors); copy"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}',
            "lacks 1 of the 2 files of weights that model.safetensors.index.json names, first model-2.safetensors",
        ),
    ],
)
def test_what_a_model_folder_lacks_is_named(
    grpo: GrpoRun, tiny_model_dir: Path, tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    folder = damaged(tiny_model_dir, tmp_path / "model", name, text)
    message = refusal(replace(grpo, model=replace(grpo.model, path=str(folder))))
    assert message.startswith("model.path: ") and words in message


def test_an_evaluated_checkpoint_is_named_too(evaluation: EvaluateRun, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_model_dir, tmp_path / "model", "tokenizer.json", None)
    changed = replace(evaluation.evaluation, checkpoints=(f"mine:{folder}",))
    run = replace(evaluation, evaluation=changed)
    assert refusal(run).startswith("evaluation.checkpoints, mine: ")
    assert refusal(replace(run, model=replace(run.model, path=str(folder)))).startswith("model.path: ")


def test_a_hub_id_is_told_how_to_download(grpo: GrpoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = replace(grpo, model=replace(grpo.model, path="Qwen/Qwen2.5-VL-7B-Instruct"))
    assert refusal(run) == (
        "model.path: there is no folder Qwen/Qwen2.5-VL-7B-Instruct, which looks like an id of the Hugging Face Hub; "
        "download it first, hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir models/Qwen2.5-VL-7B-Instruct (older: "
        "huggingface-cli download), and give model.path=models/Qwen2.5-VL-7B-Instruct"
    )
    (tmp_path / "Qwen").mkdir()
    assert "Hub" not in refusal(run)


def test_a_home_that_the_shell_did_not_write_out_is_named(grpo: GrpoRun) -> None:
    message = refusal(replace(grpo, model=replace(grpo.model, path="~/no/model")))
    assert f"there is no folder ~/no/model; write it out, {Path.home()}/no/model," in message
