"""Counts the bytes of the tensors that are alive, as PyTorch makes and frees them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorage(TorchDispatchMode):
    """`peak`: the most bytes that tensors made inside held at once, views counted once."""

    def __init__(self, *, before: Iterable[torch.Tensor]) -> None:
        """
        Args:
            before: tensors that were there, which do not count.
        """
        super().__init__()
        self.peak = 0
        self._live = {tensor.untyped_storage()._cdata: 0 for tensor in before}
        self._now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._live:
            return
        self._live[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self._now -= self._live.pop(key)
