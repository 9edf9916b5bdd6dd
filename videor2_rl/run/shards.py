"""Sharded state on disk: each rank's fragments of flattened tensors in safetensors, read back by any number of ranks.

Nothing is pickled. A rank's file holds one-dimensional tensors; its metadata tells where each begins in its tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import apply_umask

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fragment:
    """What one rank holds of one tensor."""

    start: int
    """Index of its first value in the flattened tensor."""
    values: Tensor
    """[n]; a copy in host memory when it is on its way to the disk."""


def rank_file(folder: Path, suffix: str, *, rank: int, num_ranks: int) -> Path:
    """Where a rank writes, e.g. rank_00001_of_00004.safetensors."""
    return folder / f"rank_{rank:05d}_of_{num_ranks:05d}{suffix}"


def rank_files(folder: Path, suffix: str) -> list[Path]:
    """What the ranks wrote, in their order.

    Raises:
        ConfigError: there is nothing, or the files of some ranks are missing.
    """
    found = sorted(folder.glob(f"rank_*_of_*{suffix}"))
    expected = int(found[0].name.removesuffix(suffix).rpartition("_")[2]) if found else 1
    if len(found) != expected:
        raise ConfigError(f"{folder} holds the {suffix} files of {len(found)} of {expected} ranks; remove that folder")
    return found


def write_fragments(path: Path, fragments: Mapping[str, Fragment]) -> None:
    """Write a rank's fragments, by the names of their tensors."""
    from safetensors.torch import save_file

    starts = {name: str(fragment.start) for name, fragment in fragments.items()}
    save_file({name: fragment.values for name, fragment in fragments.items()}, path, metadata=starts)
    apply_umask(path)


class StoredTensors:
    """The tensors whose fragments lie in a folder, one file a rank; values are read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            ConfigError: as `rank_files`.
        """
        from safetensors import safe_open

        self._folder = folder
        self._parts: dict[str, list[tuple[int, int, Any]]] = {}
        for path in rank_files(folder, ".safetensors"):
            # Closed with the last reference to it.
            file = safe_open(path, framework="pt")
            for name, start in (file.metadata() or {}).items():
                part = (int(start), file.get_slice(name).get_shape()[0], file)
                self._parts.setdefault(name, []).append(part)
        for parts in self._parts.values():
            parts.sort(key=lambda part: part[0])

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._parts)

    def numel(self, name: str) -> int:
        """How many values the tensor has."""
        return max(start + length for start, length, _ in self._parts[name])

    def read_into(self, name: str, start: int, values: Tensor) -> None:
        """Fill `values` [n] with the tensor's values from index `start` on, whichever ranks wrote them.

        Raises:
            ConfigError: some of them were never written.
        """
        end, reached, missing = start + values.numel(), start, 0
        for part_start, length, file in self._parts.get(name, ()):
            # Several ranks may hold the same values: they are read once, and count once.
            first, last = max(reached, part_start), min(end, part_start + length)
            if first < last:
                values[first - start : last - start].copy_(file.get_slice(name)[first - part_start : last - part_start])
                missing, reached = missing + first - reached, last
        missing += end - reached
        if missing > 0:
            raise ConfigError(f"{self._folder} lacks {missing} values of {name}; remove that folder")
