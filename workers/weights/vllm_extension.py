"""The half of weight sync that runs inside vLLM's engine processes.

vLLM imports this module in each of them because `worker_extension_cls` names a class in it; the import registers the
transport `SHARED_MEMORY`, which `weight_transfer_config` then selects.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo

SHARED_MEMORY = "videor2_shared_memory"
PARENT_POLL_S = 1.0


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: every update names its file."""


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):
    """One complete update: a safetensors file on this node under Hugging Face's tensor names."""

    path: str
    policy_version: int


class SharedMemoryEngine(WeightTransferEngine[SharedMemoryInitInfo, SharedMemoryUpdateInfo]):
    """Loads weights from a file in shared memory, which the actor beside the engine wrote there."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo
    policy_version = 0
    """Of the last update that was handed over completely; 0: the checkpoint's own weights."""

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        """A file needs no connection; the call, made once in every engine process, starts the watch on its parent."""
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def receive_weights(
        self,
        update_info: SharedMemoryUpdateInfo,
        load_weights: Callable[[list[tuple[str, torch.Tensor]]], Any],
    ) -> None:
        with safe_open(update_info.path, framework="pt", device="cpu") as file:
            # The tensors are views of the mapped file: the list costs no memory.
            load_weights([(name, file.get_tensor(name)) for name in file.keys()])  # noqa: SIM118 (not a mapping)
        self.policy_version = update_info.policy_version

    def shutdown(self) -> None:
        """Nothing is held between updates."""

    @staticmethod
    def trainer_send_weights(iterator: Iterator[tuple[str, torch.Tensor]], trainer_args: Any) -> None:
        """Not used: the learner publishes through Ray's object store."""
        raise NotImplementedError("publish weights with workers.weights.sync.publish_weights")


def _end_with_parent(parent: int) -> None:
    """End this process when `parent` has gone.

    Ray ends an engine with its actor, but where the whole node's Ray is killed nobody is left to do it.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)


class WeightExtension:
    """Methods that vLLM mixes into its worker class; called by `collective_rpc`, one answer per worker process."""

    weight_transfer_engine: SharedMemoryEngine

    def weights_checksum(self, path: str) -> str:
        """sha256 of the file as this process sees it. Loading maps the same pages of shared memory afterwards."""
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()

    def loaded_version(self) -> int:
        """Policy version of the weights in use; 0: those of the checkpoint folder."""
        return self.weight_transfer_engine.policy_version


WeightTransferEngineFactory.register_engine(SHARED_MEMORY, SharedMemoryEngine)
