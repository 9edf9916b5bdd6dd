"""All that we ask of vLLM to change an engine's weights, and our half of it inside vLLM's engine processes.

vLLM imports this module in each of them because `EXTENSION` names a class in it, whose methods `collective_rpc` calls.
They use vLLM's layerwise reloading directly: its weight-transfer classes around that changed incompatibly between 0.24
and 0.28, while what is used here is the same in both.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from videor2_rl.model.token_scores import float32_logits
from videor2_rl.model.weights import StoredWeights
from workers.cpu_sampler import use_one_number_a_token
from workers.weights.group import GroupAddress, TransferGroup
from workers.weights.payload import decode, split
from workers.weights.plan import Bucket, Gathered, WeightPlan

if TYPE_CHECKING:
    from torch import nn

EXTENSION = "workers.weights.vllm_adapter.WeightExtension"
PARENT_POLL_S = 1.0


# --- asked by the rollout worker ----------------------------------------------------------------------------------


async def prepare(engine: Any, *, float32_head: bool) -> None:
    """Once after an engine's start; for generation vLLM itself has no head in float32."""
    await engine.collective_rpc("weights_prepare", args=(float32_head,))


async def join_group(engine: Any, address: GroupAddress, *, first_member: int) -> None:
    """Meet the learner and the other engines; the engine's processes are members from `first_member` on."""
    await engine.collective_rpc("weights_join", args=(asdict(address), first_member))


async def base_version(engine: Any) -> int | None:
    """Policy version of which all the engine's processes keep the values that were sent, or None."""
    versions = set(await engine.collective_rpc("weights_base"))
    return versions.pop() if len(versions) == 1 else None


async def begin(engine: Any) -> None:
    """Hold what runs where it is, and open an update."""
    await engine.pause_generation(mode="keep", clear_cache=False)
    await engine.collective_rpc("weights_begin")


async def load_bucket(
    engine: Any, index: int, bucket: Bucket, gathered: Gathered, *, plan: WeightPlan, path: Path | None
) -> None:
    """Receive a bucket from the group, or read it from a file, and load it.

    Raises:
        Exception: the bucket arrived damaged, or the group is broken; the engine's weights are not whole then.
    """
    # As plain values: what vLLM sends to its processes loses its type.
    arguments = (index, asdict(bucket), asdict(gathered), plan.dtype, plan.keeps_base, path and str(path))
    await engine.collective_rpc("weights_load", args=arguments)


async def load_folder(engine: Any, folder: str) -> None:
    """Load all weights of a checkpoint folder."""
    await engine.collective_rpc("weights_load_folder", args=(folder,))


async def finish(engine: Any, policy_version: int, *, keeps_base: bool) -> None:
    """Close the update: the engine may generate again after `resume_generation`."""
    await engine.collective_rpc("weights_finish", args=(policy_version, keeps_base))


async def empty_caches(engine: Any, *, changes_vision: bool) -> None:
    """Empty the caches that depend on the weights that have changed, those of responses that are held included: they
    read their tokens again with the new weights.

    Visual embeddings outlive an update that leaves the tower and its merger as they are.
    """
    await engine.reset_prefix_cache(reset_running_requests=True)
    if changes_vision:
        await engine.reset_mm_cache()
        await engine.reset_encoder_cache()


# --- inside the engine's processes --------------------------------------------------------------------------------


