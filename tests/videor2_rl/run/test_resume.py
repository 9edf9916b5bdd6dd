"""What becomes of a folder that a run wrote into before, and what a resumed run must share with it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum
from videor2_rl.run.resume import FINISHED, _weights_mark, origin_of, remove_refused, start_run
from videor2_rl.types import VideoSample


def leave_a_run(folder: Path, *, finished: bool) -> None:
    (folder / "checkpoints" / "step_000001").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "notes.txt").write_text("the user's own")
    if finished:
        (folder / FINISHED).touch()


def test_a_finished_run_is_overwritten_only_when_told_to(tmp_path: Path) -> None:
    leave_a_run(tmp_path, finished=True)
    with pytest.raises(ConfigError, match=r"finished run; give another .*checkpoint\.overwrite=true"):
        start_run(tmp_path, resume=True, overwrite=False)
    with pytest.raises(ConfigError, match="finished run; give more steps, give another"):
        start_run(tmp_path, resume=True, overwrite=False, num_steps=1)
    assert (tmp_path / "metrics.jsonl").exists()
    start_run(tmp_path, resume=True, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class Writer:
    def save(self, path: Path) -> None:
        pass

    def finish_save(self) -> dict[str, FileSum]:
        return {}


def test_a_finished_run_goes_on_when_it_is_given_more_steps(tmp_path: Path) -> None:
    leave_a_run(tmp_path, finished=True)
    (tmp_path / "hf").mkdir()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.begin(6, {}, Writer())
    checkpoints.complete()
    for resume, num_steps in ((True, 6), (False, 7)):
        with pytest.raises(ConfigError, match="finished run"):
            start_run(tmp_path, resume=resume, overwrite=False, num_steps=num_steps)
        assert (tmp_path / FINISHED).exists() and (tmp_path / "hf").exists()
    start_run(tmp_path, resume=True, overwrite=False, num_steps=7)
    assert not (tmp_path / FINISHED).exists() and not (tmp_path / "hf").exists()
    assert (tmp_path / "metrics.jsonl").exists() and checkpoints.has(6)


def test_the_mark_of_a_finished_run_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_a_run(tmp_path, finished=True)
    rmtree = shutil.rmtree

    def killed(path: Path) -> None:
        rmtree(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        start_run(tmp_path, resume=True, overwrite=True)
    # Not a run to go on with: some of it is missing.
    with pytest.raises(ConfigError, match="holds a finished run"):
        start_run(tmp_path, resume=True, overwrite=False)


def test_all_that_a_run_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    leave_a_run(tmp_path, finished=True)
    for folder in ("rollouts", "evaluation/step_000002", "hf", "tensorboard", "wandb"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "skipped.jsonl").touch()
    start_run(tmp_path, resume=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    start_run(tmp_path / "a" / "b", resume=True, overwrite=False)
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("length", [10, 70_000, 200_000])
@pytest.mark.parametrize("place", ["first", "last"])
def test_weights_that_differ_in_one_byte_at_an_edge_are_told_apart(tmp_path: Path, length: int, place: str) -> None:
    for model, byte in (("a", 0), ("b", 1)):
        content = bytearray(length)
        content[0 if place == "first" else -1] = byte
        (tmp_path / model).mkdir()
        (tmp_path / model / "model.safetensors").write_bytes(content)
    assert _weights_mark(tmp_path / "a") != _weights_mark(tmp_path / "b")


def test_weights_of_another_size_are_told_apart_and_other_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(bytes(10))
    mark = _weights_mark(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert _weights_mark(tmp_path) == mark
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert _weights_mark(tmp_path) == mark
    (tmp_path / "model-2.safetensors").write_bytes(bytes(1))
    assert _weights_mark(tmp_path).startswith("weights of 11 bytes") and _weights_mark(tmp_path) != mark


def test_a_stopped_run_goes_on_or_is_overwritten_only_when_told_to(tmp_path: Path) -> None:
    leave_a_run(tmp_path, finished=False)
    # A run that can be gone on with is not begun anew: the same command survives a kill.
    start_run(tmp_path, resume=True, overwrite=True)
    assert (tmp_path / "checkpoints" / "step_000001").exists()
    with pytest.raises(ConfigError, match=r"stopped run; go on with checkpoint\.resume=true"):
        start_run(tmp_path, resume=False, overwrite=False)
    start_run(tmp_path, resume=False, overwrite=True)
    assert not (tmp_path / "checkpoints").exists()


def test_the_origin_tells_apart_what_changes_samples_or_frozen_weights(tmp_path: Path) -> None:
    def origin(*overrides: str, rows: str = "abc", weights: bytes = b"1") -> dict[str, Any]:
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        (model / "model.safetensors").write_bytes(weights * 200_000)
        fixed = [f"model.path={model}", "data.train_file=t", "data.media_dir=d", f"output_dir={tmp_path}"]
        run = compose_run("grpo", GrpoRun, [*fixed, "algorithm.num_steps=1", *overrides])
        return origin_of(run, [VideoSample(row, "v", "?", "A") for row in rows])

    usual = origin()
    assert origin("algorithm.num_steps=2", "learner.num_ranks=3", "learner.backend=deepspeed_zero2") == usual
    changed = {
        "seed": origin("seed=5"),
        "data.shuffle": origin("data.shuffle=false"),
        "algorithm.prompts_per_step": origin("algorithm.prompts_per_step=3"),
        "data.train_file": origin(rows="abd"),
        "learner.optimizer": origin("learner.optimizer.name=SGD"),
        "model.path": origin(weights=b"2"),
    }
    for key, other in changed.items():
        assert [name for name in usual if other[name] != usual[name]] == [key]


def test_a_refused_run_leaves_no_folder_and_one_that_began_keeps_its_own(tmp_path: Path) -> None:
    for number, begun in enumerate(("", "skipped.jsonl", "metrics.jsonl", "checkpoints/step_000001/manifest.json")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.yaml").write_text("seed: 0")
        (folder / "metrics.jsonl").touch()
        if begun:
            (folder / begun).parent.mkdir(parents=True, exist_ok=True)
            (folder / begun).write_text("{}")
        remove_refused(folder)
        assert folder.exists() == bool(begun), begun
