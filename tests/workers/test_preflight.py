"""Runs are refused before anything starts on clusters that cannot hold them, and accepted on those that can."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import programs
import published
import pytest

from workers.preflight import driver_version

PROGRAM = Path(__file__).parent / "programs" / "fake_clusters.py"
MODEL = str(published.FOLDER / "Qwen2.5-VL-7B-Instruct")


def said(scenario: str, model: str, folder: Path) -> list[str]:
    """The program's lines; in a process of its own, for one process connects to one cluster."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray_folder:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), scenario, model],
            capture_output=True,
            text=True,
            env={**programs.environment(), "RAY_TMPDIR": ray_folder},
            cwd=folder,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if line.startswith(("ACCEPTED", "REFUSED"))]


@pytest.mark.slow
@pytest.mark.ray
def test_every_experiment_is_accepted_by_a_cluster_that_fits(tmp_path: Path) -> None:
    lines = said("fits", MODEL, tmp_path)
    experiments = {file.stem for file in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml")}
    accepted = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("ACCEPTED")}
    assert accepted.keys() == experiments
    # Eight GPUs hold all but these.
    assert {name for name, nodes in accepted.items() if nodes > 1} == {"video_r2_7b_grpo", "grpo_7b_4nodes"}
    refused = [line for line in lines if line.startswith("REFUSED")]
    assert "video_r2_7b_grpo cluster: the run needs" in refused[0]
    assert "and 13 GPUs" in refused[0] and "8 GPUs" in refused[0]
    # As they really are, the nodes have no GPU for PyTorch to compute on, whatever it is built for.
    assert len(refused) == 2 and "cluster.device: found cuda, and" in refused[1]
    assert "has no NVIDIA driver" in refused[1] or "is built without CUDA" in refused[1]


@pytest.mark.slow
@pytest.mark.ray
def test_a_folder_that_one_node_does_not_see_is_refused(tmp_path: Path) -> None:
    alone, both = said("folder", MODEL, tmp_path)
    assert alone == "ACCEPTED smoke 1"
    assert both.startswith("REFUSED smoke model.path: node ") and "does not see model; put it where" in both


@pytest.mark.slow
@pytest.mark.ray
def test_a_small_object_store_is_refused(tmp_path: Path) -> None:
    [line] = said("store", MODEL, tmp_path)
    assert "REFUSED grpo_7b_1node cluster.object_store_mib: the run puts up to 2.95 GiB" in line
    assert "which has 0.0977 GiB; give cluster.object_store_mib=" in line


def test_the_drivers_version_is_read() -> None:
    open_ = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)  Sun\n"
    )
    assert driver_version(open_ + "GCC version:  gcc version 12.3.0\n") == "580.65.06"
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    assert driver_version(closed) == "535.183.01"
    assert driver_version("GCC version:  gcc version 12.3.0\n") is None
