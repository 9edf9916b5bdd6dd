"""Log-probs and entropy of response tokens from hidden states, without logits of all tokens at once.

The head's weight is gone through in slices of the vocabulary. A slice gives logits of every token, which become
running sums before the next slice's; the backward pass computes them again. So logits are never [S, V] but [S, W],
whatever S and V are, and one pass over them gives both temperatures and the entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from videor2_rl.model.packing import PackedBatch

SLICE_LOGITS = 1 << 23
"""Logits of one slice, S x W: 32 MiB in float32."""


@dataclass(frozen=True)
class TokenScores:
    """What a model says of S given tokens, in float32 or better."""

    log_probs: Tensor
    """[S] under softmax(logits / temperature); alone differentiable."""
    raw_log_probs: Tensor
    """[S] under softmax(logits)."""
    entropy: Tensor
    """[S] of softmax(logits / temperature), in nats."""


def score_tokens(
    model: nn.Module, batch: PackedBatch, *, temperature: float, float32_head: bool = False
) -> TokenScores:
    """Scores of a packed batch's response tokens, through one forward pass of the model.

    Inside the pass the head gives scores where it gives logits otherwise: so it is called as its wrappers (FSDP2,
    ZeRO-3) expect, which gather its weight around the call and for the backward pass.

    Args:
        model: a transformers model for conditional generation, possibly wrapped; its head has no bias.
        batch: with `video_embeddings` inside `videor2_rl.model.visual.without_tower`.
        temperature: above 0.
        float32_head: as `token_scores`.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]

    def scores(hidden: Tensor) -> Tensor:
        found = token_scores(
            hidden[0], head.weight, batch.target_ids, temperature=temperature, float32_head=float32_head
        )
        return torch.stack([found.log_probs, found.raw_log_probs, found.entropy])

    head.forward = scores
    try:
        log_probs, raw_log_probs, entropy = model(**batch.model_inputs()).logits
    finally:
        del head.forward  # the class's own shows again
    return TokenScores(log_probs, raw_log_probs.detach(), entropy.detach())


def token_scores(
    hidden: Tensor, weight: Tensor, target_ids: Tensor, *, temperature: float, float32_head: bool = False
) -> TokenScores:
    """Scores of the target tokens under a head without bias.

    Args:
        hidden: [S, D] last hidden states, each of the token before its target.
        weight: [V, D], in the dtype of `hidden`; logits are rounded to it, all that follows is float32 or better.
        target_ids: [S] int64.
        temperature: above 0.
        float32_head: logits are not rounded either.
    """
    return TokenScores(*_LinearScores.apply(hidden, weight, target_ids, temperature, float32_head))


def float32_logits(hidden: Tensor, rows: Tensor) -> Tensor:
    """Logits [S, W] in float32 or better, without rounding to the dtype of `hidden` [S, D] and `rows` [W, D]."""
    if hidden.is_cuda and hidden.dtype != torch.float32:
        return torch.mm(hidden, rows.T, out_dtype=torch.float32)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.to(dtype) @ rows.to(dtype).T


class _LinearScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target_ids: Tensor, temperature: float, float32_head: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = _RunningSums(hidden, temperature=temperature)
        for start, stop in _slices(hidden, weight):
            sums.add(_logits(hidden, weight[start:stop], float32_head=float32_head), target_ids - start)
        below_largest, log_sum = sums.of_target - sums.largest, sums.tempered.log()
        raw_log_probs = below_largest - sums.raw.log()
        entropy = log_sum - sums.tempered_logits / sums.tempered / temperature
        ctx.save_for_backward(hidden, weight, target_ids, sums.largest, log_sum)
        ctx.temperature, ctx.float32_head = temperature, float32_head
        ctx.mark_non_differentiable(raw_log_probs, entropy)
        return below_largest / temperature - log_sum, raw_log_probs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, target_ids, largest, log_sum = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_tempered = grad / ctx.temperature
        # A sum over slices; each row of the weight is in one slice alone.
        grad_hidden = torch.zeros_like(hidden, dtype=grad.dtype) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        for start, stop in _slices(hidden, weight):
            logits = _logits(hidden, weight[start:stop], float32_head=ctx.float32_head)
            softmax = logits.sub_(largest[:, None]).div_(ctx.temperature).sub_(log_sum[:, None]).exp_()
            inside, column = _columns(target_ids - start, width=stop - start)
            grad_logits = softmax.mul_(-grad_tempered[:, None])
            grad_logits.scatter_add_(1, column, torch.where(inside, grad_tempered, 0.0)[:, None])
            del logits, softmax  # float32, where the rest is bfloat16
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden += grad_logits @ weight[start:stop]
            if grad_weight is not None:
                torch.mm(grad_logits.T, hidden, out=grad_weight[start:stop])
            del grad_logits
        return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, None, None, None


def _slices(hidden: Tensor, weight: Tensor) -> Iterator[tuple[int, int]]:
    width = max(1, SLICE_LOGITS // max(1, len(hidden)))
    for start in range(0, len(weight), width):
        yield start, min(start + width, len(weight))


def _columns(targets: Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """Which of [S] targets are in a slice, counted from its start, and for all a column of it [S, 1]."""
    return (targets >= 0) & (targets < width), targets.clamp(0, width - 1)[:, None]


def _logits(hidden: Tensor, rows: Tensor, *, float32_head: bool) -> Tensor:
    logits = float32_logits(hidden, rows) if float32_head else hidden @ rows.T
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _RunningSums:
    """Of exponentials of logits less the largest one so far, each [S]: what normalises softmax without its terms."""

    def __init__(self, hidden: Tensor, *, temperature: float) -> None:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.largest = hidden.new_full((len(hidden),), torch.finfo(dtype).min, dtype=dtype)
        self.raw, self.tempered, self.of_target = (torch.zeros_like(self.largest) for _ in range(3))
        self.tempered_logits = torch.zeros_like(self.largest)
        """Sum of exp(x / temperature) x, where x is a logit less the largest."""
        self._temperature = temperature

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """
        Args:
            logits: [S, W] of a slice; changed.
            targets: [S] columns; those outside of the slice are another slice's.
        """
        inside, column = _columns(targets, width=logits.shape[1])
        self.of_target = torch.where(inside, logits.gather(1, column)[:, 0], self.of_target)
        largest = torch.maximum(self.largest, logits.amax(dim=1))
        shift = self.largest - largest
        self.largest = largest
        logits -= largest[:, None]
        shrink = (shift / self._temperature).exp()
        exponentials = (logits / self._temperature).exp_()
        self.tempered_logits = shrink * (self.tempered_logits + shift * self.tempered)
        self.tempered_logits += torch.linalg.vecdot(exponentials, logits)
        self.tempered = shrink * self.tempered + exponentials.sum(dim=1)
        is_raw = self._temperature == 1
        self.raw = self.tempered if is_raw else shift.exp() * self.raw + logits.exp_().sum(dim=1)
