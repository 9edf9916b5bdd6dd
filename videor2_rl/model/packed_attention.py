"""Attention over packed groups: [prompt a][response a1]...[response aG][prompt b][response b1]... in one sequence.

Every response attends to its own prompt and, causally, to itself. Two kinds of blocks give that: every prompt and every
response causally by itself, and all responses of a group together against their prompt's keys, without a mask. What a
response's token gets from the two is merged by its log-sum-exp; the backward pass gives the merged output and
log-sum-exp to each block's own, which so differentiates the whole softmax (as flash-decoding splits keys, and ring
attention its backward pass, arXiv:2310.01889). A prompt's keys and values are read where they lie: neither repeated for
responses nor for the query heads of a key head, and nothing of size L x L or G x R x P exists.

On CUDA two calls of FlashAttention's variable-length kernels do all groups at once. On the CPU, whose kernel knows no
lengths, causal blocks of nearly one length are padded into a call, and every shared prompt has one of its own.

Transformers finds it by name: `model.set_attn_implementation({"text_config": PACKED_GROUPS})`, the layout travels
through the model's forward as the keyword `packed_layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKED_GROUPS = "packed_groups"
"""The attention's name in transformers' registry."""

flash_forward = torch.ops.aten._flash_attention_forward
flash_backward = torch.ops.aten._flash_attention_backward
"""PyTorch's own FlashAttention, as `torch.nn.attention.varlen` calls it: with the log-sums that the latter keeps."""


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
class PaddedBatches:
    """Runs that cover a sequence of L tokens as rows of batches [B, T], M places in all.

    Behind a run shorter than its batch's longest stand repeats of its last token.
    """

    shapes: tuple[tuple[int, int], ...]
    """B and T of each batch."""
    token: Tensor
    """[M] int64 on the CPU, as the other two: the token at each place, batch by batch."""
    place: Tensor
    """[L] int64: where each token stands."""
    padding: Tensor
    """[N] int64: the places of repeats."""
    is_in_order: bool
    """Token and place are 0 to L - 1, as where all runs are of one length."""

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int]], *, slack: float = 1.25) -> PaddedBatches:
        """Of the runs from start to stop, none empty; a batch's longest is up to `slack` times as long as any other."""
        batches: list[list[tuple[int, int]]] = []
        longest = 0
        for start, stop in sorted(spans, key=lambda span: span[0] - span[1]):
            if not batches or longest > slack * (stop - start):
                batches.append([])
                longest = stop - start
            batches[-1].append((start, stop))
        shapes, tokens, paddings = [], [], []
        for batch in batches:
            starts, stops = np.array(batch).T[..., None]
            index = starts + np.arange((stops - starts).max())
            shapes.append(index.shape)
            tokens.append(np.minimum(index, stops - 1).ravel())
            paddings.append((index >= stops).ravel())
        token, is_padding = np.concatenate(tokens), np.concatenate(paddings)
        own = np.flatnonzero(~is_padding)
        place = np.empty_like(own)
        place[token[own]] = own
        padding = np.flatnonzero(is_padding)
        is_in_order = bool(np.array_equal(token, np.arange(len(place))))
        return cls(
            tuple(shapes), torch.from_numpy(token), torch.from_numpy(place), torch.from_numpy(padding), is_in_order
        )

    def gather(self, states: Tensor) -> list[Tensor]:
        """[L, ...] -> [B, T, ...] of each batch."""
        return self._split(states if self.is_in_order else states.index_select(0, self.token))

    def gather_without_padding(self, states: Tensor) -> list[Tensor]:
        """The same with zeros in place of repeats."""
        if len(self.padding) == 0:
            return self.gather(states)
        return self._split(states.index_select(0, self.token).index_fill_(0, self.padding, 0.0))

    def _split(self, rows: Tensor) -> list[Tensor]:
        parts = rows.split([num_rows * length for num_rows, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def scatter(self, batches: Sequence[Tensor]) -> Tensor:
        """[B, T, ...] of each batch -> [L, ...]."""
        rows = [batch.flatten(0, 1) for batch in batches]
        together = rows[0] if len(rows) == 1 else torch.cat(rows)
        # By a gather: several times as fast as writing to places.
        return together if self.is_in_order else together.index_select(0, self.place)


@dataclass(frozen=True)
class PackedLayout:
    """The groups of a packed sequence and its blocks of attention, made once for all layers."""

    segments: tuple[Segment, ...]
    """In order, covering all L tokens."""
    causal: Rows
    """Every shared prompt, every response to it, every other group as a whole: each causally by itself."""
    causal_batches: PaddedBatches
    """The same."""
    prompts: Rows
    """Shared ones."""
    responses: Rows
    """To each shared prompt as one run."""
    read: Tensor
    """[N] int64: the tokens that predict a response token, the prompt's last one once for all responses."""

    @classmethod
    def of(cls, segments: Sequence[Segment], device: Any = "cpu") -> PackedLayout:
        """With its indices on the device of the sequence."""
        causal: list[tuple[int, int]] = []
        for segment in segments:
            lengths = (segment.prompt_length, *segment.response_lengths) if segment.is_shared else ()
            stops = list(accumulate(lengths, initial=segment.start)) if lengths else [segment.start, segment.stop]
            causal += pairwise(stops)
        shared = [segment for segment in segments if segment.is_shared]
        return cls(
            segments=tuple(segments),
            causal=Rows.of(causal, device),
            causal_batches=PaddedBatches.of(causal),
            prompts=Rows.of([(segment.start, segment.response_start) for segment in shared], device),
            responses=Rows.of([(segment.response_start, segment.stop) for segment in shared], device),
            read=torch.cat([_predicting(segment) for segment in segments]).to(device),
        )


def _predicting(segment: Segment) -> Tensor:
    """The prompt's last token, and every response's but its last."""
    stops = list(accumulate(segment.response_lengths, initial=segment.response_start))
    last_of_prompt = torch.arange(segment.response_start - 1, segment.response_start)
    return torch.cat([last_of_prompt, *(torch.arange(start, stop - 1) for start, stop in pairwise(stops))])


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
    query, key, value = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    return _PackedAttention.apply(query, key, value, packed_layout, scaling)[None], None


class _PackedAttention(torch.autograd.Function):
    """[L, H, D] queries, [L, H / n, D] keys and values -> [L, H, D]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float) -> Tensor:
        forward = varlen_forward if query.device.type == "cuda" else _block_forward
        output, log_sum = forward(query, key, value, layout=layout, scale=scale)
        ctx.save_for_backward(query, key, value, output, log_sum)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sum = ctx.saved_tensors
        backward = varlen_backward if query.device.type == "cuda" else _block_backward
        grads = backward(grad, query, key, value, output, log_sum, layout=ctx.layout, scale=ctx.scale)
        return *grads, None, None


def _merged(output: Tensor, log_sum: Tensor, other: Tensor, other_log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from that over each: outputs [N, H, D], log-sums of weights [N, H]."""
    total = torch.logaddexp(log_sum, other_log_sum)
    weight, other_weight = ((part - total).exp()[..., None] for part in (log_sum, other_log_sum))
    return (output * weight + other * other_weight).to(output.dtype), total


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, *, layout: PackedLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs [L, H, D] and log-sums [H, L] float32."""
    rows, prompts, responses = layout.causal, layout.prompts.index, layout.responses.index
    output, log_sum = varlen(query, key, value, rows, rows, is_causal=True, scale=scale)
    if len(responses):
        of_prompt = varlen(
            query[responses],
            key[prompts],
            value[prompts],
            layout.responses,
            layout.prompts,
            is_causal=False,
            scale=scale,
        )
        of_response = output[responses], log_sum[:, responses]
        output[responses], merged = _merged(of_response[0], of_response[1].T, of_prompt[0], of_prompt[1].T)
        log_sum[:, responses] = merged.T
    return output, log_sum


def varlen_backward(
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
    rows, prompts, responses = layout.causal, layout.prompts.index, layout.responses.index
    grads = varlen_grads(grad, query, key, value, output, log_sum, rows, rows, is_causal=True, scale=scale)
    if len(responses):
        more = varlen_grads(
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


def varlen(
    query: Tensor, key: Tensor, value: Tensor, queries: Rows, keys: Rows, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """FlashAttention, each run of queries over the run of keys in its place."""
    return flash_forward(
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


def varlen_grads(
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
    return flash_backward(
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
    """Outputs [L, H, D] and log-sums [L, H] in float32 or better."""
    batches = layout.causal_batches
    inputs = zip(*map(batches.gather, (query, key, value)), strict=True)
    output, log_sum = (
        batches.scatter(parts)
        for parts in zip(*(_block(*states, is_causal=True, scale=scale) for states in inputs), strict=True)
    )
    for prompt, rows in _shared(layout):
        of_prompt = _block(query[None, rows], key[None, prompt], value[None, prompt], is_causal=False, scale=scale)
        output[rows], log_sum[rows] = _merged(output[rows], log_sum[rows], *(part[0] for part in of_prompt))
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
    """Gradients of query, key and value, from that of the output."""
    of_queries, of_keys = (grad, query, output, log_sum), (key, value)
    batches = layout.causal_batches
    inputs = zip(batches.gather_without_padding(grad), *map(batches.gather, (*of_queries[1:], *of_keys)), strict=True)
    found = (_block_grads(*states, is_causal=True, scale=scale) for states in inputs)
    grad_query, grad_key, grad_value = (batches.scatter(parts) for parts in zip(*found, strict=True))
    for prompt, rows in _shared(layout):
        queries, keys = (states[None, rows] for states in of_queries), (states[None, prompt] for states in of_keys)
        parts = _block_grads(*queries, *keys, is_causal=False, scale=scale)
        grad_query[rows] += parts[0][0]
        grad_key[prompt] += parts[1][0]
        grad_value[prompt] += parts[2][0]
    return grad_query, grad_key, grad_value


def _shared(layout: PackedLayout) -> list[tuple[slice, slice]]:
    """Where shared prompts stand, and the responses to each."""
    shared = [segment for segment in layout.segments if segment.is_shared]
    return [(slice(one.start, one.response_start), slice(one.response_start, one.stop)) for one in shared]


def _block(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """[B, T, H, D] and twice [B, K, H / n, D] -> [B, T, H, D] and log-sums [B, T, H], by PyTorch's CPU kernel."""
    outputs, log_sums = [], []
    for heads in _by_key_head(query, key):
        output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            heads.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), 0.0, is_causal, scale=scale
        )
        outputs.append(output.transpose(1, 2))
        log_sums.append(log_sum.transpose(1, 2))
    return torch.stack(outputs, dim=3).flatten(2, 3), torch.stack(log_sums, dim=3).flatten(2, 3)


