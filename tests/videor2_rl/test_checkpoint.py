"""Checkpoints are whole or not there, and the newest whole one is found."""

from pathlib import Path

import pytest

from videor2_rl.checkpoint import FINISHED, Checkpoints, start_run
from videor2_rl.config import ConfigError


def write_payload(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "rank_0.pt").write_bytes(b"x" * 100)


def test_newest_returns_step_and_state_of_the_last_save(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.newest() is None
    checkpoints.save(5, {"policy_version": 5}, write=write_payload)
    checkpoints.save(10, {"policy_version": 20}, write=write_payload)
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest.step, newest.state) == (10, {"policy_version": 20})
    assert (tmp_path / "checkpoints" / "latest").read_text() == newest.path.name == "step_000010"


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {}, write=write_payload)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*")) == ["step_000003", "step_000004"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, {}, write=write_payload)
    path = checkpoints.save(2, {}, write=write_payload)
    if damage == "truncated":
        (path / "weights" / "rank_0.pt").write_bytes(b"x" * 99)
    elif damage == "missing":
        (path / "weights" / "rank_0.pt").unlink()
    else:
        (path / "manifest.json").write_text("{")
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 1
    assert str(path) in caplog.text


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, {}, write=write_payload)

    def killed(folder: Path) -> None:
        write_payload(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, {}, write=killed)
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 1
    checkpoints.save(2, {}, write=write_payload)
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000002"


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    start_run(tmp_path, resume=False)
    (tmp_path / FINISHED).touch()
    with pytest.raises(ConfigError, match="finished run"):
        start_run(tmp_path, resume=True)


def test_a_stopped_run_goes_on_only_when_told_to(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    start_run(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="stopped run"):
        start_run(tmp_path, resume=False)
