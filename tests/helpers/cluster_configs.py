"""A small local Ray cluster for tests."""

from __future__ import annotations

from typing import Any

from videor2_rl.config.sections import ClusterConfig


def cluster_config(temp_dir: str, **changes: Any) -> ClusterConfig:
    """Local, on the CPU, of 8 logical CPUs, in a folder of the test's own."""
    values: dict[str, Any] = {
        "address": "local",
        "device": "cpu",
        "gpus_per_process": 0,
        "num_cpus": 8,
        "object_store_mib": 200,
        "temp_dir": temp_dir,
        "autoscaler": False,
        "wait_s": 60.0,
    }
    return ClusterConfig(**{**values, **changes})
