"""DeepSpeed ZeRO 1, 2 and 3 over packed groups, beside FSDP2: same model, same packed forward, same losses.

verl 0.9 has no DeepSpeed engine of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from verl.utils.device import get_device_name
from verl.workers.engine import EngineRegistry

from videor2_rl.model.packing import MicroBatch
from videor2_rl.run.shards import Fragment, StoredTensors
from workers.learner.engines.fsdp import ATTENTION, MODEL_TYPE, LossFunction, PackedFSDPEngine, PackedFSDPEngineConfig
from workers.learner.engines.partitioned import load_partitioned
from workers.learner.engines.state import Piece, restore_state, state_of

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class PackedDeepSpeedEngineConfig(PackedFSDPEngineConfig):
    """verl's settings that apply here too, and how much ZeRO shards."""

    zero_stage: int = 2
    """1: optimiser state; 2: and gradients; 3: and weights."""

    def __post_init__(self) -> None:
        # verl knows this dataclass with its own strategies only.
        object.__setattr__(self, "strategy", "fsdp2")
        super().__post_init__()
        object.__setattr__(self, "strategy", "deepspeed")


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["deepspeed"], device=["cpu", "cuda"])
class PackedDeepSpeedEngine(PackedFSDPEngine):
    """Runs micro-batches of packed groups through a model that DeepSpeed shards."""

    engine_config: PackedDeepSpeedEngineConfig

    def initialize(self) -> None:
        self._build_model_optimizer()
        self._read_pixel_norm()

    def _build_model_optimizer(self) -> None:
        import deepspeed

        if get_device_name() == "cpu":
            # gloo does the communication; DeepSpeed would compile a shared-memory operator, for which a machine needs
            # a compiler and a minute.
            deepspeed.ops.__compatible_ops__ = {}
        module = self._build_module()
        optimizer = None if self.engine_config.forward_only else self._build_optimizer(module)
        self.module, self.optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self._deepspeed_config(), dist_init_required=False
        )
        self.lr_scheduler = None if optimizer is None else self._build_lr_scheduler(optimizer)

    def _load_checkpoint(self) -> Any:
        """The model in the dtype in which DeepSpeed keeps weights: whole on every rank, with ZeRO-3 in shards."""
        from transformers import AutoModelForImageTextToText

        path, dtype = self.model_config.path, self.compute_dtype
        if self.engine_config.zero_stage == 3:
            return load_partitioned(path, dtype, ATTENTION, deepspeed_config=self._deepspeed_config())
        return AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, attn_implementation=ATTENTION)

    def _deepspeed_config(self) -> dict[str, Any]:
        # A forward pass alone has nothing to shard but weights: ZeRO-3, or none.
        stage = self.engine_config.zero_stage
        if self.engine_config.forward_only and stage < 3:
            stage = 0
        zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
        if self.engine_config.offload_policy:
            zero["offload_optimizer"] = {"device": "cpu"}
            if stage == 3:
                zero["offload_param"] = {"device": "cpu"}
        config: dict[str, Any] = {
            # Micro-batches are ours: `forward_backward_batch` marks the last one, and losses are already normalised.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "zero_optimization": zero,
            # torch's optimisers, as with FSDP2, instead of compiled ones.
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "communication_data_type": "fp32",
        }
        if self.optimizer_config is not None:
            config["gradient_clipping"] = self.optimizer_config.clip_grad
        if self.compute_dtype == torch.bfloat16:
            # Weights in bfloat16 with float32 masters and gradients, as FSDP2's mixed precision keeps them.
            config["bf16"] = {"enabled": True}
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        return config

    def to(self, device: str, model: bool = True, optimizer: bool = True, grad: bool = True) -> None:
        """DeepSpeed places its own state; verl's moves are for FSDP's."""

    def forward_backward_batch(  # type: ignore[override]
        self,
        data: Sequence[MicroBatch],
        loss_function: LossFunction,
        *,
        temperature: float,
        forward_only: bool = False,
    ) -> list[Any]:
        """As `PackedFSDPEngine.forward_backward_batch`."""
        results = []
        for index, micro_batch in enumerate(data):
            with torch.set_grad_enabled(not forward_only):
                if not forward_only:
                    self.module.set_gradient_accumulation_boundary(index == len(data) - 1)
                loss, result = self.forward_step(micro_batch, loss_function, temperature=temperature)
                if loss is not None and not forward_only:
                    self.module.backward(loss)
            results.append(result)
        return results

    def optimizer_zero_grad(self) -> None:
        self.module.zero_grad()

    def optimizer_step(self) -> float:
        """Clip, step; the gradient norm before clipping. Weights stay as they are where it is not finite."""
        self.module.step()
        return float(self.module.get_global_grad_norm())

    def _root_with_tower(self) -> nn.Module:
        return self.module.module

    def without_adapter(self) -> AbstractContextManager[Any]:
        return self.module.module.disable_adapter()

    def _named(self) -> Mapping[str, Tensor]:
        return dict(self.module.module.named_parameters(remove_duplicate=False))

    def _gathered_tensor(self, shard: Tensor, dtype: torch.dtype | None) -> Tensor:
        if self.engine_config.zero_stage < 3:
            return shard.detach().to(dtype)
        import deepspeed

        with deepspeed.zero.GatheredParameters([shard]):
            # A copy: the parameter is cut again when the block ends.
            return shard.detach().to(dtype, copy=True)

    def state(self) -> dict[str, Fragment]:
        return state_of(self._pieces(), self.optimizer.optimizer)

    def restore(self, stored: StoredTensors) -> None:
        """As `PackedFSDPEngine.restore`; a collective, for the model's weights follow the optimiser's."""
        restore_state(self._pieces(), self.optimizer.optimizer, stored, trained=self._trained_sizes())
        if self.engine_config.zero_stage < 3:
            self.optimizer.update_lp_params()
            return
        for group in range(len(self.optimizer.fp16_groups)):
            self.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # Small parameters are kept gathered: cut them anew, then gather.
        if persistent := self.optimizer.persistent_parameters:
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)

    def _trained(self) -> dict[str, nn.Parameter]:
        named = self.module.module.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def _trained_sizes(self) -> dict[str, int]:
        return {name: getattr(tensor, "ds_numel", tensor.numel()) for name, tensor in self._trained().items()}

    def _pieces(self) -> list[Piece]:
        return self._equal_pieces() if self.engine_config.zero_stage == 3 else self._pieces_of_partition()

    def _pieces_of_partition(self) -> list[Piece]:
        """ZeRO-1 and 2 lay a group's parameters end to end and give each rank an equal stretch of it."""
        pieces = []
        for name, parameter in self._trained().items():
            place = parameter._hp_mapping  # type: ignore[attr-defined]
            # None: all of the parameter is on other ranks.
            if place is not None:
                [owner] = self.optimizer.optimizer.param_groups[place.param_group_index]["params"]
                address = place.hp_fragment_address
                part = partial(torch.narrow, dim=0, start=address.start, length=address.numel)
                pieces.append(Piece(name, place.lp_fragment_address.start, owner, part))
        return pieces

    def _equal_pieces(self) -> list[Piece]:
        """ZeRO-3 gives each rank an equal stretch of every parameter, the last one padded."""
        names = {parameter: name for name, parameter in self._trained().items()}
        rank = torch.distributed.get_rank()
        pieces = []
        for group, owner in zip(self.optimizer.fp16_groups, self.optimizer.fp32_partitioned_groups_flat, strict=True):
            offset = 0
            for parameter in group:
                start = rank * parameter.partition_numel()
                length = min(parameter.partition_numel(), parameter.ds_numel - start)
                if length > 0:
                    part = partial(torch.narrow, dim=0, start=offset, length=length)
                    pieces.append(Piece(names[parameter], start, owner, part))
                offset += parameter.partition_numel()
        return pieces
