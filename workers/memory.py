"""How much memory a process of a run takes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

import psutil

MIB = 2**20


def process_memory() -> dict[str, float]:
    """Of this process and those that it started, in MiB: `rss`, and on a GPU `gpu`, the most that torch reserved."""
    process = psutil.Process()
    resident = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            resident += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    memory = {"rss": resident / MIB}
    # Not imported for this: a process without torch holds nothing there.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["gpu"] = torch.cuda.max_memory_reserved() / MIB
    return memory


def most(memories: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of each kind the most that one of the processes takes."""
    merged: dict[str, float] = {}
    for memory in memories:
        for kind, mib in memory.items():
            merged[kind] = max(mib, merged.get(kind, 0.0))
    return merged