class Receiver:
    """One engine process's weights: they change a bucket at a time, in the memory where they are."""

    def __init__(self, model: nn.Module, model_config: Any, vllm_config: Any, device: torch.device) -> None:
        self._model = model
        self._model_config = model_config
        self._vllm_config = vllm_config
        self._device = device
        self._group: TransferGroup | None = None
        self._base: dict[int, torch.Tensor] = {}
        self.base_version: int | None = None
        """Policy version of the values kept in `_base`; None while they are not of one."""

    def join(self, address: GroupAddress, member: int) -> None:
        """Leave the group before, and meet the next one."""
        self._group = None
        self._group = TransferGroup(address, member, device=self._device)

    def begin(self) -> None:
        """Open an update; one before it that failed is closed, with any content in what it left half loaded."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        # A layer left half loaded would count what it got then.
        if any(get_layerwise_info(layer).can_load() for layer in self._model.modules()):
            self._close()
        with self._context(), torch.device(self._device):
            initialize_layerwise_reload(self._model)

    def load(
        self, index: int, bucket: Bucket, gathered: Gathered, dtype: torch.dtype, *, keeps_base: bool, path: str | None
    ) -> None:
        self.base_version = None
        if path is None:
            assert self._group is not None, "no group was joined"
            # New memory for each bucket: vLLM keeps views of what it is given until a layer is whole.
            payload = torch.empty(gathered.num_bytes, dtype=torch.uint8, device=self._device)
            self._group.broadcast(payload)
        else:
            payload = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
        flat = decode(payload, gathered, dtype=dtype, base=self._base.get(index))
        if keeps_base and gathered.num_changed is None:
            self._base[index] = flat.to("cpu", copy=True)
        self._load(split(flat, bucket))

    def load_folder(self, folder: str) -> None:
        self.base_version = None
        stored = StoredWeights(folder)
        self._load((name, stored.read(name)) for name in stored.names)

    def finish(self, policy_version: int, *, keeps_base: bool) -> None:
        self._close()
        self._pack_tied()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.base_version = policy_version if keeps_base else None

    def _load(self, tensors: Any) -> None:
        with self._context(), torch.device(self._device):
            self._model.load_weights(tensors)  # type: ignore[operator]

    def _close(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        with self._context(), torch.device(self._device):
            finalize_layerwise_reload(self._model, self._model_config)

    def _pack_tied(self) -> None:
        """vLLM 0.32 gives tied embeddings to a head of its own, which packs them for the CPU and sees no change."""
        holders: dict[int, list[Any]] = {}
        for layer in self._model.modules():
            weight = getattr(layer, "weight", None)
            if hasattr(layer, "cpu_linear") and isinstance(weight, torch.Tensor) and weight.numel():
                holders.setdefault(weight.data_ptr(), []).append(layer)
        with self._context():
            for layers in holders.values():
                for layer in layers if len(layers) > 1 else ():
                    layer.quant_method.process_weights_after_loading(layer)

    def _context(self) -> Any:
        from vllm.config import set_current_vllm_config

        return set_current_vllm_config(self._vllm_config)


def _end_with_parent(parent: int) -> None:
    """End this process when `parent` has gone.

    Ray ends an engine with its actor, but where the whole node's Ray is killed nobody is left to do it.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)


def _apply_in_float32(layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A head's logits, in place of its quantisation method's `apply`; the families here have no bias."""
    assert bias is None
    return float32_logits(x, layer.weight)


class WeightExtension:
    """Methods that vLLM mixes into its worker class; called by `collective_rpc`, one answer per worker process."""

    model_runner: Any
    model_config: Any
    vllm_config: Any
    device: torch.device
    weights_receiver: Receiver

    def weights_prepare(self, float32_head: bool) -> None:
        """Once after the start."""
        if float32_head:
            # Outside of CUDA graphs, which end at the last hidden states.
            self.model_runner.model.get_language_model().lm_head.quant_method.apply = _apply_in_float32
        if self.device.type == "cpu":
            use_one_number_a_token(self.model_runner)
        self.weights_receiver = Receiver(self.model_runner.model, self.model_config, self.vllm_config, self.device)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def weights_join(self, address: dict[str, Any], first_member: int) -> None:
        """Meet the learner and the other engines."""
        member = first_member + self.vllm_config.parallel_config.rank
        self.weights_receiver.join(GroupAddress(**address), member)

    def weights_base(self) -> int | None:
        """Policy version of the values that this process keeps; None: it keeps none, or not all of one version."""
        return self.weights_receiver.base_version

    def weights_begin(self) -> None:
        """Open an update."""
        self.weights_receiver.begin()

    def weights_load(
        self,
        index: int,
        bucket: dict[str, Any],
        gathered: dict[str, Any],
        dtype: str,
        keeps_base: bool,
        path: str | None,
    ) -> None:
        """One bucket, from the group or from a file."""
        self.weights_receiver.load(
            index,
            Bucket(tuple(bucket["names"]), tuple(map(tuple, bucket["shapes"]))),
            Gathered(**gathered),
            getattr(torch, dtype),
            keeps_base=keeps_base,
            path=path,
        )

    def weights_load_folder(self, folder: str) -> None:
        """All weights of a checkpoint folder."""
        self.weights_receiver.load_folder(folder)

    def weights_finish(self, policy_version: int, keeps_base: bool) -> None:
        """Close the update."""
        self.weights_receiver.finish(policy_version, keeps_base=keeps_base)
