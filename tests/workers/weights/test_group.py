"""The collective between real processes, by gloo."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

import group_member
import pytest
import torch

from workers.weights.group import GroupAddress, open_store
from workers.weights.plan import Bucket
from workers.weights.sender import WeightSender

CPU = torch.device("cpu")
Members = list[ProcessPoolExecutor]


@pytest.fixture
def members() -> Iterator[Members]:
    """Two receivers, each in a process of its own."""
    with ExitStack() as stack:
        pools = [ProcessPoolExecutor(1, mp_context=get_context("spawn")) for _ in range(2)]
        for pool in pools:
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            pool.submit(group_member.ready).result(timeout=120)
        yield pools


def met(sender: WeightSender, members: Members, *, deadline_s: float) -> list[int]:
    """The receivers' process ids, once all have met."""
    port = sender.open("127.0.0.1", deadline_s=deadline_s)
    address = GroupAddress("127.0.0.1", port, 1 + len(members), deadline_s)
    pids = [pool.submit(group_member.meet, address, 1 + index) for index, pool in enumerate(members)]
    sender.join(address)
    return [pid.result(timeout=120) for pid in pids]


def filled(sender: WeightSender, values: torch.Tensor) -> int:
    bucket = Bucket(("a",), (tuple(values.shape),))
    return sender.fill(0, bucket, [("a", values)], keeps_base=False, only_changes=False).num_bytes


@pytest.fixture
def sender() -> WeightSender:
    return WeightSender(dtype=torch.float32, device=CPU)


@pytest.mark.slow
def test_every_member_gets_the_bytes_and_a_new_group_can_be_met(sender: WeightSender, members: Members) -> None:
    for used in (members, members[1:], members):
        met(sender, used, deadline_s=60)
        for seed in range(2):
            values = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
            size = filled(sender, values)
            got = [pool.submit(group_member.receive, size) for pool in used]
            sender.send()
            assert all(one.result(timeout=60) == values.view(torch.uint8).tolist() for one in got)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_member_that_dies_or_stands_still_costs_no_more_than_the_deadline(
    sender: WeightSender, members: Members, fault: signal.Signals
) -> None:
    pids = met(sender, members, deadline_s=4)
    # More than the sockets hold: it cannot be gone before somebody takes it.
    size = filled(sender, torch.zeros(30_000_000))
    os.kill(pids[0], fault)
    try:
        other = members[1].submit(group_member.receive, size)
        with pytest.raises(RuntimeError):
            sender.send()
        # It may have everything already, or have waited for it in vain.
        other.exception(timeout=60)
    finally:
        if fault == signal.SIGSTOP:
            os.kill(pids[0], signal.SIGKILL)
    # The others go on in a group without it.
    met(sender, members[1:], deadline_s=60)
    size = filled(sender, torch.ones(3))
    got = members[1].submit(group_member.receive, size)
    sender.send()
    assert got.result(timeout=60) == torch.ones(3).view(torch.uint8).tolist()


@pytest.mark.slow
def test_a_member_that_never_comes_ends_the_meeting(sender: WeightSender, members: Members) -> None:
    port = sender.open("127.0.0.1", deadline_s=2)
    address = GroupAddress("127.0.0.1", port, 3, 2)
    waiting: Future[Any] = members[0].submit(group_member.meet, address, 1)
    with ThreadPoolExecutor(1) as thread:
        meeting: Future[Any] = thread.submit(sender.join, address)
        for one in (meeting, waiting):
            with pytest.raises(Exception, match=r"(?i)time"):
                one.result(timeout=60)


def test_a_store_has_a_port_of_its_own() -> None:
    one, other = (open_store("127.0.0.1", deadline_s=1) for _ in range(2))
    assert one.port != other.port
