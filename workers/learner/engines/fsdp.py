"""verl's FSDP2 engine over packed groups: freezing, our attention, our forward; the same code on CPU and CUDA."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from verl.utils.device import get_device_id, get_device_name
from verl.utils.fsdp_utils import get_init_weight_context_manager
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.config import FSDPEngineConfig
from verl.workers.config.optimizer import build_optimizer
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from videor2_rl.config.sections import LoraConfig
from videor2_rl.model.family import part_of
from videor2_rl.model.last_layer import trim_last_layer
from videor2_rl.model.packed_attention import PACKED_GROUPS, register_packed_attention
from videor2_rl.model.packing import MicroBatch, PackedBatch, PixelNorm, pack
from videor2_rl.model.token_scores import TokenScores, score_tokens
from videor2_rl.model.tower import speed_up_tower
from videor2_rl.model.visual import encode_clip, smallest_clip, without_tower
from videor2_rl.run.shards import Fragment, StoredTensors
from workers.learner.engines.lora import add_adapters, parameter_groups, plain_weights
from workers.learner.engines.state import Piece, restore_state, state_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from videor2_rl.types import Prompt

MODEL_TYPE = "packed_groups"
"""Our engines' name in verl's registry, where "language_model" on CUDA is taken."""

ATTENTION = {"": "sdpa", "text_config": PACKED_GROUPS, "vision_config": "sdpa"}
"""As transformers takes it, a choice for each part of a model."""

LossFunction = Callable[[TokenScores, PackedBatch, MicroBatch], tuple["Tensor | None", Any]]
"""(scores of the S response tokens, the packed sequence, its groups) -> the loss, None where there is none, and any
result."""


@dataclass
class PackedFSDPEngineConfig(FSDPEngineConfig):
    """verl's FSDP settings and which parts of the model stay as they are."""

    freeze_vision_tower: bool = False
    freeze_merger: bool = False
    freeze_language_model: bool = False
    lora: LoraConfig | None = None
    float32_head: bool = False
    vision_tower_learning_rate: float | None = None
    merger_learning_rate: float | None = None


