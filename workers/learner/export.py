"""Models in Hugging Face's layout: from the ranks of a run, or from what they left in a checkpoint.

A checkpoint holds the weights that train (`engines/state.py`); the others are those of the model it began with.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LoraConfig
from videor2_rl.model.weights import expected_weights
from videor2_rl.run.files import apply_umask
from videor2_rl.run.shards import StoredTensors
from workers.learner.engines.lora import add_adapters, plain_weights

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".safetensors.index.json", ".bin.index.json")
_STORED = "weight/"


def write_model(source: Path, target: Path, weights: dict[str, Tensor]) -> None:
    """`source`'s configuration, tokenizer and processor with new weights, under a temporary name until complete.

    Raises:
        ConfigError: as `check_free`.
    """
    from huggingface_hub import save_torch_state_dict

    with _whole(target) as folder:
        for file in source.iterdir():
            if file.is_file() and not file.name.endswith(_WEIGHT_SUFFIXES):
                shutil.copy2(file, folder)
        save_torch_state_dict(weights, folder, metadata={"format": "pt"})
        dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
        _set_dtype(folder / "config.json", dtype)


def export_checkpoint(checkpoint: Path, model: Path, target: Path, *, dtype: str, lora: LoraConfig | None) -> None:
    """The model of a checkpoint, adapters merged, as the run itself would have written it to hf/.

    Args:
        checkpoint: its folder.
        model: the folder that the run's model.path named.
        dtype: of the weights, float32 or bfloat16; the run's model.dtype.
        lora: the run's adapters; None: it has none.

    Raises:
        ConfigError: checkpoint and model do not fit.
    """
    import torch

    network = _trained_network(checkpoint, model, dtype=dtype, lora=lora)
    tied = expected_weights(str(model)).tied
    weights = plain_weights(
        network.state_dict(), lambda tensor, _: tensor.detach().clone(), getattr(torch, dtype), lora=lora
    )
    write_model(model, target, {name: tensor for name, tensor in weights if name not in tied})


def export_adapter(checkpoint: Path, model: Path, target: Path, *, dtype: str, lora: LoraConfig) -> None:
    """The adapter alone, as PEFT writes and reads it.

    Raises:
        ConfigError: the checkpoint trains other weights besides, or does not fit the model.
    """
    network = _trained_network(checkpoint, model, dtype=dtype, lora=lora)
    besides = [name for name in _stored_names(StoredTensors(checkpoint)) if ".lora_" not in name]
    if besides:
        raise ConfigError(
            f"{checkpoint} trains {len(besides)} weights besides the adapter, e.g. {besides[0]}, which an adapter "
            "cannot hold; export without --adapter"
        )
    with _whole(target) as folder:
        network.save_pretrained(str(folder))


def _trained_network(checkpoint: Path, model: Path, *, dtype: str, lora: LoraConfig | None) -> Any:
    """The model with its adapters, if any, holding the checkpoint's weights."""
    import torch
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(model, dtype=getattr(torch, dtype))
    network = plain if lora is None else add_adapters(plain, lora)
    stored = StoredTensors(checkpoint)
    parameters = dict(network.named_parameters())
    for name in _stored_names(stored):
        parameter = parameters.get(name)
        if parameter is None or stored.numel(_STORED + name) != parameter.numel():
            raise ConfigError(
                f"{checkpoint} holds {name}, and {model} has no such weight of its size; give the folder that the "
                "run's model.path named as --model"
            )
        values = torch.empty(parameter.numel(), dtype=torch.float32)
        stored.read_into(_STORED + name, 0, values)
        with torch.no_grad():
            parameter.copy_(values.view_as(parameter))
    return network


def _stored_names(stored: StoredTensors) -> list[str]:
    """The parameters that the checkpoint holds, under the names they have in the learner's model."""
    return sorted(name.removeprefix(_STORED) for name in stored.names if name.startswith(_STORED))


def check_free(target: Path) -> None:
    """
    Raises:
        ConfigError: `target` exists and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"cannot export to {target}: it exists; give another path or remove it")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that gets its name when all of it is there."""
    check_free(target)
    partial = target.parent / f".partial_{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    apply_umask(*(file for file in partial.rglob("*") if file.is_file()))
    if target.exists():
        target.rmdir()
    os.rename(partial, target)


def _set_dtype(config_file: Path, dtype: str) -> None:
    config = json.loads(config_file.read_text())
    config["dtype"] = dtype
    config_file.write_text(json.dumps(config, indent=2) + "\n")
