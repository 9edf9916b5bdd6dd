"""Checkpoints are whole or not there, and the newest whole one is found."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.run import checkpoint
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum, file_sum, sync


class Payload:
    """Two files of 100 bytes."""

    def save(self, path: Path) -> None:
        self.files = [path / "rank_0", path / "rank_1"]
        for file in self.files:
            file.write_bytes(b"x" * 100)

    def finish_save(self) -> Mapping[str, FileSum]:
        return {file.name: file_sum(file) for file in self.files}


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.begin(step, {"policy_version": 2 * step}, Payload())
    checkpoints.complete()


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_newest_returns_step_and_state_of_the_last_save(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.newest() is None
    save(checkpoints, 5, 10)
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest.step, newest.state) == (10, {"policy_version": 20})
    assert (tmp_path / "checkpoints" / "latest").read_text() == newest.path.name == "step_000010"


def test_a_checkpoint_counts_only_when_it_is_complete(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    checkpoints.begin(2, {}, Payload())
    newest = Checkpoints(tmp_path, keep=3).newest()
    assert newest is not None and newest.step == 1
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000001"
    assert checkpoints.has(2) and not checkpoints.has(3)
    checkpoints.complete()
    assert names(tmp_path) == ["latest", "step_000001", "step_000002"]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path, keep=2), 1, 2, 3, 4)
    assert names(tmp_path) == ["latest", "step_000003", "step_000004"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("byte", "rank_1 has another checksum"),
        ("truncated", "rank_1 has 99 bytes, 100 bytes were written"),
        ("missing", "rank_1 is missing"),
        ("manifest", "manifest.json is missing or not as it was written"),
        ("state", "manifest.json is missing or not as it was written"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_says_how(
    tmp_path: Path, damage: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1, 2)
    path = tmp_path / "checkpoints" / "step_000002"
    if damage == "byte":
        (path / "rank_1").write_bytes(b"x" * 50 + b"y" + b"x" * 49)
    elif damage == "truncated":
        (path / "rank_1").write_bytes(b"x" * 99)
    elif damage == "missing":
        (path / "rank_1").unlink()
    elif damage == "manifest":
        (path / "manifest.json").write_text("{")
    else:
        text = (path / "manifest.json").read_text()
        (path / "manifest.json").write_text(text.replace('"policy_version": 4', '"policy_version": 5'))
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 1
    assert str(path) in caplog.text and told in caplog.text


def test_a_damaged_checkpoint_does_not_push_a_whole_one_out(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 4)
    (tmp_path / "checkpoints" / "step_000009").mkdir()
    assert (newest := checkpoints.newest()) is not None and newest.step == 4
    save(checkpoints, 6)
    assert names(tmp_path) == ["latest", "step_000006"]


def test_a_kill_while_writing_leaves_the_checkpoint_before_and_no_litter(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path, keep=2), 1)
    # Never completed, as by a process that is no more.
    Checkpoints(tmp_path, keep=2).begin(2, {}, Payload())
    checkpoints = Checkpoints(tmp_path, keep=2)
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 1
    save(checkpoints, 2)
    assert names(tmp_path) == ["latest", "step_000001", "step_000002"]


def test_a_run_goes_on_only_from_one_with_the_same_samples_and_model(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path, keep=2, origin={"seed": 0, "data.shuffle": True}), 1)
    assert Checkpoints(tmp_path, keep=2, origin={"seed": 0, "data.shuffle": True}).newest() is not None
    with pytest.raises(ConfigError, match=r"data\.shuffle: found False, but .*step_000001 was written with True"):
        Checkpoints(tmp_path, keep=2, origin={"seed": 0, "data.shuffle": False}).newest()
    with pytest.raises(ConfigError, match=r"model\.path: found m, but .*step_000001 was written with None"):
        Checkpoints(tmp_path, keep=2, origin={"seed": 0, "model.path": "m"}).newest()


def test_files_and_folder_are_on_the_disk_before_the_checkpoint_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, named = tmp_path / "checkpoints", tmp_path / "checkpoints" / "step_000003"
    synced: list[tuple[str, bool, bool, bool]] = []

    def watched(path: Path) -> None:
        what = "partial" if path.name.startswith(".partial_step_000003") else path.name
        synced.append((what, (path / "manifest.json").exists(), named.exists(), (folder / "latest").exists()))
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", watched)
    save(Checkpoints(tmp_path, keep=2), 3)
    # The partial folder with its manifest while nothing has the name; then the name itself, and `latest` last.
    assert synced == [("partial", True, False, False), (folder.name, False, True, False)]
    assert (folder / "latest").read_text() == named.name


def test_a_checkpoint_of_the_same_steps_is_replaced(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 1)
    checkpoints.begin(1, {"policy_version": 9}, Payload())
    checkpoints.complete()
    newest = checkpoints.newest()
    assert newest is not None and newest.state == {"policy_version": 9}
    assert names(tmp_path) == ["latest", "step_000001"]


def test_the_state_is_that_of_the_moment_when_the_checkpoint_was_begun(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), {"policy_version": 1}
    checkpoints.begin(1, state, Payload())
    state["policy_version"] = 2
    checkpoints.complete()
    newest = checkpoints.newest()
    assert newest is not None and newest.state == {"policy_version": 1}


def test_steps_are_ordered_by_number_and_not_by_name(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path, keep=2), 999_999, 1_000_000)
    newest = Checkpoints(tmp_path, keep=2).newest()
    assert newest is not None and newest.step == 1_000_000


def test_an_error_that_ends_a_run_is_the_one_raised_though_its_checkpoint_fails_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FullDisk(Payload):
        def finish_save(self) -> Mapping[str, FileSum]:
            raise OSError("disk full")

    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.raises(KeyError, match="the first error"), checkpoints.completed():
        checkpoints.begin(1, {}, FullDisk())
        raise KeyError("the first error")
    assert "disk full" in caplog.text
    with pytest.raises(OSError, match="disk full"), checkpoints.completed():
        checkpoints.begin(1, {}, FullDisk())
