"""The doctor: exact lengths and counts, and the first thing that does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.sections import GrpoRun, SftRun
from videor2_rl.dataset import load_samples
from videor2_rl.doctor.__main__ import examine, main, sample_sizes
from videor2_rl.doctor.needs import Machine
from videor2_rl.doctor.sizing import judge_load, model_shape, state_bytes, trainable_parameters
from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.video.load import load_clip


def overrides(demo_dir: Path, tmp_path: Path) -> list[str]:
    return [f"data.media_dir={demo_dir}", f"model.path={demo_dir / 'model'}", f"video.cache_dir={tmp_path}"]


def test_lengths_are_those_of_the_prompts_that_are_built(demo_dir: Path, tmp_path: Path) -> None:
    run = compose_run("sft", SftRun, ["experiment=demo_base", *overrides(demo_dir, tmp_path)])
    for video in (run.video, replace(run.video, max_frames=6), replace(run.video, max_pixels=6000, min_pixels=3000)):
        changed = replace(run, video=video)
        for file in ("base", "heldout"):
            samples = load_samples(str(demo_dir / f"{file}.json"), data=run.data)
            sizes, seconds, skipped, outside = sample_sizes(changed, samples)
            assert seconds > 0 and not skipped and not outside
            builder = PromptBuilder(run.model)
            for sample, size in zip(samples, sizes, strict=True):
                prompt = builder.build(sample, load_clip(sample, video)[0])
                assert size.prompt_tokens == len(prompt.token_ids)
                assert size.vision_tokens == int((prompt.token_ids == builder.video_token_id).sum())
                assert size.response_tokens == len(builder.encode_response(sample.solution))


def test_parameters_are_counted_as_transformers_loads_them(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForImageTextToText

    run = compose_run("grpo", GrpoRun, ["experiment=demo", f"model.path={tiny_model_dir}"])
    network = AutoModelForImageTextToText.from_pretrained(tiny_model_dir)
    shape = model_shape(run.model)
    assert shape.parameters == sum(parameter.numel() for parameter in network.parameters())
    frozen = replace(run.model, freeze_vision_tower=True, freeze_merger=True)
    language = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("model.visual."))
    assert trainable_parameters(shape, frozen) == language
    # 16 bytes a parameter: weight, gradient, two moments; the frozen ones have a weight alone.
    assert state_bytes(shape, frozen, run.learner).device == 16 * language + 4 * (shape.parameters - language)
    two = replace(run.learner, num_ranks=2)
    assert state_bytes(shape, frozen, two).device == state_bytes(shape, frozen, run.learner).device / 2


def test_adapters_are_counted_as_peft_makes_them(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForImageTextToText

    from workers.learner.engines.lora import add_adapters

    run = compose_run(
        "sft",
        SftRun,
        ["experiment=demo_sft", f"model.path={tiny_model_dir}", "model.lora.rank=3", "model.lora.dora=false"],
    )
    adapted = add_adapters(AutoModelForImageTextToText.from_pretrained(tiny_model_dir), run.model.lora)
    adapters = sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)
    assert model_shape(run.model).lora_parameters == adapters


def test_the_first_thing_that_does_not_fit_is_named(
    demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "needs.json"
    common = ["grpo", "experiment=demo", *overrides(demo_dir, tmp_path), "--json", str(file), "--gpu-gib"]
    assert main([*common, "4"]) == 0
    assert "everything fits" in capsys.readouterr().out
    assert main([*common, "0.001"]) == 1
    assert "does not fit first: learner rank memory" in capsys.readouterr().out
    assert json.loads(file.read_text())["misfits"][0] == "learner rank memory"


def test_the_judge_is_counted(demo_dir: Path, tmp_path: Path) -> None:
    """4 prompts of 8 responses, of which a judge reads the claims and compares both blocks."""
    common = ["experiment=demo", *overrides(demo_dir, tmp_path), "algorithm.prompts_per_step=4"]
    common += ["algorithm.group_size=8", "rollout.max_response_tokens=64"]
    server = ["judge=managed", "judge.model_path=judge", "judge.num_gpus=2", "judge.calls.max_tokens=100"]
    nobody = Machine(gpus=None, gpu_gib=None, cpus=None, gpu_flops=1e12)
    without = examine("grpo", [*common, "judge=rules"], nobody, num_samples=2).as_json()["needs"]
    needs = examine("grpo", [*common, *server], nobody, num_samples=2).as_json()["needs"]
    assert needs["judge calls a step"]["needed"] == 4 * 8 * 2
    assert needs["judge calls a second"]["needed"] == pytest.approx(64 / needs["a step"]["needed"])
    assert needs["GPUs"]["needed"] == without["GPUs"]["needed"] + 2
    assert "judge calls a step" not in without
    run = compose_run("grpo", GrpoRun, [*common, *server])
    assert judge_load(run).tokens == 64 * (64 + 100)


def test_a_dataset_that_is_not_there_ends_with_one_sentence(
    demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["grpo", "experiment=demo", *overrides(demo_dir, tmp_path), "data.train_file=/nowhere.json"]
    assert main(arguments) == 2
    assert "/nowhere.json" in capsys.readouterr().err


def rows_with(demo_dir: Path, tmp_path: Path, changes: dict[int, dict[str, Any]]) -> str:
    """A dataset file of the demo's GRPO rows, some of them changed."""
    rows = json.loads((demo_dir / "grpo.json").read_text())
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{**row, **changes.get(number, {})} for number, row in enumerate(rows)]))
    return str(file)


