"""What a configuration is held against: this machine, or one that is described."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun

AnyRun: TypeAlias = GrpoRun | SftRun | EvaluateRun
"""What the doctor knows the needs of."""
_GIB = 1 << 30


@dataclass(frozen=True)
class Machine:
    """What there is; None: not known, so nothing is held against it."""

    gpus: int | None
    gpu_gib: float | None
    """Of one GPU; on CPUs, for each process."""
    cpus: int | None
    gpu_flops: float | None
    """FLOP/s that one GPU really reaches."""
    memory_gib: float | None = None
    """Of the host."""
    is_this_one: bool = False

    @property
    def is_described(self) -> bool:
        return any(value is not None for value in (self.gpus, self.gpu_gib, self.cpus, self.memory_gib))

    def text(self) -> str:
        """What is compared with what."""
        known = {
            "GPUs": self.gpus,
            "GiB a GPU": self.gpu_gib,
            "CPU cores": self.cpus,
            "GiB of memory": self.memory_gib,
        }
        there = ", ".join(f"{value:.4g} {name}" for name, value in known.items() if value is not None)
        if self.is_this_one:
            return f"compared with this machine: {there}; --gpus, --gpu-gib, --cpus, --memory-gib describe another"
        unknown = ", ".join(name for name, value in known.items() if value is None)
        return f"compared with {there or 'no machine'}" + (f"; not said, not compared: {unknown}" if unknown else "")


def machine_for(run: AnyRun, described: Machine) -> Machine:
    """The described machine; where nothing is described and the run starts its own cluster, this one."""
    elsewhere = run.cluster.address is not None or "RAY_ADDRESS" in os.environ
    if described.is_described or elsewhere:
        return described
    import psutil
    import torch

    gpus = torch.cuda.device_count()
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(gpus)]
    return Machine(
        gpus=gpus,
        gpu_gib=min(sizes) / _GIB if sizes else None,
        cpus=len(os.sched_getaffinity(0)),
        gpu_flops=described.gpu_flops,
        memory_gib=psutil.virtual_memory().total / _GIB,
        is_this_one=True,
    )