@EngineRegistry.register(model_type=MODEL_TYPE, backend=["fsdp2"], device=["cpu", "cuda"])
class PackedFSDPEngine(FSDPEngineWithLMHead):
    """Runs micro-batches of packed groups through a sharded Qwen2.5-VL or Qwen3-VL."""

    engine_config: PackedFSDPEngineConfig

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the forward pass, and of weights that leave the learner."""
        return PrecisionType.to_dtype((self.engine_config.mixed_precision or {})["param_dtype"])

    def initialize(self) -> None:
        super().initialize()
        # Outside of the root's forward, and yet with the hooks that gather its weights.
        register_fsdp_forward_method(self.module, "get_video_features")
        self._read_pixel_norm()

    def _read_pixel_norm(self) -> None:
        video_processor = self.model_config.processor.video_processor
        self.pixel_norm = PixelNorm(tuple(video_processor.image_mean), tuple(video_processor.image_std))

    def _build_module(self) -> Any:
        """The checkpoint with what trains, and with adapters where they are asked for.

        verl's own version would also replace the model's forward by one that computes logits for every token.
        """
        register_packed_attention()
        module = self._load_checkpoint()
        speed_up_tower(module)
        trim_last_layer(module)
        if self.model_config.enable_gradient_checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        freeze(
            module,
            vision_tower=self.engine_config.freeze_vision_tower,
            merger=self.engine_config.freeze_merger,
            language_model=self.engine_config.freeze_language_model,
        )
        return module if self.engine_config.lora is None else add_adapters(module, self.engine_config.lora)

    def _load_checkpoint(self) -> Any:
        """The model in host memory; where weights are not tied on rank 0 alone, from which FSDP2 hands out shards."""
        from transformers import AutoModelForImageTextToText

        tied = self.model_config.hf_config.tie_word_embeddings
        with get_init_weight_context_manager(use_meta_tensor=not tied, mesh=self.device_mesh)():
            return AutoModelForImageTextToText.from_pretrained(
                self.model_config.path,
                dtype=PrecisionType.to_dtype(self.engine_config.model_dtype),
                attn_implementation=ATTENTION,
            )

    def _build_fsdp_module(self, module: nn.Module) -> nn.Module:
        # verl would keep every forward-only model in host memory and copy it to the GPU for each pass; here
        # `offload_policy` alone says so.
        forward_only = self.engine_config.forward_only
        self.engine_config.forward_only = False
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config.forward_only = forward_only

    def _build_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            module,
            vision_tower=self.engine_config.vision_tower_learning_rate,
            merger=self.engine_config.merger_learning_rate,
        )
        optimizer = build_optimizer(groups, self.optimizer_config)
        if get_device_name() == "cpu":
            fuse(optimizer)
        return optimizer

    def forward_backward_batch(  # type: ignore[override]
        self,
        data: Sequence[MicroBatch],
        loss_function: LossFunction,
        *,
        temperature: float,
        forward_only: bool = False,
    ) -> list[Any]:
        """Run micro-batches, accumulating gradients unless `forward_only`; the loss function's results in order.

        Args:
            data: equally many on every rank, their prompts resolved (`PromptHandle.ref` is the Prompt).
            loss_function: its losses add up to this rank's loss; FSDP averages the gradients over ranks, after every
                micro-batch: kept until the last one, they would be whole on every rank.
            temperature: of the scores that it gets.
            forward_only: no gradients.
        """
        results = []
        for micro_batch in data:
            with torch.set_grad_enabled(not forward_only):
                loss, result = self.forward_step(micro_batch, loss_function, temperature=temperature)
                if loss is not None and not forward_only:
                    loss.backward()
            results.append(result)
        return results

    def forward_step(  # type: ignore[override]
        self, micro_batch: MicroBatch, loss_function: LossFunction, *, temperature: float
    ) -> tuple[Tensor | None, Any]:
        """One forward pass through the root module, whose hooks gather the sharded weights."""
        embeddings = [group.prompt.visual for group in micro_batch.groups if group.prompt.visual is not None]
        batch = pack(
            [group.prompt.ref for group in micro_batch.groups],
            [group.response_ids for group in micro_batch.groups],
            pixel_norm=self.pixel_norm,
            device=get_device_id(),
            video_embeddings=embeddings or None,
        )
        with without_tower(self.module) if embeddings else nullcontext():
            scores = score_tokens(
                self.module, batch, temperature=temperature, float32_head=self.engine_config.float32_head
            )
        return loss_function(scores, batch, micro_batch)

    def encode(self, prompt: Prompt | None) -> Tensor:
        """The visual embeddings of a prompt's clip, on the CPU; a collective, None only takes part."""
        if prompt is None:
            patches, grid = smallest_clip(self.model_config.hf_config.vision_config)
        else:
            patches, grid = prompt.patches, prompt.video_grid_thw
        return encode_clip(
            self._root_with_tower(), patches, grid, pixel_norm=self.pixel_norm, device=get_device_id()
        ).cpu()

    def _root_with_tower(self) -> nn.Module:
        return self.module

    def without_adapter(self) -> AbstractContextManager[Any]:
        """The model as it was before the adapters."""
        return self.module.disable_adapter()

    def full_weights(self, *, only: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Checkpoint name and full tensor of the weights in the compute dtype, adapters merged.

        A collective: every rank iterates to the end. One tensor at a time is whole; it may be a view of padded storage.

        Args:
            only: the names to gather; None: all.
        """
        lora = self.engine_config.lora
        return plain_weights(self._named(), self._gathered_tensor, self.compute_dtype, lora=lora, only=only)

    def _named(self) -> Mapping[str, Tensor]:
        return self.module.state_dict()

    def _gathered_tensor(self, shard: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The full tensor of a shard, which may wait in host memory; cast before it travels, where a dtype is given."""
        shard = shard.detach().to(get_device_id(), dtype)
        return shard.full_tensor() if isinstance(shard, DTensor) else shard

    def state(self) -> dict[str, Fragment]:
        """This rank's part of what training changes, in host memory."""
        return state_of(self._pieces(), self.optimizer)

    def restore(self, stored: StoredTensors) -> None:
        """Bring weights and optimiser to what `state` gave on the ranks that stored it.

        Raises:
            ConfigError: the checkpoint is of other trained parameters.
        """
        restore_state(self._pieces(), self.optimizer, stored, trained=self._trained_sizes())

    def _trained(self) -> dict[str, nn.Parameter]:
        # FSDP2 makes parameters that a forward pass left gathered into shards again.
        self.module.state_dict()
        return {name: tensor for name, tensor in self.module.named_parameters() if tensor.requires_grad}

    def _trained_sizes(self) -> dict[str, int]:
        return {name: tensor.numel() for name, tensor in self._trained().items()}

    def _pieces(self) -> list[Piece]:
        """FSDP2 gives each rank a chunk of a parameter's rows, as torch.chunk cuts them."""
        rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        pieces = []
        for name, tensor in self._trained().items():
            assert isinstance(tensor, DTensor) and tensor.placements == (Shard(0),), f"{name} is sharded otherwise"
            rows_per_rank = -(-tensor.shape[0] // num_ranks)
            start = rank * rows_per_rank * (tensor.numel() // tensor.shape[0])
            if tensor.to_local().numel():
                pieces.append(Piece(name, start, tensor, _local_values))
        return pieces


def _local_values(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local().detach().view(-1)


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Choose Adam's fused step unless its options choose another; PyTorch's own choice on CPUs is op by op."""
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.Adam) and group["fused"] is None and not group["foreach"]:
            group["fused"] = True


def freeze(model: nn.Module, *, vision_tower: bool, merger: bool, language_model: bool) -> None:
    """Switch off the gradients of a model's parts; what needs no gradient then saves no activations either.

    Args:
        model: a transformers Qwen2.5-VL or Qwen3-VL for conditional generation.
        vision_tower: patch embedding and vision blocks.
        merger: the projections from vision to language.
        language_model: embeddings, decoder layers and language-model head.
    """
    frozen = {"vision_tower": vision_tower, "merger": merger, "language_model": language_model}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen[part_of(name)])
