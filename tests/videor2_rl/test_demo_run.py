"""How the demo runs its stages; what they do is tested in `tests/test_demo.py`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from videor2_rl.demo_run import Stage, run_stage, runner, stages, warm_runner

ROOT = Path(__file__).parents[2]

SAVES_FIRST = """
import pathlib, signal, sys, time
def stop(number, frame):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(40 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(60)
"""

RUNS_ONE = """
import multiprocessing, sys
from videor2_rl.demo_run import runner
if __name__ == "__main__":
    sys.exit(runner(multiprocessing.get_context("spawn"))(["saves_first", sys.argv[1]]))
"""

LOOKS_AROUND = """
import json, os, pathlib, sys
loaded = [name for name in ("transformers", "verl", "workers.build") if name in sys.modules]
import ray
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
pathlib.Path(sys.argv[1]).write_text(json.dumps([ray.get_runtime_context().get_node_id(), loaded]))
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules new processes can import."""
    (tmp_path / "saves_first.py").write_text(SAVES_FIRST)
    (tmp_path / "looks_around.py").write_text(LOOKS_AROUND)
    (tmp_path / "runs_one.py").write_text(RUNS_ONE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_stage_that_is_done_is_not_run_and_others_add_their_seconds(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> int:
        asked.append(command)
        return 3

    stage = Stage("sft", "title", ("module", "a=1"), tmp_path / "finished")
    assert [run_stage(stage, tmp_path, run, place="1/2") for _ in range(2)] == [3, 3]
    first, timing = asked.copy(), json.loads((tmp_path / "timing.json").read_text())
    (tmp_path / "finished").touch()
    assert run_stage(stage, tmp_path, run, place="1/2") == 0
    assert asked == first == [("module", "a=1")] * 2
    assert list(timing) == ["sft"] and json.loads((tmp_path / "timing.json").read_text()) == timing


def test_a_command_runs_as_python_m_would(tmp_path: Path) -> None:
    run = runner(multiprocessing.get_context("spawn"))
    (tmp_path / "good.json").write_text("[1]")
    assert run(["json.tool", str(tmp_path / "good.json"), str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == [1]
    assert run(["json.tool", "--no-such-option"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_is_stopped_may_save_first(number: signal.Signals, modules: Path) -> None:
    note = modules / "note"
    process = subprocess.Popen(
        [sys.executable, "-m", "runs_one", str(note)],
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not note.exists() or note.read_text() != "ready":
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if number == signal.SIGINT:
        # As a terminal does it: to every process in the foreground.
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=60) == 40 + number
    assert note.read_text() == "saved"


def test_a_demo_that_is_done_starts_no_cluster(tmp_path: Path) -> None:
    for stage in (todo := stages(tmp_path / "demo", seed=0)[1:]):
        assert stage.done_marker is not None and not stage.is_done
        stage.done_marker.parent.mkdir(parents=True, exist_ok=True)
        stage.done_marker.touch()
    before = dict(os.environ)
    with warm_runner(todo):
        assert dict(os.environ) == before


@pytest.mark.slow
@pytest.mark.ray
def test_stages_share_a_cluster_and_find_the_libraries_loaded(modules: Path) -> None:
    program = (
        "from videor2_rl.demo_run import Stage, warm_runner\n"
        "if __name__ == '__main__':\n"
        "    with warm_runner([Stage('a', 'a', (), None)]) as run:\n"
        f"        assert [run(['looks_around', '{modules}/' + name]) for name in 'ab'] == [0, 0]\n"
    )
    (modules / "two_stages.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run([sys.executable, "-m", "two_stages"], check=True, env=environment, timeout=300)
    (first_node, loaded), (second_node, _) = (json.loads((modules / name).read_text()) for name in "ab")
    assert first_node == second_node
    assert loaded == ["transformers", "verl", "workers.build"]