def _block_grads(
    grad: Tensor,
    query: Tensor,
    output: Tensor,
    log_sum: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `_block`, or of a part of a softmax over more keys: then output and log-sums are the whole's."""
    grad_queries: list[Tensor] = []
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    for heads in zip(*(_by_key_head(states, key) for states in (grad, query, output, log_sum)), strict=True):
        one_grad, one_query, one_output, one_log_sum = (states.transpose(1, 2) for states in heads)
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            one_grad,
            one_query,
            key.transpose(1, 2),
            value.transpose(1, 2),
            one_output,
            one_log_sum,
            0.0,
            is_causal,
            scale=scale,
        )
        grad_query, one_grad_key, one_grad_value = (part.transpose(1, 2) for part in parts)
        grad_queries.append(grad_query)
        grad_key += one_grad_key
        grad_value += one_grad_value
    return torch.stack(grad_queries, dim=3).flatten(2, 3), grad_key, grad_value


def _by_key_head(states: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    """[B, T, H, ...] -> n views [B, T, H / n, ...], in each one query head to every key head."""
    return states.unflatten(2, (key.shape[2], -1)).unbind(3)


def register_packed_attention() -> None:
    """Make the attention known to transformers under its name; harmless when repeated."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_GROUPS, packed_group_attention)
