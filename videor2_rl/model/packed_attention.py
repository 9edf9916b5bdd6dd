"""Attention over packed groups: [prompt a][response a1]...[response aG][prompt b][response b1]... in one sequence.

Every response attends to its own prompt and, causally, to itself. Two kinds of blocks give that: every prompt and every
response causally by itself, and all responses of a group together against their prompt's keys, without a mask. What a
response's token gets from the two is merged by its log-sum-exp; the backward pass gives the merged output and
log-sum-exp to each block's own, which so differentiates the whole softmax (as flash-decoding splits keys, and ring
attention its backward pass, arXiv:2310.01889). A prompt's keys and values are read where they lie: neither repeated for
responses nor for the query heads of a key head, and nothing of size L x L or G x R x P exists.

On CUDA two calls of FlashAttention's variable-length kernels do all groups at once; on the CPU a call does a block,
where padding blocks to one length would cost more than the calls.

Transformers finds it by name: `model.set_attn_implementation({"text_config": PACKED_GROUPS})`, the layout travels
through the model's forward as the keyword `packed_layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKED_GROUPS = "packed_groups"
"""The attention's name in transformers' registry."""


@dataclass(frozen=True)
class Segment:
    """Where one group stands in the packed sequence; its responses follow the prompt without gaps."""

    start: int
    prompt_length: int
    response_lengths: tuple[int, ...]

    @property
    def response_start(self) -> int:
        """Index of the first response's first token."""
        return self.start + self.prompt_length

    @property
    def stop(self) -> int:
        """Index after the last response's last token."""
        return self.response_start + sum(self.response_lengths)

    @property
    def is_shared(self) -> bool:
        """Several responses share the prompt; with one or none the group is an ordinary causal sequence."""
        return len(self.response_lengths) > 1


@dataclass(frozen=True)
class Rows:
    """Consecutive runs of tokens, by themselves one after the other: what a variable-length kernel takes."""

    index: Tensor
    """[N] int64: their places in the packed sequence."""
    bounds: Tensor
    """[runs + 1] int32: where among the N each run starts, and N."""
    longest: int

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int]], device: Any) -> Rows:
        """Of the runs from start to stop."""
        lengths = [stop - start for start, stop in spans]
        index = torch.cat([torch.arange(*span) for span in spans]) if spans else torch.empty(0, dtype=torch.int64)
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(index.to(device), bounds.to(device), max(lengths, default=0))


@dataclass(frozen=True)
class PackedLayout:
    """The groups of a packed sequence and its blocks of attention, made once for all layers."""

    segments: tuple[Segment, ...]
    """In order, covering all L tokens."""
    causal: tuple[tuple[int, int], ...]
    """From start to stop: every shared prompt, every response to it, every other group as a whole."""
    causal_rows: Rows
    """The same."""
    prompts: Rows
    """Shared ones."""
    responses: Rows
    """To each shared prompt as one run."""

    @classmethod
    def of(cls, segments: Sequence[Segment], device: Any = "cpu") -> PackedLayout:
        """With its indices on the device of the sequence."""
        causal: list[tuple[int, int]] = []
        for segment in segments:
            lengths = (segment.prompt_length, *segment.response_lengths) if segment.is_shared else ()
            stops = list(accumulate(lengths, initial=segment.start)) if lengths else [segment.start, segment.stop]
            causal += zip(stops, stops[1:], strict=False)
        shared = [segment for segment in segments if segment.is_shared]
        return cls(
            segments=tuple(segments),
            causal=tuple(causal),
            causal_rows=Rows.of(causal, device),
            prompts=Rows.of([(segment.start, segment.response_start) for segment in shared], device),
            responses=Rows.of([(segment.response_start, segment.stop) for segment in shared], device),
        )


def packed_group_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packed_layout: PackedLayout,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface.

    Args:
        module: the attention layer; unused.
        query: [1, H, L, D]; on CUDA bfloat16 or float16, there is no other kernel to fall back to.
        key: [1, H / n, L, D], n query heads to a key head.
        value: as key.
        attention_mask: None; the layout says it all.
        scaling: factor of the dot products.
        packed_layout: the groups, covering all L tokens.
        dropout: 0.
        sliding_window: None.

    Returns:
        [1, L, H, D] and None for the weights.

    Raises:
        ValueError: a mask, a sliding window or dropout is asked for.
    """
    if attention_mask is not None or sliding_window is not None or dropout:
        raise ValueError("packed groups support neither an attention mask nor a sliding window nor dropout")
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    return _PackedAttention.apply(query, key, value, packed_layout, scaling)[None], None


class _PackedAttention(torch.autograd.Function):
    """[L, H, D] queries, [L, H / n, D] keys and values -> [L, H, D]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float) -> Tensor:
        forward = _varlen_forward if query.device.type == "cuda" else _block_forward
        output, log_sum = forward(query, key, value, layout=layout, scale=scale)
        ctx.save_for_backward(query, key, value, output, log_sum)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sum = ctx.saved_tensors
        backward = _varlen_backward if query.device.type == "cuda" else _block_backward
        grads = backward(grad, query, key, value, output, log_sum, layout=ctx.layout, scale=ctx.scale)
        return *grads, None, None


