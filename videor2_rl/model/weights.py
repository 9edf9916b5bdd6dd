"""A checkpoint's weights by name and shape, held against its model before anything loads them.

transformers and vLLM fill what a file lacks with random numbers and say so in a log line at most.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.model.folder import is_lfs_pointer, read_model_json

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES = {
    "base_model.model.": "these are the weights of a PEFT model: merge its adapter (merge_and_unload) and save that",
    "_orig_mod.": "these are the weights of a compiled model: save the model that was compiled",
    "module.": "these are the weights of a wrapped model: save its .module",
    "_fsdp_wrapped_module.": "these are the weights of a wrapped model: save its full state_dict",
}
_NAMED = 3
"""Weights that a message names."""


@dataclass(frozen=True)
class ExpectedWeights:
    """What a complete set of weights looks like."""

    shapes: Mapping[str, tuple[int, ...]]
    """Hugging Face name -> shape, without tied tensors."""
    tied: frozenset[str]
    """Names that share another tensor's memory (`lm_head.weight`)."""


@functools.cache
def expected_weights(model_path: str) -> ExpectedWeights:
    """Names and shapes of the checkpoint's model, from its config alone: no weight is read.

    The names are those of `state_dict()`; the files of older checkpoints spell some of them differently.
    """
    model = _meta_model(model_path)
    owners: dict[int, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    tied = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in owners:
            tied.add(name)
        else:
            owners[id(tensor)] = name
            shapes[name] = tuple(tensor.shape)
    return ExpectedWeights(shapes, frozenset(tied))


def check_weights(path: str, *, key: str) -> None:
    """The folder's files hold every weight of the model that its config.json describes, in its shape.

    Reads headers only. Files of more than are needed pass: transformers leaves the rest alone.

    Args:
        key: of the configuration, for messages.

    Raises:
        ConfigError: names the file that is damaged, or the first weights that are missing or misshapen, and the mend.
    """
    folder = Path(path)
    if (folder / "adapter_config.json").is_file() and not _files(folder, key=key):
        raise ConfigError(
            f"{key}: {path} holds a PEFT adapter alone; merge it into its base model (merge_and_unload), save "
            "that, and give its folder"
        )
    stored = {name: shape for file in _files(folder, key=key) for name, shape in _stored(file, key=key).items()}
    if not stored:
        raise ConfigError(f"{key}: {path} holds no weights (*.safetensors); {fetch_again(path)}")
    expected = expected_weights(path)
    found = _renamed(path, stored)
    missing = sorted(name for name in expected.shapes if name not in found)
    if missing:
        unknown = sorted(name for name in stored if _is_unknown(name, path, expected))
        raise ConfigError(
            f"{key}: {path} lacks {len(missing)} of the model's {len(expected.shapes)} weights, first {_some(missing)}"
            + (f"; its files hold {len(unknown)} under other names, first {_some(unknown)}" if unknown else "")
            + f"; {_mend(unknown, path)}"
        )
    misshapen = sorted(name for name, shape in expected.shapes.items() if found[name] != shape)
    if misshapen:
        name = misshapen[0]
        raise ConfigError(
            f"{key}: {len(misshapen)} weights in {path} have another shape than its config.json says, first {name}: "
            f"{list(found[name])} instead of {list(expected.shapes[name])}; give weights and config.json of one model"
        )


class StoredWeights:
    """A folder's weights under their model's names, each read when it is asked for; `check_weights` comes before."""

    def __init__(self, path: str) -> None:
        namer, key = _namer(path), "model.path"
        files = [(file, _stored(file, key=key)) for file in _files(Path(path), key=key)]
        self._places = {namer(name): (file, name) for file, shapes in files for name in shapes}
        self._open = {file: _opened(file) for file, _ in files}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all weights, file by file."""
        return tuple(self._places)

    def read(self, name: str) -> Tensor:
        """In the dtype that it is stored in, in host memory.

        Raises:
            KeyError: the files hold no such weight.
        """
        file, stored_name = self._places[name]
        return self._open[file](stored_name)


def _opened(file: Path) -> Callable[[str], Tensor]:
    """Name -> tensor of one file, which is mapped into memory and not read as a whole."""
    if file.suffix == ".bin":
        import torch

        tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return tensors.__getitem__
    from safetensors import safe_open

    return safe_open(file, framework="pt").get_tensor


def fetch_again(path: str) -> str:
    """The mend of a file that a checkpoint lacks."""
    return f"copy it from the checkpoint, or fetch that again with hf download OWNER/NAME --local-dir {path}"


def _meta_model(model_path: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(model_path))
    model.tie_weights()
    return model


def _files(folder: Path, *, key: str) -> list[Path]:
    """The files that hold the weights: those that the index names, or one by itself; of both formats the first.

    Raises:
        ConfigError: the index names files that are not there.
    """
    for suffix in ("safetensors", "bin"):
        for index in sorted(folder.glob(f"*.{suffix}.index.json")):
            names = sorted(set(read_model_json(index, key=key).get("weight_map", {}).values()))
            absent = [name for name in names if not (folder / name).is_file()]
            if absent:
                raise ConfigError(
                    f"{key}: {folder} lacks {len(absent)} of the {len(names)} files of weights that {index.name} "
                    f"names, first {absent[0]}; {fetch_again(str(folder))}"
                )
            return [folder / name for name in names]
        # As transformers does: without an index, the one file of this name.
        whole = [folder / f"{stem}.{suffix}" for stem in ("model", "pytorch_model")]
        found = [file for file in whole if file.is_file()]
        if found:
            return found[:1]
    return []


def _stored(file: Path, *, key: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of one file's tensors, from its header.

    Raises:
        ConfigError: it is a Git LFS pointer, cut off or damaged.
    """
    if is_lfs_pointer(file):
        raise ConfigError(f"{key}: {file} is a Git LFS pointer, not the file itself; fetch it with git lfs pull")
    if file.suffix == ".bin":
        return _stored_by_torch(file, key=key)
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(data.read(length)) if 0 < length <= size else {}
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = 8 + length + max(entry["data_offsets"][1] for entry in entries.values())
            shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        except (ValueError, AttributeError, KeyError, TypeError, IndexError):
            raise ConfigError(f"{key}: {file} is no safetensors file; copy it again from the checkpoint") from None
    if end > size:
        raise ConfigError(
            f"{key}: {file} is cut off, {size} of {end} bytes are there; copy it again from the checkpoint"
        )
    return shapes


def _stored_by_torch(file: Path, *, key: str) -> dict[str, tuple[int, ...]]:
    import torch

    try:
        tensors = torch.load(file, map_location="meta", mmap=True, weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ConfigError(f"{key}: {file} cannot be read ({lines[0]}); copy it again from the checkpoint") from None


@functools.cache
def _namer(model_path: str) -> Any:
    """transformers' own renaming of a stored name to the model's."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    model = _meta_model(model_path)
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    known, prefix = model.state_dict(), model.base_model_prefix
    return lambda name: rename_source_key(name, renamings, converters, prefix, known)[0]


def _renamed(path: str, stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    namer = _namer(path)
    return {namer(name): shape for name, shape in stored.items()}


def _is_unknown(name: str, path: str, expected: ExpectedWeights) -> bool:
    renamed = _namer(path)(name)
    return renamed not in expected.shapes and renamed not in expected.tied


def _mend(unknown: Iterable[str], path: str) -> str:
    for prefix, mend in _PREFIXES.items():
        if any(name.startswith(prefix) or re.search(rf"(^|\.){re.escape(prefix)}", name) for name in unknown):
            return mend
    return fetch_again(path)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
