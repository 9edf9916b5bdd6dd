"""Sweeps: what each run is and where it lies, what the same command does again, and how a sweep ends."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from videor2_rl.app import finish, hydra_app, open_run
from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun
from videor2_rl.config.sweeping import plan
from videor2_rl.run.resume import check_run_dir
from videor2_rl.run.stopping import Stopped

Body = Callable[[GrpoRun], None]


def sweep(
    body: Body, *overrides: str, monkeypatch: pytest.MonkeyPatch, sweeps: bool = True, finishes: bool = True
) -> int:
    """The exit code of `grpo experiment=smoke`, with `body` in place of the training."""
    monkeypatch.setattr(sys, "argv", ["grpo", *(["-m"] if sweeps else []), "experiment=smoke", *overrides])
    try:
        hydra_app("grpo", GrpoRun, body, finishes=finishes)()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0
    return 0


def trains(done: list[str], *, fault: BaseException | None = None, at: str = "no_gate") -> Body:
    """A body that leaves a finished folder; of the run whose folder's name has `at`, it raises `fault` instead."""

    def body(run: GrpoRun) -> None:
        folder = Path(run.output_dir)
        check_run_dir(folder, resume=run.checkpoint.resume, overwrite=run.checkpoint.overwrite)
        with open_run(run, folder, resume=run.checkpoint.resume, overwrite=run.checkpoint.overwrite):
            done.append(folder.name)
            if fault is not None and at in folder.name:
                raise fault
            finish(folder, export=None)

    return body


def test_a_sweep_names_each_run_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, done = tmp_path / "ablation", list[str]()
    overrides = [f"output_dir={out}", "reward=video_r2,no_tar", "algorithm.num_steps=1"]
    assert sweep(trains(done), *overrides, monkeypatch=monkeypatch) == 0
    names = ["algorithm.num_steps=1,reward=video_r2", "algorithm.num_steps=1,reward=no_tar"]
    assert done == names and sorted(path.name for path in out.iterdir()) == sorted(names)
    assert capsys.readouterr().err.splitlines() == [
        f"run 1 of 2: reward=video_r2 -> {out / names[0]}",
        f"run 2 of 2: reward=no_tar -> {out / names[1]}",
        f"all runs are finished; side by side: python -m videor2_rl.report {out}",
    ]


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (RuntimeError("engine died"), 1, "RuntimeError: engine died"),
        (ConfigError("data: too few"), 2, "error: run 2 of 3 (reward=no_gate): data: too few; "),
        (KeyboardInterrupt(), 130, "stopped (SIGINT); "),
        (Stopped("SIGTERM", exit_code=143), 143, "stopped (SIGTERM); "),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "cannot write any more (No space left on device"),
    ],
)
def test_a_sweep_ends_with_the_run_that_fails_and_the_same_command_goes_on_there(
    fault: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrides, done = [f"output_dir={tmp_path}", "reward=video_r2,no_gate,no_tar"], list[str]()
    assert sweep(trains(done, fault=fault), *overrides, monkeypatch=monkeypatch) == code
    error = capsys.readouterr().err
    assert said in error and f"the same command with output_dir={tmp_path} " in error
    assert "run 2 of 3 (reward=no_gate)" in error.strip().splitlines()[-1]
    assert f"output_dir={tmp_path}/" not in error
    assert ("Traceback" in error) == isinstance(fault, RuntimeError)
    assert done == ["reward=video_r2", "reward=no_gate"]
    assert sweep(trains(done), *overrides, monkeypatch=monkeypatch) == 0
    assert done[2:] == ["reward=no_gate", "reward=no_tar"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"run 1 of 3: reward=video_r2 is finished, passed over: {tmp_path / 'reward=video_r2'}"
    assert sweep(trains(done), *overrides, monkeypatch=monkeypatch) == 0 and len(done) == 4
    assert len(capsys.readouterr().err.splitlines()) == 4
    assert sweep(trains(done), *overrides, "checkpoint.overwrite=true", monkeypatch=monkeypatch) == 0


def test_a_body_that_only_reads_finished_folders_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[int]()
    (tmp_path / "seed=1").mkdir()
    (tmp_path / "seed=1" / "finished").touch()
    overrides = [f"output_dir={tmp_path}", "seed=1,2"]
    assert sweep(lambda run: done.append(run.seed), *overrides, monkeypatch=monkeypatch, finishes=False) == 0
    assert done == [1, 2]


def test_every_run_of_a_sweep_is_checked_before_the_first_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = list[str]()
    overrides = [f"output_dir={tmp_path / 'new'}", "algorithm.group_size=4,1"]
    assert sweep(trains(done), *overrides, monkeypatch=monkeypatch) == 2
    assert not done and not (tmp_path / "new").exists()
    assert "error: run 2 of 2 (algorithm.group_size=1): configuration: algorithm" in capsys.readouterr().err


def test_runs_that_differ_in_a_path_alone_lie_apart_and_in_the_sweeps_one_folder() -> None:
    overrides = ["experiment=smoke", "output_dir=out/${now:%H-%M-%S-%f}", "model.path=/a/b,/c/d", "seed=range(0,2)"]
    runs = plan(Composer("grpo"), GrpoRun, overrides, sweeps=True)
    folders = [Path(planned.run.output_dir) for planned in runs]
    assert [folder.name for folder in folders] == [f"seed={seed},run={n}" for n, seed in enumerate((0, 1, 0, 1), 1)]
    assert len({folder.parent for folder in folders}) == 1 and folders[0].is_absolute()
    assert [planned.name for planned in runs][1] == "run 2 of 4 (model.path=/a/b,seed=1)"


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = trains([], fault=KeyboardInterrupt(), at="alone")
    assert sweep(body, f"output_dir={tmp_path / 'alone'}", monkeypatch=monkeypatch, sweeps=False) == 130
    assert capsys.readouterr().err.strip().startswith("stopped (SIGINT); ")


def test_a_disk_that_fills_while_a_run_writes_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As safetensors has it, and a worker passes it on: without an error number."""

    class SafetensorError(Exception):
        pass

    worker = RuntimeError("a worker failed")
    worker.__cause__ = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    body = trains([], fault=worker, at="alone")
    assert sweep(body, f"output_dir={tmp_path / 'alone'}", monkeypatch=monkeypatch, sweeps=False) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: output_dir: the run in {tmp_path / 'alone'} cannot write any more (No space left")
