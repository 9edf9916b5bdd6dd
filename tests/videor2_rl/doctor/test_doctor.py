"""The doctor: exact lengths and counts, and the first thing that does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from published import FOLDER, TOTALS

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun, SftRun
from videor2_rl.dataset import load_samples
from videor2_rl.doctor.__main__ import examine, main, sample_sizes
from videor2_rl.doctor.machine import Machine
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


def run_main(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["grpo", "experiment=nope"], "experiment=nope: there is none of this name; choose demo,"),
        (["sft", "experiment=demo"], "experiment=demo: is an experiment of grpo"),
        (["evaluate", "experiment=demo"], "choose demo_evaluate here"),
        (["grpo", "experiment=demo", "algorithm.grop_size=2"], "did you mean algorithm.group_size?"),
        (["grpo", "--gpu_gib", "80", "experiment=demo"], "there is no option --gpu_gib, did you mean --gpu-gib?"),
        (["grpo", "--gpus", "many"], "argument --gpus: invalid int value: 'many'"),
        (["grop"], "invalid choice: 'grop'"),
        ([], "the following arguments are required: app"),
        (["grpo", "experiment=demo", "model.path=/nowhere"], "model.path: there is no folder /nowhere"),
        (
            ["evaluate", "experiment=demo_evaluate"],
            "evaluation.checkpoints, base: there is no folder",
        ),
    ],
)
def test_every_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_help_names_the_program_and_its_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m videor2_rl.doctor ") and "[KEY=VALUE ...]" in text and "evaluate" in text
    assert run_main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("videor2-rl ")


@pytest.mark.parametrize("gpus", [0, 8])
def test_without_a_description_this_machine_is_looked_at(
    gpus: int, demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    properties = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folders = [*overrides(demo_dir, tmp_path), f"data.train_file={demo_dir}/grpo.json"]
    on_gpus = ["grpo", "video=demo", "cluster.num_cpus=9", *folders]
    assert run_main(on_gpus) == (0 if gpus else 1)
    text = capsys.readouterr().out
    assert f"compared with this machine: {gpus} GPUs, " in text
    assert ("everything fits" in text) == bool(gpus) and ("does not fit first: GPUs" in text) == (not gpus)
    assert run_main(["grpo", "experiment=demo", *folders]) == 0
    # Described by one figure, it is another machine, of which the rest is not known.
    assert run_main([*on_gpus, "--gpu-gib", "80"]) == 0
    text = capsys.readouterr().out
    assert "not said, not compared: GPUs, CPU cores, GiB of memory" in text
    assert text.endswith("everything that could be compared fits; not compared: GPUs\n")
    assert run_main([*on_gpus, "cluster.address=auto"]) == 0
    assert "compared with no machine" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Qwen2.5-VL-7B-Instruct", "Qwen3-VL-8B-Instruct"])
def test_a_config_alone_sizes_a_model_and_lengths_are_said_to_be_estimates(
    name: str,
    demo_dir: Path,
    tmp_path: Path,
    published_folder: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(FOLDER / name / "config.json", folder)
    data = [f"data.media_dir={demo_dir}", f"data.train_file={demo_dir}/sft.json", f"model.path={folder}"]
    data += ["video=demo", "video.max_pixels=4096", *(["model=qwen3_vl"] if "Qwen3" in name else [])]
    assert run_main(["sft", "--gpus", "1", "--gpu-gib", "1000", *data]) == 0
    text = capsys.readouterr().out
    assert "lengths are estimates: " in text and f"{TOTALS[name]:,}" in text
    run = compose_run("sft", SftRun, data)
    samples = load_samples(str(demo_dir / "sft.json"), data=run.data)
    estimated, *_ = sample_sizes(run, samples)
    exact, *_ = sample_sizes(replace(run, model=replace(run.model, path=str(published_folder(name)))), samples)
    assert [size.vision_tokens for size in estimated] == [size.vision_tokens for size in exact]
    # The published folder's stand-in tokenizer has a token a byte.
    for guess, bytes_ in zip(estimated, exact, strict=True):
        assert bytes_.response_tokens is not None and guess.response_tokens is not None
        assert guess.response_tokens == pytest.approx(bytes_.response_tokens / 4, abs=2)
        assert guess.prompt_tokens < bytes_.prompt_tokens


def test_one_change_that_would_make_it_fit_is_named(demo_dir: Path, tmp_path: Path) -> None:
    common = ["experiment=demo", *overrides(demo_dir, tmp_path), "learner.max_tokens_per_micro_batch=256"]
    small = Machine(gpus=None, gpu_gib=None, cpus=None, gpu_flops=None, memory_gib=64.0)

    def mends(*changes: str, machine: Machine = small, app: str = "grpo") -> dict[str, str]:
        return examine(app, [*common, *changes], machine, num_samples=2).mends

    assert mends() == {}
    assert mends("cluster.object_store_mib=4") == {"object store": "cluster.object_store_mib=6"}
    assert mends("rollout.max_model_tokens=70", "rollout.max_response_tokens=20") == {
        "longest prompt": "rollout.max_model_tokens=75"
    }
    assert mends("cluster.num_cpus=1") == {"CPUs": "cluster.num_cpus=2"}
    gpus = [
        "cluster=local",
        "model.dtype=bfloat16",
        "algorithm.kl_coefficient=0",
        "rollout.num_workers=3",
        "rollout.gpus_per_worker=1",
        "learner.gpus_per_rank=1",
    ]
    assert mends(*gpus, machine=replace(small, gpus=3)) == {"GPUs": "rollout.num_workers=2"}
    assert mends(*gpus, machine=replace(small, gpus=0)) == {}
    assert mends("rollout.kv_cache_gib=4", machine=replace(small, gpu_gib=2.0)) == {
        "rollout worker memory": "rollout.kv_cache_gib=1"
    }


def test_an_evaluation_is_sized(demo_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = demo_dir / "model"
    common = ["experiment=demo_evaluate", *overrides(demo_dir, tmp_path)]
    common.append(f"evaluation.checkpoints=[a:{model},b:{model}]")
    file = tmp_path / "needs.json"
    assert run_main(["evaluate", *common, "--gpu-gib", "4", "--gpu-flops", "1e10", "--json", str(file)]) == 0
    needs = json.loads(file.read_text())["needs"]
    rows = len(json.loads((demo_dir / "heldout.json").read_text()))
    assert needs["responses"]["needed"] == rows * 2 * 2 and needs["CPUs"]["needed"] == 0.75
    assert needs["the evaluation"]["needed"] > 0 and "everything fits" in capsys.readouterr().out
    judge = ["judge=managed", f"judge.model_path={model}", "judge.num_gpus=2", "judge.num_cpus=1"]
    nobody = Machine(gpus=1, gpu_gib=None, cpus=None, gpu_flops=None)
    report = examine("evaluate", [*common, *judge], nobody, num_samples=2)
    assert [need.name for need in report.misfits] == ["GPUs"]
    assert report.as_json()["needs"]["judge calls"]["needed"] == rows * 2 * 2 * 2


def test_data_that_a_run_makes_itself_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(["grpo", "experiment=smoke", "--gpu-gib", "4"]) == 0
    assert "13 clips" in capsys.readouterr().out and (tmp_path / "outputs" / "smoke_data" / "manifest.json").exists()


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
