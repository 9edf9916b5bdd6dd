"""Weights on their way from the learner to the rollout engines: published once, checked, loaded everywhere.

learner: `publish_weights` -> Ray object of safetensors bytes, described by a `WeightSnapshot`
rollout actor: `check_snapshot`, `shared_file` -> engine: `load_into_engine` (vLLM's weight-transfer API)

vLLM builds a model from whatever it is given: a tensor left out of an update is no error there, it leaves uninitialised
memory in merged layers. So the names and shapes are compared with the checkpoint's before the engine is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videor2_rl.model.weights import ExpectedWeights, expected_weights
from videor2_rl.types import WeightSnapshot

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SHARED_FOLDER = Path("/dev/shm")
_PREFIX = "videor2-weights"


class WeightsRefused(RuntimeError):
    """Published weights that do not fit the model; the engine was not touched and keeps its old weights."""


# --- learner side -------------------------------------------------------------------------------------------------


def pack_weights(
    named_tensors: Iterable[tuple[str, torch.Tensor]], policy_version: int, *, tied: frozenset[str]
) -> tuple[WeightSnapshot, NDArray[np.uint8]]:
    """The tensors as safetensors bytes and their description, whose `ref` is still None.

    Args:
        named_tensors: Full tensors on any device under `state_dict()` names; those in `tied` are left out.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named_tensors if name not in tied}
    data = np.frombuffer(save(tensors), dtype=np.uint8)
    snapshot = WeightSnapshot(
        policy_version=policy_version,
        ref=None,
        num_bytes=data.nbytes,
        checksum=hashlib.sha256(data.data).hexdigest(),
        names=tuple(sorted(tensors)),
    )
    return snapshot, data


def pack_checkpoint(model_path: str, policy_version: int) -> tuple[WeightSnapshot, NDArray[np.uint8]]:
    """`pack_weights` of a checkpoint folder, in the dtype in which it is stored."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(model_path, dtype="auto")
    tied = expected_weights(model_path).tied
    return pack_weights(model.state_dict().items(), policy_version, tied=tied)


def publish_weights(
    named_tensors: Iterable[tuple[str, torch.Tensor]], policy_version: int, *, tied: frozenset[str]
) -> WeightSnapshot:
    """`pack_weights`, and put the bytes into Ray's object store, where they live as long as the caller's process."""
    import ray

    snapshot, data = pack_weights(named_tensors, policy_version, tied=tied)
    return replace(snapshot, ref=ray.put(data))


# --- rollout side -------------------------------------------------------------------------------------------------


def check_snapshot(snapshot: WeightSnapshot, data: NDArray[np.uint8], *, expected: ExpectedWeights) -> None:
    """Compare what arrived with what was published and with what the model needs.

    Args:
        data: uint8 [num_bytes], a safetensors file.

    Raises:
        WeightsRefused: names the tensors that are missing, unknown or misshapen. The checksum is the engine's to check.
    """
    if data.nbytes != snapshot.num_bytes:
        raise WeightsRefused(f"weights {snapshot.policy_version}: {data.nbytes} bytes of {snapshot.num_bytes} arrived")
    shapes = _header_shapes(data, snapshot.policy_version)
    faults = [
        ("missing", sorted(expected.shapes.keys() - shapes.keys())),
        ("unknown", sorted(shapes.keys() - expected.shapes.keys())),
        ("misshapen", sorted(n for n in shapes.keys() & expected.shapes.keys() if shapes[n] != expected.shapes[n])),
    ]
    found = [f"{len(names)} {fault}: {_some(names)}" for fault, names in faults if names]
    if found:
        raise WeightsRefused(f"weights {snapshot.policy_version} do not fit the model ({'; '.join(found)})")


def _header_shapes(data: NDArray[np.uint8], policy_version: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape from a safetensors header (8 bytes of little-endian length, then JSON)."""
    try:
        length = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + length].tobytes())
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsRefused(f"weights {policy_version}: the bytes are no safetensors file: {error}") from error


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@contextlib.contextmanager
def shared_file(data: NDArray[np.uint8], policy_version: int, *, folder: Path = SHARED_FOLDER) -> Iterator[Path]:
    """`data` as a file in shared memory for the engine processes of this actor; gone when the block ends.

    The file stays locked as long as it is wanted, which tells it from one that a killed actor left behind.
    """
    path = folder / f"{_PREFIX}-{policy_version}-{secrets.token_hex(8)}.safetensors"
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data.data)
            file.flush()
            partial.rename(path)
            yield path
    finally:
        partial.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def remove_orphaned_files(*, folder: Path = SHARED_FOLDER) -> list[Path]:
    """Delete, and return, the weight files that killed actors left on this node: those that nobody holds locked."""
    removed = []
    for path in sorted(folder.glob(f"{_PREFIX}-*")):
        # Another actor may remove the same file at the same time.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed.append(path)
    return removed


async def check_in_engine(engine: Any, snapshot: WeightSnapshot, path: Path) -> None:
    """Let every engine process hash the file it is going to load.

    Raises:
        WeightsRefused: a process sees other bytes than were published.
    """
    for found in await engine.collective_rpc("weights_checksum", args=(str(path),)):
        if found != snapshot.checksum:
            raise WeightsRefused(
                f"weights {snapshot.policy_version} are damaged: sha256 {found[:12]}... "
                f"instead of {snapshot.checksum[:12]}... as published"
            )


async def load_into_engine(engine: Any, snapshot: WeightSnapshot, path: Path) -> None:
    """One complete update of a paused engine through vLLM's weight-transfer API.

    Raises:
        Exception: whatever the engine raises; its weights are then not whole: load again or build it anew before it
            generates, for that would end its process.
    """
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

    await engine.start_weight_update(is_checkpoint_format=True)
    update = {"path": str(path), "policy_version": snapshot.policy_version}
    await engine.update_weights(WeightTransferUpdateRequest(update_info=update))
    await engine.finish_weight_update()
    for version in await engine.collective_rpc("loaded_version"):
        if version != snapshot.policy_version:
            raise RuntimeError(f"the engine reports policy version {version} after loading {snapshot.policy_version}")
