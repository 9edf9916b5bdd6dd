"""Fragments that some ranks wrote are read by any number of others."""

import itertools
from pathlib import Path

import pytest
import torch

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.shards import Fragment, StoredTensors, rank_file, rank_files, write_fragments

VALUES = torch.arange(10.0)


def store(folder: Path, *cuts: int) -> None:
    """VALUES in as many files as there are pieces between the cuts, and a number that every rank holds."""
    edges = (0, *cuts, len(VALUES))
    for rank, (start, end) in enumerate(itertools.pairwise(edges)):
        fragments = {"step/w": Fragment(0, torch.tensor([7.0]))}
        if start < end:
            fragments["weight/w"] = Fragment(start, VALUES[start:end].clone())
        write_fragments(rank_file(folder, ".safetensors", rank=rank, num_ranks=len(edges) - 1), fragments)


@pytest.mark.parametrize("cuts", [(), (5,), (4, 8), (10, 10), (1, 2, 3, 4, 5)])
def test_every_stretch_is_read_whoever_wrote_it(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    store(tmp_path, *cuts)
    stored = StoredTensors(tmp_path)
    assert stored.names == {"weight/w", "step/w"} and stored.numel("weight/w") == 10
    for start in range(10):
        for end in range(start + 1, 11):
            found = torch.full((end - start,), -1.0)
            stored.read_into("weight/w", start, found)
            assert torch.equal(found, VALUES[start:end])
    step = torch.zeros(1)
    stored.read_into("step/w", 0, step)
    assert step.item() == 7


def test_values_that_nobody_wrote_are_not_made_up(tmp_path: Path) -> None:
    store(tmp_path, 4, 8)
    with pytest.raises(ConfigError, match="lacks 2 values of weight/w"):
        StoredTensors(tmp_path).read_into("weight/w", 8, torch.zeros(4))
    with pytest.raises(ConfigError, match="lacks 4 values of weight/v"):
        StoredTensors(tmp_path).read_into("weight/v", 0, torch.zeros(4))
    rank_file(tmp_path, ".safetensors", rank=1, num_ranks=3).unlink()
    with pytest.raises(ConfigError, match="files of 2 of 3 ranks"):
        StoredTensors(tmp_path)


def test_ranks_that_wrote_the_same_values_count_once(tmp_path: Path) -> None:
    for rank in range(2):
        fragments = {"bias/w": Fragment(0, VALUES[:4].clone())}
        write_fragments(rank_file(tmp_path, ".safetensors", rank=rank, num_ranks=2), fragments)
    found = torch.zeros(3)
    assert StoredTensors(tmp_path).numel("bias/w") == 4
    StoredTensors(tmp_path).read_into("bias/w", 1, found)
    assert found.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="lacks 2 values of bias/w"):
        StoredTensors(tmp_path).read_into("bias/w", 2, torch.zeros(4))


def test_files_come_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    paths = [rank_file(tmp_path, ".json", rank=rank, num_ranks=12) for rank in range(12)]
    for path in reversed(paths):
        path.touch()
    assert rank_files(tmp_path, ".json") == paths
    with pytest.raises(ConfigError, match="files of 0 of 1 ranks"):
        rank_files(tmp_path, ".safetensors")


def test_reading_writes_through_a_view_into_the_tensor_it_belongs_to(tmp_path: Path) -> None:
    store(tmp_path, 5)
    owner = torch.zeros(20)
    StoredTensors(tmp_path).read_into("weight/w", 3, owner.narrow(0, 12, 4))
    assert torch.equal(owner[12:16], VALUES[3:7]) and owner.count_nonzero() == 4
