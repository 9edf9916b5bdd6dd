"""The doctor: exact lengths and counts, and the first thing that does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

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
            sizes, seconds, skipped = sample_sizes(changed, samples)
            assert seconds > 0 and not skipped
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
