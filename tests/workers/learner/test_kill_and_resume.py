"""Killed with SIGKILL in every phase of a step, a run goes on with the same samples and numbers, whatever the backend.

`pytest tests/workers/learner/test_kill_and_resume.py -s` prints the matrix of docs/checkpoints.md.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import programs
import pytest

from videor2_rl.run.rollout_log import read_rollouts

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "programs" / "kill_and_resume.py"
NEWEST = {
    # Written while the next step samples and scores, so a kill there costs that checkpoint.
    "grpo": {"generate": 1, "reward": 2, "update": 3, "sync": 4, "save": 4, "latest": 5},
    "sft": {"update": 2, "save": 2},
}
"""Phase -> the step from which a run killed in it goes on; the program says in which step it was killed."""
BACKENDS = {
    "grpo": ("fsdp2", "deepspeed_zero2", "deepspeed_zero3"),
    "sft": ("fsdp2", "deepspeed_zero2"),
}
MATRIX = [
    (f"{stage}-{backend}", phase)
    for stage, names in BACKENDS.items()
    for backend in names
    for phase in NEWEST[stage]
    # In these no rank takes part: one backend shows them.
    if phase not in ("generate", "reward", "latest") or backend == "fsdp2"
]
ELSEWHERE = [
    ("grpo-fsdp2", "fsdp2", 1),
    ("grpo-fsdp2", "deepspeed_zero3", 3),
    ("grpo-deepspeed_zero2", "deepspeed_zero2", 1),
    ("grpo-deepspeed_zero3", "fsdp2", 3),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each case's undisturbed run, its run killed once in every phase, and copies that went on elsewhere."""
    folder = tmp_path_factory.mktemp("killed")
    with open(folder / "program.log", "w") as log:
        command = [sys.executable, str(PROGRAM), str(folder)]
        result = subprocess.run(command, env=programs.environment(), stdout=log, stderr=subprocess.STDOUT, timeout=800)
    assert result.returncode == 0, (folder / "program.log").read_text()[-3000:]
    return folder


def launches(folder: Path, case: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{case}.json").read_text())


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """A step's metrics but for the time and the memory it took."""
    measured = ("_per_s", "_mib", "_idle_frac")
    return {name: v for name, v in row.items() if not name.startswith("timing_s/") and not name.endswith(measured)}


def log_of(folder: Path, launch: dict[str, Any]) -> str:
    return "\n".join(path.read_text()[-2000:] for path in folder.glob(f"{launch['case']}*.log"))


@pytest.mark.parametrize(("case", "phase"), MATRIX)
def test_a_run_killed_in_any_phase_goes_on_with_the_same_numbers(folder: Path, case: str, phase: str) -> None:
    whole, *others = launches(folder, case)
    chain = [launch for launch in others if launch["name"] != "elsewhere"]
    place = [launch["name"] for launch in chain].index(phase)
    killed, after = chain[place], chain[place + 1]
    assert killed["code"] == -signal.SIGKILL, log_of(folder, killed)
    assert killed["newest"] == NEWEST[case.partition("-")[0]][phase]
    # The launch after it began with the step after its newest checkpoint, and no row is there twice.
    done = [numbers(row) for row in after["rows"]]
    assert [row["step"] for row in done] == list(range(1, len(done) + 1))
    assert len(done) > killed["newest"]
    assert done == [numbers(row) for row in whole["rows"][: len(done)]]
    print(f"\n| {case} | {phase} | {killed['step']} | {killed['newest'] + 1} | same |")


@pytest.mark.parametrize("case", sorted({case for case, _ in MATRIX}))
def test_a_run_killed_again_and_again_ends_with_the_same_model_and_rollouts(folder: Path, case: str) -> None:
    whole, *_, end = launches(folder, case)
    assert (whole["code"], end["code"]) == (0, 0), log_of(folder, end)
    assert [numbers(row) for row in end["rows"]] == [numbers(row) for row in whole["rows"]]
    first, last = whole["rows"][0], whole["rows"][-1]
    loss = "sft/loss" if case.startswith("sft") else "actor/loss"
    assert first[loss] != last[loss] and last["data/skipped"] == 1
    undisturbed, killed = folder / f"{case}-whole", folder / f"{case}-killed"
    weights = "hf/model.safetensors"
    assert (undisturbed / weights).read_bytes() == (killed / weights).read_bytes()
    assert (undisturbed / weights).read_bytes() != (folder / "model" / "model.safetensors").read_bytes()
    for path in (undisturbed / "rollouts").glob("*.jsonl"):
        assert read_rollouts(path) == read_rollouts(killed / "rollouts" / path.name)


@pytest.mark.parametrize(("case", "backend", "num_ranks"), ELSEWHERE)
def test_a_run_goes_on_with_other_ranks_and_another_backend(
    folder: Path, case: str, backend: str, num_ranks: int
) -> None:
    whole, *others = launches(folder, case)
    [launch] = [
        launch
        for launch in others
        if launch["name"] == "elsewhere" and (launch["backend"], launch["num_ranks"]) == (backend, num_ranks)
    ]
    assert launch["code"] == 0, log_of(folder, launch)
    # The same samples; sums over ranks are rounded differently.
    assert len(launch["rows"]) == len(whole["rows"])
    for found, expected in zip(launch["rows"], whole["rows"], strict=True):
        for name in ("actor/loss", "actor/grad_norm", "actor/lr", "actor/policy_version", "reward/mean"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), (expected["step"], name)
