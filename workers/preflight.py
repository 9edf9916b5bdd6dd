"""A run's cluster looked at node by node, before an engine or a rank is started."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import ManagedJudge
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun
from videor2_rl.doctor.preflight import NodeReport, faults
from videor2_rl.doctor.sizing import model_shape
from workers.fetch import DeadlineExceeded, fetch

LOOK_S = 60.0
"""Seconds in which every node must have answered; a process that imports PyTorch takes ten."""
_DRIVER = Path("/proc/driver/nvidia/version")


def check_cluster(run: GrpoRun | SftRun | EvaluateRun, *, model_path: str, prompts_per_call: int = 0) -> None:
    """Return when every node of the connected cluster can do its part.

    Args:
        model_path: of the first model that is loaded.
        prompts_per_call: of an evaluation.

    Raises:
        ConfigError: what is amiss, a line for each fault.
    """
    model = replace(run.model, path=model_path)
    with _mark(run.output_dir) as mark:
        paths = {"model.path": str(Path(model_path) / "config.json"), "output_dir": str(mark)}
        folders = {"model.path": model_path, "output_dir": run.output_dir}
        if not isinstance(run, SftRun) and isinstance(run.judge, ManagedJudge):
            paths["judge.model_path"] = str(Path(run.judge.model_path) / "config.json")
            folders["judge.model_path"] = run.judge.model_path
        nodes = look_at_nodes(paths)
    found = faults(run, model_shape(model), nodes, folders=folders, prompts_per_call=prompts_per_call)
    if found:
        raise ConfigError("\n".join(found))


def look_at_nodes(paths: Mapping[str, str]) -> list[NodeReport]:
    """Every living node's report.

    Args:
        paths: files that a node should see, by their configuration key.

    Raises:
        ConfigError: a node did not answer.
    """
    asked = []
    for node in ray.nodes():
        if node["Alive"]:
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # Where Ray counts no GPU, the run starts nothing that needs PyTorch for CUDA.
            gpus = node["Resources"].get("GPU", 0.0)
            ref = _look.options(scheduling_strategy=where).remote(dict(paths), gpus > 0)
            asked.append((f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})", node["Resources"], ref))
    reports = []
    for name, resources, ref in asked:
        try:
            seen = fetch(ref, deadline_s=LOOK_S, what=name)
        except DeadlineExceeded as error:
            raise ConfigError(f"cluster: {error} to answer; end it, or mend it, and start again") from None
        store = resources.get("object_store_memory", 0.0)
        reports.append(NodeReport(name=name, gpus=resources.get("GPU", 0.0), object_store_bytes=store, **seen))
    return reports


@ray.remote(num_cpus=0)
def _look(paths: dict[str, str], has_gpus: bool) -> dict[str, Any]:
    """The fields of `NodeReport` that the node itself must be asked for."""
    seen: dict[str, Any] = {
        "shared_memory_bytes": float(shutil.disk_usage("/dev/shm").total),
        "unseen": tuple(key for key, path in paths.items() if not Path(path).exists()),
        "driver": driver_version(_DRIVER.read_text()) if _DRIVER.exists() else None,
        "cuda": None,
        "gpu_bytes": None,
    }
    if has_gpus:
        import torch

        seen["cuda"] = torch.version.cuda
    if has_gpus and seen["driver"] is not None:
        seen["gpu_bytes"] = _smallest_gpu()
    return seen


def driver_version(text: str) -> str | None:
    """The version in what /proc/driver/nvidia/version holds, e.g. 580.65.06."""
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text, re.MULTILINE)
    return None if found is None else found.group(1)


def _smallest_gpu() -> float:
    """Bytes of memory, by NVIDIA's management library, which takes no memory of the GPU for it."""
    import pynvml

    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return float(min(pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles))
    finally:
        pynvml.nvmlShutdown()


@contextmanager
def _mark(folder: str) -> Iterator[Path]:
    """A file of a name that no node has seen, so that another folder of the same path is not taken for this one."""
    mark = Path(folder) / f".seen-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink()