def test_unusable_clips_do_not_fit_first(demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (demo_dir / "damaged.mp4").write_bytes(b"no video")
    common = ["grpo", "experiment=demo", *overrides(demo_dir, tmp_path)]
    for video, reason in (("gone.mp4", "missing"), ("damaged.mp4", "unreadable")):
        file = rows_with(demo_dir, tmp_path, {1: {"video": video}, 2: {"video": video}})
        assert main([*common, f"data.train_file={file}"]) == 1
        out = capsys.readouterr().out
        assert (
            f"does not fit first: usable clips: of 8 samples looked at; data.max_skipped_frac=0.1; first {reason}"
            in out
        )
        assert main([*common, f"data.train_file={file}", "data.max_skipped_frac=0.25"]) == 0
        assert "everything fits" in capsys.readouterr().out
    # Two of eight are missing, though the only row looked at is not.
    file = rows_with(demo_dir, tmp_path, {1: {"video": "gone.mp4"}, 2: {"video": "gone.mp4"}})
    assert main([*common, f"data.train_file={file}", "--samples=1"]) == 1
    # No clip at all: there is nothing to size.
    file = rows_with(demo_dir, tmp_path, {number: {"video": "gone.mp4"} for number in range(8)})
    assert main([*common, f"data.train_file={file}"]) == 1
    assert "does not fit first: usable clips" in capsys.readouterr().out


def test_time_keys_and_subtitles_are_rows_of_the_table(
    demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = rows_with(demo_dir, tmp_path, {0: {"temporal_grounding": {"junk": "x", "00:01": "y", "10:00": "z"}}})
    common = ["grpo", "experiment=demo", *overrides(demo_dir, tmp_path), f"data.train_file={file}"]
    assert main([*common, "video.subtitles=true", "--json", str(tmp_path / "needs.json")]) == 0
    out = capsys.readouterr().out
    assert "1 time key in 1 row cannot be read, first: row grpo-00000-first, key 'junk'" in out
    assert "1 time key in 1 row lies outside its clip, first: row grpo-00000-first, key '10:00' of a clip of 1" in out
    assert "1 of 4 clips have subtitles" in out
    needs = json.loads((tmp_path / "needs.json").read_text())["needs"]
    assert needs["unreadable time keys"]["needed"] == needs["time keys outside their clips"]["needed"] == 1
    assert needs["clips with subtitles"]["needed"] == 1


def test_what_a_run_would_refuse_the_doctor_refuses(
    demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["grpo", "experiment=demo", *overrides(demo_dir, tmp_path)]
    file = rows_with(demo_dir, tmp_path, {0: {"temporal_grounding": {"junk": "x"}}})
    for override, words in (
        (f"data.train_file={file}", "1 of 8 rows with a temporal_grounding have no key that can be read"),
        ("data.subtitles_dir=/nope", "data.subtitles_dir: there is no folder /nope"),
        ("model.path=Qwen/Qwen3-VL-8B-Instruct", "looks like an id of the Hugging Face Hub"),
    ):
        assert main([*common, override]) == 2
        assert words in capsys.readouterr().err
