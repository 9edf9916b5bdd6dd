"""The command for the first day on GPUs, here on CPUs at toy size: the same parts, gloo in place of NCCL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_day import Results, main


@pytest.mark.slow
@pytest.mark.ray
def test_every_part_runs_and_every_check_holds(tmp_path: Path) -> None:
    output = tmp_path / "checks.json"
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--gpus", "0", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    checks = json.loads(output.read_text())
    held = {(check["part"], check["what"]) for check in checks if check["is_ok"]}
    assert held == {
        ("kernels", "largest difference to separate sequences"),
        ("engine", "the same seed says the same"),
        ("engine", "new weights say something else"),
        ("engine", "the old weights again say what they said"),
        ("learner", "gap to the engine, its first weights"),
        ("learner", "gradient norm"),
        ("learner", "gap to the engine, new weights"),
        ("transfer", "gap after it"),
        ("transfer", "the object store brings the same bits"),
        ("transfer", "past a lost worker too"),
    }
    assert not any(check["is_ok"] is False for check in checks)
    figures = {check["what"] for check in checks if check["is_ok"] is None}
    assert {"peak memory", "MiB a second sent and loaded, median", "tokens a second"} <= figures


def test_a_part_that_breaks_is_a_failed_check_and_the_next_one_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    results = Results()
    with results.part("one"):
        raise RuntimeError("no such\nkernel")
    with results.part("two"):
        results.add("two", "figure", 3)
    assert [(check.part, check.what, check.is_ok) for check in results.checks] == [
        ("one", "ran to its end", False),
        ("two", "figure", None),
        ("two", "seconds", None),
    ]
    assert "FAIL one       ran to its end: no such kernel" in capsys.readouterr().out


def test_more_gpus_than_there_are_is_an_error_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.device_count() >= 2:
        pytest.skip("this machine has them")
    with pytest.raises(SystemExit) as ended:
        main(["--gpus", "2"])
    assert ended.value.code == 2
    assert "--gpus: found 2, and torch sees" in capsys.readouterr().err
