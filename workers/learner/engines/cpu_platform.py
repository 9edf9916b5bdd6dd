"""verl on CPUs: the platform plugin that verl 0.9.1 lacks, and the process group it cannot build there.

verl imports this module in every process whose environment holds `verl_config.learner_env("cpu")`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _CpuModule:
    """torch.cpu with the memory and RNG functions that verl expects of a device module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return True

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def memory_allocated(self, device: int | None = None) -> int:
        return 0

    def memory_reserved(self, device: int | None = None) -> int:
        return 0

    def max_memory_allocated(self, device: int | None = None) -> int:
        return 0

    def max_memory_reserved(self, device: int | None = None) -> int:
        return 0

    def mem_get_info(self, device: int | None = None) -> tuple[int, int]:
        return 0, 0

    def get_device_name(self, device: int | None = None) -> str:
        return "CPU"

    def get_rng_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


@PlatformRegistry.register("cpu")
class CpuPlatform(PlatformBase):
    """The CPU as verl's accelerator: gloo, no device memory, no profiler."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> Any:
        return _CpuModule()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Only by name (VERL_PLATFORM): otherwise every GPU machine would be found to be a CPU machine."""
        return False

    def current_device(self) -> Any:
        # verl hands this to `.to(...)`, where an index would mean a GPU.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """CPU work is never asynchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The system's allocator has none."""

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """There is no device profiler."""

    def profiler_stop(self) -> None:
        """There is no device profiler."""

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_cpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Have glibc keep up to 256 MiB that it would give back to the kernel, for the rest of the process.

    Every pass frees its activations and asks for as many again; given back in between, each page is mapped and cleared
    anew. Elsewhere than on Linux nothing changes, nor with another allocator (jemalloc, tcmalloc), which keeps memory.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Above 32 MiB, the most that glibc takes as this threshold, tensors are mapped one by one.
        for parameter, mebibytes in ((_M_MMAP_THRESHOLD, 32), (_M_TRIM_THRESHOLD, 256), (_M_TOP_PAD, 64)):
            mallopt(parameter, mebibytes << 20)


def init_cpu_process_group() -> None:
    """Join the gloo group described by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    verl 0.9.1 would ask for the backend "cpu:gloo,<device>:<backend>", which names the CPU twice here and raises
    ValueError; it skips that when a group exists.
    """
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    torch.distributed.init_process_group(
        "gloo",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        init_method=f"tcp://{address}:{port}",
    )
