"""A checkpoint as a ZeRO-3 model, without a whole copy of it in any rank's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from videor2_rl.model.weights import StoredWeights

if TYPE_CHECKING:
    from torch import nn


def load_partitioned(
    path: str, dtype: torch.dtype, attention: Mapping[str, str], *, deepspeed_config: Mapping[str, Any]
) -> nn.Module:
    """The checkpoint's model, of whose every parameter each rank holds its shard; a collective.

    A parameter is whole on all ranks while rank 0 reads it, one at a time. transformers' own loader under ZeRO-3 does
    as much, but has every buffer made in the weights' dtype: rotary frequencies in bfloat16 turn long prompts wrong.

    Args:
        path: a folder that `check_weights` found whole.
        dtype: of the parameters.
        attention: as transformers takes it, a choice for each part of a model.
        deepspeed_config: with ZeRO-3 in it; says where shards are kept.
    """
    import deepspeed
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    device_alone = [deepspeed.zero.DeepSpeedTensorOverride.device]
    with (
        no_init_weights(),
        deepspeed.zero.Init(config_dict_or_path=dict(deepspeed_config), tensor_overrides=device_alone),
    ):
        module = AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(path), dtype=dtype, attn_implementation=dict(attention)
        )
    module.tie_weights()
    is_reader = torch.distributed.get_rank() == 0
    stored = StoredWeights(path) if is_reader else None
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if stored is not None:
                parameter.data.copy_(stored.read(name))
    loaded: nn.Module = module
    return loaded
