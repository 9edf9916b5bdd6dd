"""Places that cannot be written to are one sentence, found before anything slow, and nothing is left behind."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import write_json_atomic
from videor2_rl.run.folder import check_writable, sole_writer
from videor2_rl.run.resume import FINISHED, check_run_dir
from videor2_rl.run.storage import full_disk, writing

ROOT = Path(__file__).parents[3]


def test_a_folder_below_a_file_is_refused_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for run_dir in (tmp_path / "file", tmp_path / "file" / "deep" / "run"):
        with pytest.raises(ConfigError) as error:
            check_run_dir(run_dir, resume=True, overwrite=False)
        reason = f"{tmp_path / 'file'} is a file"
        assert str(error.value) == (
            f"output_dir: cannot write to {run_dir} ({reason}); give a place that can be written to"
        )


def test_a_file_system_that_takes_no_folders_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"output_dir: cannot write to /proc/a/run \(No such file or directory\)"):
        check_run_dir(Path("/proc/a/run"), resume=True, overwrite=False)


def test_a_full_disk_is_refused_and_the_lock_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_text(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", write_text)
        with pytest.raises(ConfigError, match=r"/run \(No space left on device\); make room there, or give another"):
            check_run_dir(tmp_path / "run", resume=True, overwrite=False)
    assert not list(tmp_path.iterdir())
    with sole_writer(tmp_path / "run"):
        pass


def test_looking_leaves_nothing_that_was_not_there(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").touch()
    check_writable(tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]


def test_a_folder_in_use_or_finished_is_refused_at_once(tmp_path: Path) -> None:
    hold = (
        "from pathlib import Path\nfrom videor2_rl.run.folder import sole_writer\n"
        f"with sole_writer(Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {process.pid} on .* is writing into"):
            check_run_dir(tmp_path, resume=True, overwrite=True)
        process.kill()
    (tmp_path / FINISHED).touch()
    for overwrite, mend in ((False, "or begin anew with checkpoint.overwrite=true"), (None, "give another output_dir")):
        with pytest.raises(ConfigError, match=f"holds a finished run; .*{mend}$"):
            check_run_dir(tmp_path, resume=True, overwrite=overwrite)
    check_run_dir(tmp_path, resume=True, overwrite=True)
    assert (tmp_path / FINISHED).exists()
    # An epoch's steps are not known yet.
    check_run_dir(tmp_path, resume=True, overwrite=False, num_steps=0)


@pytest.mark.parametrize("app", ["grpo", "sft", "evaluate"])
def test_a_taken_folder_is_refused_before_any_heavy_library_is_loaded(app: str, tmp_path: Path) -> None:
    (tmp_path / FINISHED).touch()
    experiment = {"grpo": "demo", "sft": "demo_base", "evaluate": "demo_evaluate"}[app]
    program = (
        "import sys\n"
        f"sys.argv = ['{app}', 'experiment={experiment}', 'output_dir={tmp_path}']\n"
        f"from videor2_rl.{app} import main\n"
        "try: main()\n"
        "except SystemExit as exit_: print(exit_.code)\n"
        "print(sorted({'torch', 'ray', 'vllm', 'verl', 'transformers', 'decord'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["2", "[]"]
    assert done.stderr.startswith(f"error: output_dir: {tmp_path} holds a finished run;")


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    assert full_disk(OSError(errno.ENOSPC, "No space left on device", "/x/y")) == "No space left on device: /x/y"
    outer = RuntimeError("a worker failed")
    outer.__cause__ = ValueError("I/O error: Read-only file system (os error 30)")
    assert full_disk(outer) == "Read-only file system"
    assert full_disk(OSError(errno.ENOENT, "No such file")) is None
    circle = RuntimeError("again")
    circle.__context__ = circle.__cause__ = RuntimeError("and again")
    assert full_disk(circle) is None


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing("OUT", tmp_path):
        raise KeyError("x")
    with writing("OUT", tmp_path):
        write_json_atomic(tmp_path / "a.json", 1)
