"""Attention over packed groups: [prompt a][response a1]...[response aG][prompt b][response b1]... in one sequence.

Every response attends to its own prompt and, causally, to itself. In two parts per group: the prompt causally by
itself, then its responses as one padded batch against [prompt, own response]. So a prompt's keys and values are
computed once for all of its responses, and nothing of size L x L exists. Groups of one response each are ordinary
sequences, attended to as one padded batch.

Transformers finds it by name: `model.set_attn_implementation({"text_config": PACKED_GROUPS})`, the segments travel
through the model's forward as the keyword `packed_segments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

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


def packed_group_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packed_segments: Sequence[Segment],
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface.

    Args:
        module: the attention layer; unused.
        query: [1, H, L, D].
        key: [1, H / n, L, D], n query heads to a key head.
        value: as key.
        attention_mask: None; the segments say it all.
        scaling: factor of the dot products.
        packed_segments: the groups in order, covering all L tokens.
        dropout: applied to the attention weights.
        sliding_window: None.

    Returns:
        [1, L, H, D] and None for the weights.

    Raises:
        ValueError: a mask or a sliding window is asked for.
    """
    if attention_mask is not None or sliding_window is not None:
        raise ValueError("packed groups support neither an attention mask nor a sliding window")
    heads_per_key = query.shape[1] // key.shape[1]
    queries = query[0]
    keys = key[0].repeat_interleave(heads_per_key, dim=0)
    values = value[0].repeat_interleave(heads_per_key, dim=0)
    outputs: list[Tensor] = []
    if all(len(segment.response_lengths) == 1 for segment in packed_segments):
        outputs = _sequences(queries, keys, values, segments=packed_segments, scaling=scaling, dropout=dropout)
    else:
        for segment in packed_segments:
            outputs += _group(queries, keys, values, segment=segment, scaling=scaling, dropout=dropout)
    return torch.cat(outputs, dim=1).transpose(0, 1)[None].contiguous(), None


def _sequences(
    query: Tensor, key: Tensor, value: Tensor, *, segments: Sequence[Segment], scaling: float, dropout: float
) -> list[Tensor]:
    """[H, L, D] each -> one [H, P + T, D] per group of a single response, which is an ordinary causal sequence.

    Supervised fine-tuning packs many of these; as one padded batch they cost one kernel call instead of two a group.
    """
    lengths = tuple(segment.stop - segment.start for segment in segments)
    output = F.scaled_dot_product_attention(
        _pad(query, lengths), _pad(key, lengths), _pad(value, lengths), dropout_p=dropout, is_causal=True, scale=scaling
    )
    return [sequence[:, :length] for sequence, length in zip(output, lengths, strict=True)]


def _group(
    query: Tensor, key: Tensor, value: Tensor, *, segment: Segment, scaling: float, dropout: float
) -> list[Tensor]:
    """[H, L, D] each -> the group's outputs in order, [H, P, D] and one [H, T_g, D] per response."""
    prompt = slice(segment.start, segment.response_start)
    prompt_key, prompt_value = key[:, prompt], value[:, prompt]
    prompt_output = F.scaled_dot_product_attention(
        query[None, :, prompt], prompt_key[None], prompt_value[None], dropout_p=dropout, is_causal=True, scale=scaling
    )[0]
    lengths = segment.response_lengths
    if not lengths:
        return [prompt_output]
    responses = slice(segment.response_start, segment.stop)
    response_output = F.scaled_dot_product_attention(
        _pad(query[:, responses], lengths),
        torch.cat([prompt_key.expand(len(lengths), -1, -1, -1), _pad(key[:, responses], lengths)], dim=2),
        torch.cat([prompt_value.expand(len(lengths), -1, -1, -1), _pad(value[:, responses], lengths)], dim=2),
        attn_mask=_mask(segment.prompt_length, max(lengths), device=query.device),
        dropout_p=dropout,
        scale=scaling,
    )
    return [prompt_output, *(output[:, :length] for output, length in zip(response_output, lengths, strict=True))]


def _pad(states: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[H, sum of T_g, D] -> [G, H, R, D], R the longest, zeros after each response.

    The padding needs no mask of its own: it stands after the real tokens, which do not look ahead.
    """
    if min(lengths) == max(lengths):
        return states.unflatten(1, (len(lengths), lengths[0])).transpose(0, 1)
    padded = pad_sequence(list(states.transpose(0, 1).split(lengths)), batch_first=True)
    return padded.transpose(1, 2)


def _mask(prompt_length: int, response_length: int, *, device: torch.device) -> Tensor:
    """[R, P + R], True where a response token may look: all of the prompt, itself and what came before."""
    mask = torch.ones(response_length, prompt_length + response_length, dtype=torch.bool, device=device)
    return mask.tril(diagonal=prompt_length)


def register_packed_attention() -> None:
    """Make the attention known to transformers under its name; harmless when repeated."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_GROUPS, packed_group_attention)
