"""The last decoder layer's feed-forward network for the tokens whose output is read: which predict a response token.

Of a long video prompt that is one token; what the others put out, no layer and no head looks at.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from videor2_rl.model.packed_attention import PackedLayout


def trim_last_layer(model: Any) -> None:
    """Have the last layer pass over unread tokens of packed sequences; ordinary forward passes stay as they are.

    Args:
        model: a transformers Qwen2.5-VL or Qwen3-VL for conditional generation.
    """
    layer = model.model.language_model.layers[-1]
    layer.forward = partial(_forward, layer)


def _forward(layer: Any, hidden_states: Tensor, *, packed_layout: PackedLayout | None = None, **kwargs: Any) -> Tensor:
    """[1, L, E] -> [1, L, E], where unread tokens hold what they had before the feed-forward network."""
    if packed_layout is None:
        return type(layer).forward(layer, hidden_states, **kwargs)
    attended, _ = layer.self_attn(
        hidden_states=layer.input_layernorm(hidden_states), packed_layout=packed_layout, **kwargs
    )
    attended = hidden_states + attended
    read = attended.index_select(1, packed_layout.read)
    read = read + layer.mlp(layer.post_attention_layernorm(read))
    return attended.index_copy(1, packed_layout.read, read)
