"""Rank 0's half of an update."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from live_storage import LiveStorage

from workers.weights import payload
from workers.weights.plan import Bucket
from workers.weights.sender import WeightSender

NUM_TENSORS, SIZE, WORDS = 12, 50_000, 1000


def gathered(weights: list[torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """One whole tensor at a time, as ranks gather them."""
    return ((f"w{index}", weight.clone()) for index, weight in enumerate(weights))


@pytest.mark.parametrize("keeps_base", [False, True])
def test_the_sending_rank_holds_one_bucket_beside_the_weights(
    keeps_base: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_DIGEST_WORDS", WORDS)
    weights = [torch.randn(SIZE) for _ in range(NUM_TENSORS)]
    sender = WeightSender(dtype=torch.bfloat16, device=torch.device("cpu"))
    bucket_bytes = NUM_TENSORS * SIZE * 2
    with LiveStorage(before=weights) as live:
        for index in range(4):
            bucket = Bucket(tuple(f"w{i}" for i in range(NUM_TENSORS)), ((SIZE,),) * NUM_TENSORS)
            sender.fill(index, bucket, gathered(weights), keeps_base=keeps_base, only_changes=False)
        sender.drop()
    copies = 4 * bucket_bytes if keeps_base else 0
    # One gathered tensor is there in float32 for a moment, and some words of the digest.
    assert bucket_bytes <= live.peak - copies < bucket_bytes + 4 * SIZE + 100 * WORDS


def test_only_what_was_kept_is_left_out() -> None:
    sender = WeightSender(dtype=torch.float32, device=torch.device("cpu"))
    bucket = Bucket(("a",), ((1000,),))
    values = torch.zeros(1000)

    def fill(*, keeps_base: bool = True, only_changes: bool = True) -> int | None:
        tensors = [("a", values.clone())]
        return sender.fill(3, bucket, tensors, keeps_base=keeps_base, only_changes=only_changes).num_changed

    assert fill() is None
    assert fill() == 0
    values[5] = 1
    assert fill() == 1
    assert fill() == 0
    values[6] = 1
    assert fill(only_changes=False) is None
    assert fill() == 0