def _merged(output: Tensor, log_sum: Tensor, other: Tensor, other_log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from that over each: outputs [N, H, D], log-sums of weights [H, N]."""
    total = torch.logaddexp(log_sum, other_log_sum)
    weight, other_weight = ((part - total).exp().T[..., None] for part in (log_sum, other_log_sum))
    return (output * weight + other * other_weight).to(output.dtype), total


def _varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, *, layout: PackedLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs [L, H, D] and log-sums [H, L] float32."""
    rows, prompts, responses = layout.causal_rows, layout.prompts.index, layout.responses.index
    output, log_sum = _varlen(query, key, value, rows, rows, is_causal=True, scale=scale)
    if len(responses):
        of_prompt = _varlen(
            query[responses],
            key[prompts],
            value[prompts],
            layout.responses,
            layout.prompts,
            is_causal=False,
            scale=scale,
        )
        merged, merged_log_sum = _merged(output[responses], log_sum[:, responses], *of_prompt)
        output[responses] = merged
        log_sum[:, responses] = merged_log_sum
    return output, log_sum


def _varlen_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    log_sum: Tensor,
    *,
    layout: PackedLayout,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from that of the output."""
    rows, prompts, responses = layout.causal_rows, layout.prompts.index, layout.responses.index
    grads = _varlen_grads(grad, query, key, value, output, log_sum, rows, rows, is_causal=True, scale=scale)
    if len(responses):
        more = _varlen_grads(
            grad[responses],
            query[responses],
            key[prompts],
            value[prompts],
            output[responses],
            log_sum[:, responses],
            layout.responses,
            layout.prompts,
            is_causal=False,
            scale=scale,
        )
        for whole, index, part in zip(grads, (responses, prompts, prompts), more, strict=True):
            whole.index_add_(0, index, part)
    return grads


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, queries: Rows, keys: Rows, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """FlashAttention, each run of queries over the run of keys in its place."""
    return torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        queries.bounds,
        keys.bounds,
        queries.longest,
        keys.longest,
        0.0,
        is_causal,
        return_debug_mask=False,
        scale=scale,
    )[:2]


def _varlen_grads(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    log_sum: Tensor,
    queries: Rows,
    keys: Rows,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    # Of dropout alone.
    random_state = torch.zeros(2, dtype=torch.uint64, device=query.device)
    return torch.ops.aten._flash_attention_backward(
        grad,
        query,
        key,
        value,
        output,
        log_sum,
        queries.bounds,
        keys.bounds,
        queries.longest,
        keys.longest,
        0.0,
        is_causal,
        random_state,
        torch.empty(0, device=query.device),
        scale=scale,
    )


def _block_forward(
    query: Tensor, key: Tensor, value: Tensor, *, layout: PackedLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """As `_varlen_forward`; the log-sums in float32 or better."""
    output = torch.empty_like(query)
    dtype = torch.promote_types(query.dtype, torch.float32)
    log_sum = query.new_empty((query.shape[1], len(query)), dtype=dtype)
    for start, stop in layout.causal:
        rows = slice(start, stop)
        output[rows], log_sum[:, rows] = _block(query[rows], key[rows], value[rows], is_causal=True, scale=scale)
    for prompt, rows in _shared(layout):
        of_prompt = _block(query[rows], key[prompt], value[prompt], is_causal=False, scale=scale)
        output[rows], log_sum[:, rows] = _merged(output[rows], log_sum[:, rows], *of_prompt)
    return output, log_sum


def _block_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    log_sum: Tensor,
    *,
    layout: PackedLayout,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    blocks = [(slice(*span), slice(*span), True) for span in layout.causal]
    blocks += [(rows, prompt, False) for prompt, rows in _shared(layout)]
    for rows, keys, is_causal in blocks:
        parts = _block_grads(
            grad[rows],
            query[rows],
            key[keys],
            value[keys],
            output[rows],
            log_sum[:, rows],
            is_causal=is_causal,
            scale=scale,
        )
        for whole, place, part in zip(grads, (rows, keys, keys), parts, strict=True):
            # The causal blocks come first and cover everything.
            if is_causal:
                whole[place] = part
            else:
                whole[place] += part
    return grads


def _shared(layout: PackedLayout) -> list[tuple[slice, slice]]:
    """Shared prompts and the responses to each."""
    shared = [segment for segment in layout.segments if segment.is_shared]
    return [(slice(one.start, one.response_start), slice(one.response_start, one.stop)) for one in shared]


def _block(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """[N, H, D], [K, H / n, D] twice -> [N, H, D] and log-sums [H, N], by PyTorch's CPU kernel."""
    query, key, value = _by_key_head(query, key, value)
    output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, scale=scale
    )
    return _by_token(output), log_sum.transpose(0, 1).flatten(0, 1)


def _block_grads(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    log_sum: Tensor,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    num_key_heads = key.shape[1]
    query, key, value = _by_key_head(query, key, value)
    grad, output = (states.unflatten(1, (num_key_heads, -1)).permute(2, 1, 0, 3) for states in (grad, output))
    log_sum = log_sum.unflatten(0, (num_key_heads, -1)).transpose(0, 1)
    grad_query, grad_key, grad_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, output, log_sum, 0.0, is_causal, scale=scale
    )
    return _by_token(grad_query), grad_key.sum(0).transpose(0, 1), grad_value.sum(0).transpose(0, 1)


def _by_key_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As views [n, H / n, tokens, D]: the query heads of a key head are a batch that shares it."""
    num_key_heads = key.shape[1]
    query = query.unflatten(1, (num_key_heads, -1)).permute(2, 1, 0, 3)
    shared = (states.transpose(0, 1).expand(len(query), -1, -1, -1) for states in (key, value))
    return query, *shared


def _by_token(states: Tensor) -> Tensor:
    """[n, H / n, N, D] -> [N, H, D]."""
    return states.permute(2, 1, 0, 3).flatten(1, 2)


def register_packed_attention() -> None:
    """Make the attention known to transformers under its name; harmless when repeated."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_GROUPS, packed_group_attention)
