"""Bytes on their way from a rollout worker to the processes of its engine: a file in shared memory for a moment."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARED_FOLDER = Path("/dev/shm")
_PREFIX = "videor2-weights"


@contextlib.contextmanager
def shared_file(data: NDArray[np.uint8], policy_version: int, *, folder: Path = SHARED_FOLDER) -> Iterator[Path]:
    """`data` as a file in shared memory for the engine processes of this actor; gone when the block ends.

    The file stays locked as long as it is wanted, which tells it from one that a killed actor left behind.
    """
    path = folder / f"{_PREFIX}-{policy_version}-{secrets.token_hex(8)}.bucket"
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
