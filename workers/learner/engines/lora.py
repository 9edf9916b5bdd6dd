"""LoRA: adapters on the language model's linear layers, and their merging into ordinary weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LoraConfig
from videor2_rl.model.family import part_of

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

_PREFIX = "base_model.model."
_ADAPTER = re.compile(r"\.lora_(A|B|magnitude_vector)\.default\.weight$")


def add_adapters(model: nn.Module, lora: LoraConfig) -> nn.Module:
    """The model with trainable adapters; its language model's own weights are frozen, other parts stay as they were.

    B starts at zero, so the model computes what it did before.

    Args:
        model: a transformers Qwen2.5-VL or Qwen3-VL for conditional generation, frozen as configured.

    Raises:
        ConfigError: no linear layer of the language model has one of the names in `targets`.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    trainable_elsewhere = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.startswith("model.visual.")
    ]
    names = "|".join(re.escape(target) for target in lora.targets)
    pattern = rf"model\.language_model\..*\.({names})"
    if not any(
        isinstance(part, torch.nn.Linear) and re.fullmatch(pattern, name) for name, part in model.named_modules()
    ):
        raise ConfigError(
            f"configuration: model.lora.targets: found {list(lora.targets)}, none of them names a linear layer of the "
            "language model; use names such as q_proj, up_proj"
        )
    adapted = get_peft_model(
        model,
        PeftLoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=pattern,
            use_dora=lora.dora,
            bias="none",
        ),
        # In the model's dtype: ZeRO-3 takes one dtype alone, and keeps float32 masters of what trains.
        autocast_adapter_dtype=False,
    )
    for parameter in trainable_elsewhere:
        parameter.requires_grad_(True)
    return adapted


def plain_weights(
    tensors: Mapping[str, T],
    gather: Callable[[T, torch.dtype | None], Tensor],
    dtype: torch.dtype,
    *,
    lora: LoraConfig | None,
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Name and full tensor under the names of the checkpoint, adapters merged.

    Every rank has to iterate to the end: `gather` is a collective.

    Args:
        tensors: the module's, sharded.
        gather: a shard's full tensor, in a dtype or as it is.
        dtype: of what is yielded; adapters are merged in the weights' own.
        only: names of the checkpoint; None: all.
    """
    for name, tensor in tensors.items():
        if _ADAPTER.search(name):
            continue
        plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        if only is not None and plain not in only:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if lora is None or layer == name:
            yield plain, gather(tensor, dtype)
            continue
        parts = {
            kind: gather(tensors[f"{layer}.lora_{kind}.default.weight"], None)
            for kind in ("A", "B", *(["magnitude_vector"] if lora.dora else []))
        }
        merged = merge(gather(tensor, None), parts["A"], parts["B"], parts.get("magnitude_vector"), lora=lora)
        yield plain, merged.to(dtype)


def merge(weight: Tensor, down: Tensor, up: Tensor, magnitude: Tensor | None, *, lora: LoraConfig) -> Tensor:
    """An adapted layer's weight as one matrix, computed in float32 and returned in the weight's dtype.

    LoRA (arXiv:2106.09685): W + alpha / r * B A. DoRA (arXiv:2402.09353): its rows rescaled to the norms `magnitude`.

    Args:
        weight: [out, in].
        down: A, [r, in].
        up: B, [out, r].
        magnitude: [out] for DoRA, else None.
    """
    merged = weight.float() + lora.alpha / lora.rank * (up.float() @ down.float())
    if magnitude is not None:
        merged = merged * (magnitude.float() / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype)


def parameter_groups(model: nn.Module, *, vision_tower: float | None, merger: float | None) -> list[dict[str, Any]]:
    """The trainable parameters as optimiser groups, the language model's first.

    Args:
        vision_tower, merger: their learning rates; None: the optimiser's own.
    """
    rates = {"language_model": None, "merger": merger, "vision_tower": vision_tower}
    members: dict[str, list[nn.Parameter]] = {part: [] for part in rates}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[part_of(name.removeprefix(_PREFIX))].append(parameter)
    return [
        {"params": parameters, **({} if rates[part] is None else {"lr": rates[part]})}
        for part, parameters in members.items()
        if parameters
    ]
