"""The collective that carries weights: member 0 sends, all others receive; NCCL between GPUs, gloo between CPUs.

It stands beside the process groups that learner and engines have of their own, and is made anew when a member is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore

if TYPE_CHECKING:
    from torch import Tensor

_BLOCKING = "TORCH_NCCL_BLOCKING_WAIT"


@dataclass(frozen=True)
class GroupAddress:
    """Where the members meet."""

    host: str
    port: int
    size: int
    """Members, the sender included."""
    deadline_s: float
    """Seconds that meeting, and any one broadcast, may take."""


def open_store(host: str, *, deadline_s: float) -> TCPStore:
    """The sender's part of the meeting place, on a port of its own; it lives as long as the object."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=deadline_s))


class TransferGroup:
    """One member's end of the collective."""

    def __init__(self, address: GroupAddress, member: int, *, device: torch.device, store: TCPStore | None = None):
        """Meet the others; returns when all are there.

        Args:
            member: 0 sends.
            device: of what is sent or received.
            store: the sender's own; others connect to it.

        Raises:
            Exception: torch's, when not all met in time.
        """
        timeout = timedelta(seconds=address.deadline_s)
        self._store = store or TCPStore(
            address.host, address.port, is_master=False, wait_for_workers=False, timeout=timeout
        )
        self.device = device
        meeting = PrefixStore("weights", self._store)
        self._group: Any
        if device.type == "cuda":
            from torch.distributed import ProcessGroupNCCL

            options = ProcessGroupNCCL.Options()
            options._timeout = timeout
            with _waits_on_the_host():
                self._group = ProcessGroupNCCL(meeting, member, address.size, options)
        else:
            self._group = ProcessGroupGloo(meeting, member, address.size, timeout)
        # Connections are made by the first collective: a member that cannot be reached shows here, not in an update.
        self.broadcast(torch.zeros(1, dtype=torch.uint8, device=device))

    def broadcast(self, data: Tensor) -> None:
        """Send `data`, or receive into it; returns when it is there.

        Args:
            data: uint8 [n] on the group's device, equally long on all members.

        Raises:
            Exception: torch's; a member was lost or the deadline passed, and the group is of no more use.
        """
        options = BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        self._group.broadcast([data], options).wait()


@contextmanager
def _waits_on_the_host() -> Iterator[None]:
    """NCCL groups made inside raise at their deadline, where others would end the process."""
    before = os.environ.get(_BLOCKING)
    os.environ[_BLOCKING] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_BLOCKING]
        else:
            os.environ[_BLOCKING] = before
