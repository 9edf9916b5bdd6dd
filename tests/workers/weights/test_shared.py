"""The files through which engine processes get what their actor received."""

from __future__ import annotations

import fcntl
from pathlib import Path

import numpy as np
import pytest

from workers.weights.shared import remove_orphaned_files, shared_file


def test_the_shared_file_is_gone_afterwards_even_after_an_error(tmp_path: Path) -> None:
    data = np.arange(10, dtype=np.uint8)
    with pytest.raises(KeyError), shared_file(data, 1, folder=tmp_path) as path:
        assert path.read_bytes() == bytes(range(10))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_orphans_are_removed_and_files_in_use_are_not(tmp_path: Path) -> None:
    orphan = tmp_path / "videor2-weights-7-abc.bucket"
    orphan.write_bytes(b"left behind")
    (tmp_path / "of-somebody-else").write_bytes(b"")
    with shared_file(np.zeros(4, dtype=np.uint8), 8, folder=tmp_path) as used:
        assert remove_orphaned_files(folder=tmp_path) == [orphan]
        assert used.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["of-somebody-else"]


def test_a_file_locked_by_hand_counts_as_in_use(tmp_path: Path) -> None:
    path = tmp_path / "videor2-weights-7-abc.bucket"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_orphaned_files(folder=tmp_path) == []
