"""A pool's places, and the calls of those who fill them; what runs the actors is behind `Actors`. Without Ray."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from workers.liveness import Pulse


class Actors(Protocol):
    """What runs the actors of a pool."""

    @property
    def lost(self) -> tuple[type[Exception], ...]:
        """Errors that cost an actor; every other one is a fault of the request."""
        ...

    @property
    def has_pulse(self) -> bool:
        """Actors give signs of life."""
        ...

    def create(self, index: int) -> Any:
        """An actor, at once; it gets ready later."""
        ...

    def prepare(self, actor: Any) -> Any:
        """A reference that resolves when the actor may serve."""
        ...

    def begin(self, actor: Any, method: str, args: tuple[Any, ...]) -> Any:
        """A reference of a call's result."""
        ...

    async def answer(self, ref: Any, *, deadline_s: float | None, what: str) -> Any:
        """What a reference resolves to; raises DeadlineExceeded."""
        ...

    def cancel(self, ref: Any) -> None: ...

    def kill(self, actor: Any) -> None: ...

    def is_hopeless(self, error: Exception) -> bool:
        """A replacement would fail in the same way."""
        ...

    async def pulse(self, actor: Any) -> Pulse: ...


@dataclass(frozen=True)
class Limits:
    """What a pool bears; times in seconds."""

    call_deadline_s: float | None
    """For one call on an actor; None: no limit."""
    start_deadline_s: float
    """From an actor's creation until it is ready."""
    leave_s: float = 60.0
    """For an actor that leaves to end its calls; what is left of them then is issued again."""
    max_in_flight: int = 1
    """Calls per actor at a time."""
    max_losses: int = 3
    """Actors that may be lost over one call, or one after the other before they are ready. The last one that a call
    gets has no other: if it is lost too, it was for this call."""
    min_size: int | None = None
    """With so many that serve, the pool goes on where others never get ready; None: it does not."""


@dataclass(eq=False)
class Call:
    """Something asked of the pool."""

    method: str
    args: tuple[Any, ...]
    done: asyncio.Future[Any]
    losses: int | None = 0
    """Actors that were lost over it; None: it is for one actor alone, and is not issued again."""

    def succeed(self, result: Any) -> None:
        """Nothing where nobody waits any more."""
        if not self.done.done():
            self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        """Nothing where nobody waits any more."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(eq=False)
class Slot:
    """One place in the pool and the actor that fills it."""

    index: int
    actor: Any
    is_ready: bool = False
    has_joined: bool = False
    """It was let in."""
    is_held: bool = False
    """It gets no calls until it is let in again."""
    is_reserved: bool = False
    """It gets calls that are tried for the last time, one at a time."""
    is_leaving: bool = False
    is_gone: bool = False
    calls: dict[Call, asyncio.Task[None]] = field(default_factory=dict)
    busy_since: float = 0.0
    """Where it has calls: since when, or since the last measurement."""

    @property
    def is_open(self) -> bool:
        """It may get calls, or stand by."""
        return self._may_serve and not self.is_reserved

    @property
    def is_free_for_one(self) -> bool:
        """It may get a call that has an actor to itself."""
        return self._may_serve and not self.calls

    @property
    def _may_serve(self) -> bool:
        return self.has_joined and not self.is_held and not self.is_leaving

    @property
    def state(self) -> str:
        """In one word, for people."""
        if self.is_leaving:
            return "leaving"
        return "serving" if self.has_joined else "ready" if self.is_ready else "starting"


class Servers:
    """The places that serve, the least loaded one at hand however many there are."""

    def __init__(self, slots: Sequence[Slot] = ()) -> None:
        self._slots = {slot.index: slot for slot in slots}
        self._order()

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def __contains__(self, slot: Slot) -> bool:
        return self._slots.get(slot.index) is slot

    def changed(self, slot: Slot) -> None:
        """It got a call, or one of its calls ended; nothing where it does not serve."""
        if slot not in self:
            return
        if len(self._heap) > 4 * len(self._slots):
            self._order()
        else:
            heapq.heappush(self._heap, (len(slot.calls), slot.index))

    def least_loaded(self) -> Slot | None:
        """Ties go to the lower index; None: nobody serves."""
        while self._heap:
            load, index = self._heap[0]
            if len(self._slots[index].calls) == load:
                return self._slots[index]
            heapq.heappop(self._heap)  # of an earlier load: it stands there with its present one too
        return None

    def _order(self) -> None:
        self._heap = [(len(slot.calls), slot.index) for slot in self]
        heapq.heapify(self._heap)
