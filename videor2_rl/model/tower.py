"""The vision tower in few kernels: all windows, or all frames, of a layer at once, and patches by a matrix product.

Transformers' Qwen-VL towers call their attention once for each window of each layer, and wait for the device to learn
where windows end. Only an attention with "flash" in its name gets the windows' bounds instead; so this one has it. The
bounds are one tensor for all layers of a kind: they are read once a forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from videor2_rl.model.packed_attention import PaddedBatches, Rows, varlen, varlen_grads

if TYPE_CHECKING:
    from torch import Tensor

RUNS = "flash_runs"
"""The attention's name in transformers' registry."""


def speed_up_tower(model: Any) -> None:
    """Have a model's tower take its windows together and its patches as rows of a matrix; it computes the same.

    Args:
        model: a transformers Qwen2.5-VL or Qwen3-VL for conditional generation.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(RUNS, RunAttention())
    tower = model.model.visual
    # Not by `set_attn_implementation`, which looks for packages and kernels to download behind such a name.
    tower.config._attn_implementation = RUNS
    tower.patch_embed.proj.__class__ = PatchProjection


class PatchProjection(nn.Conv3d):
    """A convolution whose input is one patch of the kernel's size: a matrix product, much faster in PyTorch."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, channels, time, height, width] -> [N, E, 1, 1, 1]."""
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


@dataclass(frozen=True)
class Runs:
    """Where runs of patches begin and end."""

    rows: Rows
    batches: PaddedBatches
    """The same, each batch of runs of one length."""


class RunAttention:
    """Transformers' attention interface for runs of patches that look at one another and at nothing else."""

    def __init__(self) -> None:
        self._runs = WeakTensorKeyDictionary()

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        cu_seq_lens_q: Tensor,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """
        Args:
            module: the attention layer; unused.
            query: [1, H, N, D]; on CUDA bfloat16 or float16.
            key: as query.
            value: as query.
            scaling: factor of the dot products.
            cu_seq_lens_q: [runs + 1] int32, where each run begins, and N.

        Returns:
            [1, N, H, D] and None for the weights.
        """
        runs = self._runs.get(cu_seq_lens_q)
        if runs is None:
            runs = self._runs[cu_seq_lens_q] = read_runs(cu_seq_lens_q)
        query, key, value = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
        if query.device.type == "cuda":
            return VarlenAttention.apply(query, key, value, runs.rows, scaling)[None], None
        outputs = []
        for batch in zip(*map(runs.batches.gather, (query, key, value)), strict=True):
            q, k, v = (states.transpose(1, 2) for states in batch)
            outputs.append(F.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2))
        return runs.batches.scatter(outputs)[None], None


def read_runs(bounds: Tensor) -> Runs:
    """Of bounds [runs + 1]; waits for the device."""
    # Where windows end at a clip's edge, some are empty.
    stops = sorted(set(bounds.tolist()))
    spans = list(pairwise(stops))
    return Runs(Rows.of(spans, bounds.device), PaddedBatches.of(spans, slack=1.0))


class VarlenAttention(torch.autograd.Function):
    """[N, H, D] each, on CUDA -> [N, H, D]: what each run of rows sees of itself."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Rows, scale: float) -> Tensor:
        output, log_sum = varlen(query, key, value, rows, rows, is_causal=False, scale=scale)
        ctx.save_for_backward(query, key, value, output, log_sum)
        ctx.rows, ctx.scale = rows, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sum = ctx.saved_tensors
        rows, scale = ctx.rows, ctx.scale
        grads = varlen_grads(grad, query, key, value, output, log_sum, rows, rows, is_causal=False, scale=scale)
        return *grads, None, None
