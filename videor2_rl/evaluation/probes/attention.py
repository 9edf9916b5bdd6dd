"""The attention that response tokens pay to video tokens, the share that the paper's first figure plots.

Each response token's attention weights (softmax over everything before it) sum to 1 in every head; its share is what of
that lies on video tokens. Shares are averaged over heads and response tokens, for each layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn

PROBED = "probed_attention"
"""The attention's name in transformers' registry."""
_ROWS_AT_ONCE = 64


@dataclass
class AttentionProbe:
    """Travels through the model's forward and takes a note in every layer."""

    is_video: Tensor
    """[L] bool, True on the video tokens of the sequence."""
    response_start: int
    """Index of the first response token; the response ends the sequence."""
    shares: dict[int, float] = field(default_factory=dict)
    """Layer -> share, filled by the forward pass."""


def probed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    attention_probe: AttentionProbe,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface for one causal sequence: the weights of response rows are computed and summed.

    Only 64 rows of weights exist at a time, so memory grows with the sequence and not with its square.

    Args:
        query: [1, H, L, D]; key and value [1, H / n, L, D], n query heads to a key head.
        attention_mask: None.

    Returns:
        [1, L, H, D] and None for the weights.
    """
    assert attention_mask is None and len(query) == 1, "one unpadded sequence at a time"
    heads_per_key = query.shape[1] // key.shape[1]
    queries = query[0]
    keys = key[0].repeat_interleave(heads_per_key, dim=0)
    values = value[0].repeat_interleave(heads_per_key, dim=0)
    start, length = attention_probe.response_start, queries.shape[1]
    outputs = [
        F.scaled_dot_product_attention(
            queries[:, :start], keys[:, :start], values[:, :start], is_causal=True, scale=scaling
        )
    ]
    columns = torch.arange(length, device=query.device)
    total = 0.0
    for first in range(start, length, _ROWS_AT_ONCE):
        rows = columns[first : first + _ROWS_AT_ONCE]
        scores = (queries[:, rows] @ keys.transpose(1, 2)).float() * scaling
        weights = scores.masked_fill(columns > rows[:, None], -torch.inf).softmax(dim=-1)
        total += float(weights[:, :, attention_probe.is_video].sum(dim=-1).mean(dim=0).sum())
        outputs.append(weights.to(values.dtype) @ values)
    attention_probe.shares[int(module.layer_idx)] = total / (length - start)  # type: ignore[arg-type]
    return torch.cat(outputs, dim=1).transpose(0, 1)[None].contiguous(), None


def register() -> None:
    """Make the attention known to transformers under its name; harmless when repeated."""
    from transformers import AttentionInterface

    AttentionInterface.register(PROBED, probed_attention)


@dataclass(frozen=True)
class AttentionShare:
    """One response's shares, in [0, 1]."""

    last_layer: float
    mean_layers: float
    uniform: float
    """What the share would be if every token before were attended to alike: the video's part of the sequence."""


def attention_share(probe: AttentionProbe) -> AttentionShare:
    """Sum up a probe that a forward pass has filled."""
    layers = [probe.shares[layer] for layer in sorted(probe.shares)]
    before = torch.arange(probe.response_start + 1, len(probe.is_video) + 1)
    return AttentionShare(
        last_layer=layers[-1],
        mean_layers=sum(layers) / len(layers),
        uniform=float((probe.is_video.sum().cpu() / before).mean()),
    )
