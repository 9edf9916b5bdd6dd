"""Counts the bytes of the tensors that are alive, as PyTorch makes, resizes and frees them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorage(TorchDispatchMode):
    """`peak`: the most bytes that tensors made inside held at once, views counted once, of sharded ones the shard."""

    def __init__(self, *, before: Iterable[torch.Tensor]) -> None:
        """
        Args:
            before: tensors that were there, which do not count.
        """
        super().__init__()
        self.peak = 0
        self._before = [_storage(tensor) for tensor in before]
        self._known = {storage._cdata for storage in self._before}
        self._live: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        found = [_storage(leaf) for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        new = [storage for storage in found if storage._cdata not in self._known]
        for storage in new:
            self._known.add(storage._cdata)
            self._live[storage._cdata] = weakref.ref(storage)
            weakref.finalize(storage, self._freed, storage._cdata)
        if new:
            # FSDP2 empties and refills storages that it keeps.
            alive = [reference() for reference in list(self._live.values())]
            self.peak = max(self.peak, sum(storage.nbytes() for storage in alive if storage is not None))
        return made

    def _freed(self, key: int) -> None:
        self._known.discard(key)
        self._live.pop(key, None)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return (tensor._local_tensor if isinstance(tensor, DTensor) else tensor).untyped_storage()
