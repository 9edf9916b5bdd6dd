"""What becomes of a folder that a run wrote into before, and what a resumed run must share with it."""

from pathlib import Path
from typing import Any

import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import GrpoRun
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum
from videor2_rl.run.resume import FINISHED, origin_of, start_run
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
