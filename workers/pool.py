"""Sets of like Ray actors: calls as futures, with deadlines, and replacement of the actors that are lost.

Rollout, reward and video workers are all driven through this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from videor2_rl.run.background import BackgroundLoop
from workers.fetch import LOST, answer, fetch
from workers.memory import most

log = logging.getLogger(__name__)

MEMORY_WAIT_S = 1.0
"""A figure for the log is not worth more."""


@dataclass(eq=False)
class _Call:
    """Something asked of the pool."""

    method: str
    args: tuple[Any, ...]
    done: asyncio.Future[Any]
    losses: int | None = 0
    """Actors that were lost over it; None: it is for one actor alone, and is not issued again."""


@dataclass(eq=False)
class _Slot:
    """One place in the pool and the actor that fills it now."""

    index: int
    actor: Any
    is_ready: bool = False
    has_joined: bool = False
    """It was let in."""
    serves: bool = False
    """It gets calls."""
    is_lost: bool = False
    calls: list[_Call] = field(default_factory=list)
    busy_since: float = 0.0
    """Where it has calls: since when, or since the last measurement."""

    def busy_for(self, now: float) -> float:
        """Seconds that it has been busy."""
        return now - self.busy_since


class ActorPool:
    """`size` like actors that share out calls; any thread may use it, and what goes on in it goes on in one of its own.

    A lost actor (its process died, it raised `WorkerLost`, or a call passed its deadline) is killed and replaced, and
    its calls are issued again; they must therefore be repeatable. The replacement serves only when the reference given
    by `prepare` has resolved and, in a pool that holds its joiners, when its owner has let it in.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int,
        create: Callable[[int], Any],
        prepare: Callable[[Any], Any],
        call_deadline_s: float | None,
        start_deadline_s: float,
        holds_joiners: bool = False,
        max_in_flight: int = 1,
        max_losses: int = 3,
    ) -> None:
        """Create the actors; they get ready in the background (`wait_ready`).

        Args:
            name: For messages, e.g. "rollout".
            create: Slot index -> actor handle; must not block.
            prepare: Actor handle -> reference that resolves when the actor may serve, e.g. `actor.start.remote()`.
            call_deadline_s: Seconds that one call may take on an actor; None: no limit.
            start_deadline_s: Seconds from an actor's creation until it is ready.
            holds_joiners: An actor that got ready waits for `let_in`.
            max_in_flight: Calls per actor at a time.
            max_losses: Actors that may be lost over one call, or one after the other before they are ready.
        """
        self.name = name
        self.replacements = 0
        """Actors replaced since the pool was made."""
        self._create = create
        self._prepare = prepare
        self._call_deadline_s = call_deadline_s
        self._start_deadline_s = start_deadline_s
        self._holds_joiners = holds_joiners
        self._max_in_flight = max_in_flight
        self._max_losses = max_losses
        self._failed_starts = 0
        self._failure: Exception | None = None
        self._waiting: deque[_Call] = deque()
        self._slots: list[_Slot] = []
        self._tasks: set[asyncio.Future[None]] = set()
        self._news = asyncio.Event()
        self._busy_s = 0.0
        self._measured_from = time.monotonic()
        self._loop = BackgroundLoop(f"{name} pool")
        self._loop.run(self._fill_all(size))

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def actors(self) -> tuple[Any, ...]:
        """The handles at this moment."""
        return tuple(slot.actor for slot in self._slots)

    @property
    def ready(self) -> tuple[Any, ...]:
        """Those that got ready, let in or not."""
        return tuple(slot.actor for slot in self._slots if slot.is_ready)

    @property
    def joiners(self) -> tuple[Any, ...]:
        """Those that got ready and wait for `let_in`."""
        return tuple(slot.actor for slot in self._slots if slot.is_ready and not slot.has_joined)

    def wait_ready(self) -> None:
        """Block until every actor is ready.

        Raises:
            RuntimeError: they keep failing.
        """
        self._loop.run(self._until(lambda: all(slot.is_ready for slot in self._slots)))

    def let_in(self, actor: Any) -> None:
        """A joiner gets calls from now on; nothing where it was lost meanwhile."""
        self._loop.run(self._set_serving(actor, True))

    def drain(self, actor: Any) -> Future[None]:
        """An actor gets no more calls until it is let in again; done when those that it has have ended."""
        return self._loop.begin(self._drained(actor))

    def submit(self, method: str, *args: Any) -> Future[Any]:
        """Call `method` on the least loaded actor that serves, ties going to the lower index; calls wait in order.

        The future raises RuntimeError where actors keep failing, else what the call raised.
        """
        return self._loop.begin(self._call(method, args))

    def submit_all(self, method: str, items: Sequence[tuple[Any, ...]]) -> Future[list[Any]]:
        """Call `method` with each tuple of arguments; results in the order of `items`; an error ends the others."""
        return self._loop.begin(self._all(method, items))

    def map(self, method: str, items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`submit_all`, waited for.

        Raises:
            RuntimeError: actors keep failing.
        """
        return self._loop.run(self._all(method, items))

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call `method` once on every actor; results in slot order, without those of actors lost on the way.

        Returns when every actor has answered or its replacement is ready: it must by then have been brought to the
        state that the call leaves behind.
        """
        self.wait_ready()
        results = self._loop.run(self._on_each(method, args))
        self.wait_ready()
        return results

    def lose(self, actor: Any, error: Exception) -> None:
        """Replace an actor that somebody else found to be of no more use; nothing where it has been replaced."""
        self._loop.run(self._lose_actor(actor, error))

    def replace_silent(self, method: str, *, deadline_s: float) -> None:
        """Call `method` on every actor that is ready, and replace those that do not answer in time or are lost."""
        asked = [(actor, getattr(actor, method).remote()) for actor in self.ready]
        ray.wait([ref for _, ref in asked], num_returns=len(asked), timeout=deadline_s)
        for actor, ref in asked:
            try:
                fetch(ref, deadline_s=0, what=f"the {method} of a {self.name} worker")
            except LOST as error:
                self.lose(actor, error)

    def busy_frac(self) -> float:
        """Share of the time since the last call of this in which an actor had something to do, a mean over actors."""
        return self._loop.run(self._take_busy_frac())

    def memory(self) -> dict[str, float]:
        """The most that one actor takes, in MiB by kind; one that is busy, getting ready or lost says nothing."""
        refs = [actor.memory.remote() for actor in self.ready]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=MEMORY_WAIT_S) if refs else ([], [])
        memories = []
        for ref in done:
            # The next call that needs the actor deals with its loss.
            with contextlib.suppress(*LOST):
                memories.append(fetch(ref, what=f"the memory of a {self.name} worker"))
        return most(memories)

    def shutdown(self) -> None:
        """Kill the actors; what they still worked on is lost."""
        self._loop.close()
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots = []

    # What follows runs in the pool's own thread.

    async def _fill_all(self, size: int) -> None:
        self._slots = [self._fill(index) for index in range(size)]

    def _fill(self, index: int) -> _Slot:
        slot = _Slot(index, self._create(index))
        self._spawn(self._start(slot))
        return slot

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # The loop itself keeps no strong reference to its tasks.
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, slot: _Slot) -> None:
        what = f"starting {self.name} worker {slot.index}"
        try:
            await answer(self._prepare(slot.actor), deadline_s=self._start_deadline_s, what=what)
        except LOST as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                self._fail(error)  # its code or environment is wrong, and would be in a replacement
                return
            self._failed_starts += 1
            if self._failed_starts > self._max_losses:
                self._fail(RuntimeError(self._keep_failing(self._failed_starts, "before they were ready", error)))
            else:
                self._lose(slot, error)
        except Exception as error:
            self._fail(error)
        else:
            self._failed_starts = 0
            slot.is_ready = True
            slot.has_joined = slot.serves = not self._holds_joiners
            self._dispatch()
            self._tell()

    async def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        if self._failure is not None:
            raise self._failure
        call = _Call(method, args, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._dispatch()
        return await call.done

    async def _all(self, method: str, items: Sequence[tuple[Any, ...]]) -> list[Any]:
        calls = [asyncio.ensure_future(self._call(method, item)) for item in items]
        try:
            return list(await asyncio.gather(*calls))
        finally:
            # After an error or an interrupt the results still under way belong to nobody.
            for call in calls:
                call.cancel()

    async def _on_each(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        calls = [_Call(method, args, asyncio.get_running_loop().create_future(), losses=None) for _ in self._slots]
        for slot, call in zip(list(self._slots), calls, strict=True):
            self._issue(slot, call)
        results = await asyncio.gather(*(call.done for call in calls), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, LOST):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]

    def _dispatch(self) -> None:
        while self._waiting and (slot := self._least_loaded()) is not None:
            call = self._waiting.popleft()
            if not call.done.done():
                self._issue(slot, call)

    def _least_loaded(self) -> _Slot | None:
        free = [slot for slot in self._slots if slot.serves and len(slot.calls) < self._max_in_flight]
        return min(free, key=lambda slot: (len(slot.calls), slot.index), default=None)

    def _issue(self, slot: _Slot, call: _Call) -> None:
        if not slot.calls:
            slot.busy_since = time.monotonic()
        slot.calls.append(call)
        self._spawn(self._perform(slot, call))

    async def _perform(self, slot: _Slot, call: _Call) -> None:
        what = f"a call of {self.name} worker {slot.index}"
        try:
            ref = getattr(slot.actor, call.method).remote(*call.args)
            call.done.add_done_callback(lambda done: ray.cancel(ref) if done.cancelled() else None)
            result = await answer(ref, deadline_s=self._call_deadline_s, what=what)
        except LOST as error:
            self._lose(slot, error)
            self._again(call, error)
        except Exception as error:
            if not call.done.done():
                call.done.set_exception(error)
        else:
            if not call.done.done():
                call.done.set_result(result)
        finally:
            slot.calls.remove(call)
            if not slot.calls:
                self._busy_s += slot.busy_for(time.monotonic())
            self._dispatch()
            self._tell()

    def _again(self, call: _Call, error: Exception) -> None:
        """Its actor was lost: another one does it, before all that wait."""
        if call.done.done():
            return
        if call.losses is None:
            call.done.set_exception(error)
            return
        call.losses += 1
        if call.losses > self._max_losses:
            call.done.set_exception(RuntimeError(self._keep_failing(call.losses, "over one call", error)))
        elif self._failure is not None:
            call.done.set_exception(self._failure)
        else:
            self._waiting.appendleft(call)

    def _keep_failing(self, count: int, when: str, error: Exception) -> str:
        return f"{self.name} workers keep failing: {count} were lost {when}; the last error was {_reason(error)}"

    def _lose(self, slot: _Slot, error: Exception) -> None:
        if slot.is_lost:
            return
        slot.is_lost = True
        ray.kill(slot.actor, no_restart=True)
        self.replacements += 1
        log.warning("%s worker %d was lost and is replaced: %s", self.name, slot.index, _reason(error))
        self._slots[slot.index] = self._fill(slot.index)
        self._tell()

    def _fail(self, error: Exception) -> None:
        """No actor will serve any more: everybody who waits is told."""
        self._failure = self._failure or error
        for call in self._waiting:
            if not call.done.done():
                call.done.set_exception(self._failure)
        self._waiting.clear()
        self._tell()

    async def _lose_actor(self, actor: Any, error: Exception) -> None:
        for slot in list(self._slots):
            if slot.actor == actor:
                self._lose(slot, error)

    async def _set_serving(self, actor: Any, serves: bool) -> None:
        for slot in self._slots:
            if slot.actor == actor:
                slot.serves = serves
                slot.has_joined |= serves
        self._dispatch()

    async def _drained(self, actor: Any) -> None:
        await self._set_serving(actor, False)
        await self._until(lambda: not any(slot.actor == actor and slot.calls for slot in self._slots))

    async def _take_busy_frac(self) -> float:
        now = time.monotonic()
        busy_s = self._busy_s + sum(slot.busy_for(now) for slot in self._slots if slot.calls)
        for slot in self._slots:
            slot.busy_since = now
        elapsed_s, self._busy_s, self._measured_from = now - self._measured_from, 0.0, now
        return busy_s / (elapsed_s * len(self._slots)) if elapsed_s > 0 and self._slots else 0.0

    def _tell(self) -> None:
        """Something changed that somebody may wait for."""
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, is_met: Callable[[], bool]) -> None:
        while not is_met():
            if self._failure is not None:
                raise self._failure
            await self._news.wait()


def _reason(error: Exception) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
