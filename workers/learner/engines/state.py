"""What training changes: weights and optimiser state by the model's own parameter names, however they are sharded.

An engine says which pieces it holds; saving and restoring is then the same for all, and a checkpoint fits any number of
ranks and any backend. Frozen weights are those of `model.path` and are not kept again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import FileSum, file_sum, sync, write_json_atomic
from videor2_rl.run.shards import Fragment, StoredTensors, rank_file, rank_files, write_fragments

if TYPE_CHECKING:
    from torch import Tensor

_FRAGMENTS, _REST = ".safetensors", ".json"
_WEIGHT = "weight"
_SCALAR = "scalar."
"""Before the name of what an optimiser keeps once for all values of a parameter, such as Adam's step."""


@dataclass(frozen=True)
class RankState:
    """Everything of one rank that a checkpoint holds."""

    fragments: Mapping[str, Fragment]
    """Of weights and optimiser state, in host memory."""
    lr_scheduler: Mapping[str, Any]
    """JSON-able, as `random`."""
    random: Mapping[str, Any]

    def write(self, folder: Path, *, rank: int, num_ranks: int) -> dict[str, FileSum]:
        """Write the rank's two files and force them to the disk; their sums by their names."""
        fragments = rank_file(folder, _FRAGMENTS, rank=rank, num_ranks=num_ranks)
        write_fragments(fragments, self.fragments)
        sync(fragments)
        rest = rank_file(folder, _REST, rank=rank, num_ranks=num_ranks)
        write_json_atomic(rest, {"lr_scheduler": dict(self.lr_scheduler), "random": dict(self.random)})
        return {path.name: file_sum(path) for path in (fragments, rest)}

    @staticmethod
    def read(folder: Path, *, rank: int) -> RankState:
        """A rank's state but for the fragments; a rank more than there were takes after one of the others."""
        files = rank_files(folder, _REST)
        return RankState(fragments={}, **json.loads(files[rank % len(files)].read_text(encoding="utf-8")))


def random_state() -> dict[str, Any]:
    """verl's random state (Python, NumPy, torch on the CPU and the accelerator) as JSON: bytes in hexadecimal."""
    state = BaseCheckpointManager.get_rng_state()
    name, keys, *rest = state.pop("numpy")
    python = state.pop("random")
    torch_states = {device: bytes(tensor.numpy()).hex() for device, tensor in state.items()}
    return {"numpy": [name, keys.tolist(), *rest], "random": python, "torch": torch_states}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set what `random_state` gave, after a way through JSON."""
    name, keys, *rest = state["numpy"]
    version, internal, gauss = state["random"]
    torch_states = {
        device: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for device, text in state["torch"].items()
    }
    numpy_state = (name, np.array(keys, dtype=np.uint32), *rest)
    BaseCheckpointManager.load_rng_state(
        {**torch_states, "numpy": numpy_state, "random": (version, tuple(internal), gauss)}
    )


@dataclass(frozen=True)
class Piece:
    """The part of a trained parameter that this rank optimises."""

    name: str
    """The parameter's."""
    start: int
    """Index of the first value in the flattened parameter."""
    owner: Tensor
    """The float32 tensor that the optimiser steps; this piece is a part of it."""
    part: Callable[[Tensor], Tensor]
    """A tensor laid out as `owner` -> this piece of it, [n], sharing its memory."""


def state_of(pieces: Sequence[Piece], optimizer: torch.optim.Optimizer) -> dict[str, Fragment]:
    """Copies in host memory of weights and optimiser state: `weight/NAME`, `exp_avg/NAME`, `scalar.step/NAME`, ...

    Raises:
        ConfigError: the optimiser keeps state that cannot be cut as its parameters are.
    """
    fragments = {}
    for piece in pieces:
        tensors = {_WEIGHT: piece.owner, **optimizer.state.get(piece.owner, {})}
        for key, tensor in tensors.items():
            # SGD without momentum keeps None.
            if tensor is None:
                continue
            _check_kept(key, tensor, piece, optimizer)
            if tensor.dim() == 0:
                kind, start, values = f"{_SCALAR}{key}", 0, tensor.detach().view(1)
            else:
                kind, start, values = key, piece.start, piece.part(tensor.detach())
            fragments[f"{kind}/{piece.name}"] = Fragment(start, values.to("cpu", copy=True))
    return fragments


def _check_kept(key: str, tensor: Any, piece: Piece, optimizer: torch.optim.Optimizer) -> None:
    is_plain = isinstance(tensor, torch.Tensor) and (tensor.dim() == 0 or tensor.shape == piece.owner.shape)
    # Quantised state is a subclass of Tensor.
    if not is_plain or (tensor.dim() > 0 and type(piece.part(tensor.detach())) is not torch.Tensor):
        raise ConfigError(
            f"{type(optimizer).__name__} keeps {key} of {piece.name} in a form that checkpoints cannot hold; "
            "use an optimiser of torch.optim, or checkpoint.every_steps=0"
        )


def restore_state(
    pieces: Sequence[Piece],
    optimizer: torch.optim.Optimizer,
    stored: StoredTensors,
    *,
    trained: Mapping[str, int],
) -> None:
    """Bring weights and optimiser state to what was stored, in place.

    Args:
        trained: number of values of every trained parameter of the model, on whichever rank they are.

    Raises:
        ConfigError: other parameters were trained, or parameters of other sizes.
    """
    _check_same_parameters(stored, trained)
    optimizer.state.clear()
    kinds = sorted({name.partition("/")[0] for name in stored.names} - {_WEIGHT})
    for piece in pieces:
        stored.read_into(f"{_WEIGHT}/{piece.name}", piece.start, piece.part(piece.owner.detach()))
        for kind in kinds:
            name, key = f"{kind}/{piece.name}", kind.removeprefix(_SCALAR)
            # A parameter that never had a gradient has no state.
            if name not in stored.names:
                continue
            state = optimizer.state[piece.owner]
            if kind.startswith(_SCALAR):
                state.setdefault(key, torch.zeros(()))
                stored.read_into(name, 0, state[key].view(1))
            else:
                if key not in state:
                    state[key] = torch.zeros_like(piece.owner, requires_grad=False)
                stored.read_into(name, piece.start, piece.part(state[key]))


def _check_same_parameters(stored: StoredTensors, trained: Mapping[str, int]) -> None:
    prefix = f"{_WEIGHT}/"
    found = {name.removeprefix(prefix): stored.numel(name) for name in stored.names if name.startswith(prefix)}
    if found != trained:
        odd = sorted(name for name in found.keys() | trained.keys() if found.get(name) != trained.get(name))
        raise ConfigError(
            f"the checkpoint trains {len(found)} parameters and this run {len(trained)}, and they differ in "
            f"{len(odd)}, e.g. {odd[0]}; resume with the model.freeze_* and model.lora settings it was written with"
        )
