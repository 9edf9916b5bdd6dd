"""The learner's half of an update, on rank 0: one bucket at a time, ready to be sent or stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from workers.weights.group import GroupAddress, TransferGroup, open_store
from workers.weights.payload import encode, join
from workers.weights.plan import Bucket, Gathered

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import TCPStore


class WeightSender:
    """Holds one bucket, and in host memory, where the plan keeps a base, what was sent last."""

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._payload: Tensor | None = None
        self._base: dict[int, Tensor] = {}
        self._store: TCPStore | None = None
        self._group: TransferGroup | None = None

    def open(self, host: str, *, deadline_s: float) -> int:
        """Let go of the group before, and open the meeting place of the next one; its port."""
        self._group = None
        self._store = open_store(host, deadline_s=deadline_s)
        return int(self._store.port)

    def join(self, address: GroupAddress) -> None:
        """Meet the engines."""
        self._group = TransferGroup(address, 0, device=self._device, store=self._store)

    def fill(
        self,
        index: int,
        bucket: Bucket,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        keeps_base: bool,
        only_changes: bool,
    ) -> Gathered:
        """Take the bucket's tensors in, in place of the bucket before.

        Args:
            index: of the bucket in its plan.
            only_changes: the receivers hold what was sent last of this bucket.
        """
        self._payload = None
        flat = join(bucket, tensors, dtype=self._dtype, device=self._device)
        self._payload, gathered = encode(flat, self._base.get(index) if only_changes else None)
        if keeps_base:
            # A copy always: on the CPU the payload may be the same memory.
            self._base[index] = flat.to("cpu", copy=True)
        return gathered

    def send(self) -> None:
        """To all engines at once; returns when they have it."""
        assert self._group is not None and self._payload is not None
        self._group.broadcast(self._payload)

    def stored(self) -> Any:
        """The payload as an array in host memory, uint8 [num_bytes]."""
        assert self._payload is not None
        return self._payload.cpu().numpy()

    def drop(self) -> None:
        """The update ended, however it did."""
        self._payload = None
