"""Signs of life of ranks that compute together: their own threads give them, whatever else the ranks do.

A call on a rank that stands still (SIGSTOP, a node that is gone) never ends, and the other ranks wait for it in their
collectives. Each rank therefore tells an actor of the driver's that it lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import ray

from workers.fetch import LOST, fetch

BEAT_S = 2.0
SILENT_S = 30.0
"""A rank that said nothing for so long is frozen. More than a rollout worker's: pickling and reading large files keep
all of a process's threads waiting, and what is lost with a rank is more than some groups."""
ASK_S = 10.0


@ray.remote(num_cpus=0)
class Beats:
    """When each rank was heard of last."""

    def __init__(self) -> None:
        self._heard: dict[int, float] = {}
        self._asked = time.monotonic()

    def beat(self, rank: int) -> None:
        """By a rank."""
        self._heard[rank] = time.monotonic()

    def silent(self, limit_s: float) -> list[int]:
        """The ranks that were heard of, but not for so long."""
        now = time.monotonic()
        since_asked_s, self._asked = now - self._asked, now
        if since_asked_s > limit_s:
            # Nobody asked, or this process stood still itself: silence counts from now on.
            self._heard = dict.fromkeys(self._heard, now)
        return sorted(rank for rank, heard in self._heard.items() if now - heard >= limit_s)


class RankBeats:
    """The driver's side."""

    def __init__(self, workers: Sequence[Any]) -> None:
        """Have the ranks beat from now on, or from when they are up.

        Args:
            workers: their actors' handles, by rank.
        """
        self._actor: Any = Beats.remote()  # type: ignore[attr-defined]
        for rank, worker in enumerate(workers):
            worker.__ray_call__.remote(_begin, self._actor, rank)

    def silent(self) -> list[int]:
        """The ranks that stand still; none where nobody can say."""
        try:
            found: list[int] = fetch(
                self._actor.silent.remote(SILENT_S), deadline_s=ASK_S, what="who lives", counts=False
            )
        except LOST:
            return []
        return found

    def end(self) -> None:
        """Nobody asks any more."""
        ray.kill(self._actor, no_restart=True)


def _begin(worker: Any, beats: Any, rank: int) -> None:
    threading.Thread(target=_beat, args=(beats, rank), name="beats", daemon=True).start()


def _beat(beats: Any, rank: int) -> None:
    while True:
        beats.beat.remote(rank)
        time.sleep(BEAT_S)
