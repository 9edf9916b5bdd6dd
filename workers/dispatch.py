"""Which actor of a pool does what, who stands in for a lost one, and how a pool grows and shrinks.

Nothing here imports Ray: what runs the actors is behind `Actors`, which is Ray in `pool.py` and a simulation in
`benchmarks/simulate_cluster.py`. All of it goes on in one event loop and needs no locks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from workers.errors import CallGivenUp, WorkerLost
from workers.liveness import SILENT_S, STALLED_S, STARTING_SILENT_S, Progress, Pulse, silence
from workers.slots import Actors, Call, Limits, Servers, Slot

log = logging.getLogger(__name__)

MAX_GIVEN_UP = 2
"""Calls that may be given up one after the other, without one that succeeds in between."""

Item = tuple[Any, ...]
Split = Callable[[Item], Sequence[Item]]


class Dispatch:
    """`size` actors that serve and `standby` more that are as ready as they are and take a lost one's place at once."""

    def __init__(self, name: str, actors: Actors, limits: Limits, *, holds_joiners: bool, standby: int) -> None:
        """Empty; `resize` fills it, in the event loop.

        Args:
            holds_joiners: an actor that got ready waits for `let_in`.
        """
        self.name = name
        self.limits = limits
        self.standby = standby
        self.size = 0
        self.replacements = 0
        """Actors lost and replaced."""
        self.slots: list[Slot] = []
        self._actors = actors
        self._holds_joiners = holds_joiners
        self._failed_starts = 0
        self._has_succeeded = False
        self._given_up = 0
        """Calls, since the last one that succeeded."""
        self._failure: Exception | None = None
        self._waiting: deque[Call] = deque()
        self._suspects: deque[Call] = deque()
        self._reserved: Slot | None = None
        """For them."""
        self._servers = Servers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._busy_s = 0.0
        self._measured_from: float | None = None

    # Asked from outside, in the event loop.

    def resize(self, size: int, *, leaving: Sequence[int] = ()) -> None:
        """So many are to serve from now on; new ones get ready, those too many end their calls and leave.

        Args:
            leaving: indices of actors that leave first; others are the ones that do not serve yet, then the youngest.
        """
        self.size = size
        staying = [slot for slot in self.slots if not slot.is_leaving]
        for slot in [slot for slot in staying if slot.index in leaving]:
            self._leave(slot)
            staying.remove(slot)
        too_many = max(0, len(staying) - self._wanted)
        for slot in sorted(staying, key=lambda slot: (slot.is_open, -slot.index))[:too_many]:
            self._leave(slot)
            staying.remove(slot)
        for _ in range(self._wanted - len(staying)):
            self._fill()
        self._changed()

    async def call(self, method: str, args: tuple[Any, ...]) -> Any:
        """Call `method` on the least loaded actor that serves, ties going to the lower index; calls wait in order."""
        if self._failure is not None:
            raise self._failure
        call = Call(method, args, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._issue_waiting()
        return await call.done

    async def call_all(self, method: str, items: Sequence[Item], *, split: Split | None = None) -> list[Any]:
        """`call` with each tuple of arguments; results in the order of `items`; an error ends the others.

        Args:
            split: of an item that was given up the parts, which are called one by one; of one without parts the
                `CallGivenUp` stands among the results. None: it ends the others as any error.
        """
        if len(items) == 1:  # most calls of a run ahead; a task more would be for nothing
            return await self._in_parts(method, items[0], split)
        found = await self._all(self._in_parts(method, item, split) for item in items)
        return [one for of_item in found for one in of_item]

    async def _in_parts(self, method: str, item: Item, split: Split | None) -> list[Any]:
        try:
            return [await self.call(method, item)]
        except CallGivenUp as error:
            if split is None:
                raise
            parts = split(item)
            if len(parts) <= 1:
                return [error]
            return [one for part in parts for one in await self._in_parts(method, part, split)]

    async def _all(self, coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        calls = [asyncio.ensure_future(one) for one in coroutines]
        try:
            return list(await asyncio.gather(*calls))
        finally:
            # After an error or an interrupt the results still under way belong to nobody.
            for call in calls:
                call.cancel()

    async def call_each(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        """Call `method` once on every actor that is ready; results by index, without those of actors lost over it."""
        ready = [slot for slot in self.slots if slot.is_ready and not slot.is_leaving]
        calls = [Call(method, args, asyncio.get_running_loop().create_future(), losses=None) for _ in ready]
        for slot, call in zip(ready, calls, strict=True):
            self._issue(slot, call)
        results = await asyncio.gather(*(call.done for call in calls), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, self._actors.lost):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]

    def let_in(self, actor: Any) -> None:
        """It may get calls from now on; nothing where it was lost meanwhile."""
        for slot in self._slots_of(actor):
            slot.has_joined, slot.is_held = True, False
        self._changed()

    def set_aside(self, actor: Any) -> None:
        """It gets no more calls until it is let in again, as a joiner; those that it has go on."""
        for slot in self._slots_of(actor):
            slot.has_joined = False
        self._changed()

    async def drained(self, actor: Any) -> None:
        """It gets no more calls until it is let in again; done when those that it has have ended."""
        for slot in self._slots_of(actor):
            slot.is_held = True
        self._changed()
        await self.until(lambda: not any(slot.calls for slot in self._slots_of(actor)))

    def lose(self, actor: Any, error: Exception) -> None:
        """Replace an actor that somebody found to be of no more use; nothing where it has been replaced."""
        for slot in self._slots_of(actor):
            self._lose(slot, error)

    def is_whole(self) -> bool:
        """Every actor is ready, or as many as the pool can do with."""
        num_ready = sum(slot.is_ready and not slot.is_leaving for slot in self.slots)
        return num_ready >= (self._wanted if self.limits.min_size is None else self.limits.min_size)

    async def until(self, is_met: Callable[[], bool]) -> None:
        """Wait for what changes with the actors; raises what ended the pool."""
        while not is_met():
            if self._failure is not None:
                raise self._failure
            await self._news.wait()

    def take_busy_frac(self) -> float:
        """Share of the time since the last call of this in which an actor had something to do, a mean over those that
        serve."""
        now = _now()
        since = now if self._measured_from is None else self._measured_from
        busy_s = self._busy_s + sum(now - slot.busy_since for slot in self.slots if slot.calls)
        for slot in self.slots:
            slot.busy_since = now
        self._busy_s, self._measured_from = 0.0, now
        return min(1.0, busy_s / ((now - since) * len(self._servers))) if now > since and self._servers else 0.0

    def states(self) -> Mapping[int, str]:
        """Of each place what its actor does; of several that stand by, those that follow the serving ones."""
        states = {slot.index: slot.state for slot in self.slots}
        standing_by = {slot.index: "standing by" for slot in self.slots if slot.is_open and slot not in self._servers}
        return dict(sorted({**states, **standing_by}.items()))

    # What follows is its own.

    @property
    def _wanted(self) -> int:
        return self.size + self.standby

    def _slots_of(self, actor: Any) -> list[Slot]:
        return [slot for slot in self.slots if slot.actor == actor]

    def _fill(self) -> None:
        """In the lowest place that is free."""
        taken = {slot.index for slot in self.slots}
        index = next(index for index in range(len(taken) + 1) if index not in taken)
        slot = Slot(index, self._actors.create(index))
        self.slots = sorted([*self.slots, slot], key=lambda slot: slot.index)
        self._measured_from = _now() if self._measured_from is None else self._measured_from
        self._spawn(self._start(slot))
        self._watch(slot)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # The loop itself keeps no strong reference to its tasks.
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, slot: Slot) -> None:
        what = f"starting {self.name} worker {slot.index}"
        deadline_s = self.limits.start_deadline_s
        try:
            await self._actors.answer(self._actors.prepare(slot.actor), deadline_s=deadline_s, what=what)
        except self._actors.lost as error:
            self._lose(slot, error)
        except Exception as error:
            self._fail(error)
        else:
            self._failed_starts = 0
            slot.is_ready = True
            slot.has_joined = not self._holds_joiners
            self._watch(slot)
            self._changed()

    def _watch(self, slot: Slot) -> None:
        """Whether it lives, and gets anywhere: once while it gets ready, and once from then on."""
        if self._actors.has_pulse:
            self._spawn(self._serves(slot) if slot.is_ready else self._starts(slot))

    async def _starts(self, slot: Slot) -> None:
        # The first sign waits for the process, for which there is the deadline of its start.
        limit_s = self.limits.start_deadline_s
        while not slot.is_gone and not slot.is_ready:
            if await self._sign(slot, limit_s=limit_s) is None and not slot.is_ready:
                self._lose(slot, WorkerLost(f"no sign of life for {limit_s:g} s while it got ready"))
            limit_s = STARTING_SILENT_S

    async def _serves(self, slot: Slot) -> None:
        progress = Progress()
        while not slot.is_gone:
            pulse = await self._sign(slot, limit_s=SILENT_S)
            if pulse is None:
                self._lose(slot, WorkerLost(f"no sign of life for {SILENT_S:g} s"))
            elif (stalled_s := progress.stalled_s(pulse, _now())) >= STALLED_S:
                self._lose(slot, WorkerLost(f"at work, and got nowhere for {stalled_s:.0f} s"))
            elif spun_s := progress.spun_s(pulse):
                self._lose(slot, WorkerLost(f"its engine took {spun_s:.0f} s of processor time for no token"))

    async def _sign(self, slot: Slot, *, limit_s: float) -> Pulse | None:
        """None: there was none in time, or it is lost."""
        try:
            return await silence(self._actors.pulse(slot.actor), limit_s=limit_s)
        except self._actors.lost as error:
            self._lose(slot, error)
            return None

    def _issue_waiting(self) -> None:
        self._issue_suspects()
        while self._waiting and (slot := self._least_loaded()) is not None:
            call = self._waiting.popleft()
            if not call.done.done():
                self._issue(slot, call)

    def _issue_suspects(self) -> None:
        """Calls that are tried for the last time, one at a time, to an actor that has nothing else to do: what they had
        beside them before is not lost again, or given up, for their sake."""
        slot = self._reserved
        if slot is not None and (slot.is_gone or slot.is_leaving or not (slot.calls or self._suspects)):
            slot.is_reserved, self._reserved = False, None
            self._changed()
        elif slot is not None and self._suspects and slot.is_free_for_one:
            call = self._suspects.popleft()
            if not call.done.done():
                self._issue(slot, call)
            self._issue_suspects()
        elif slot is None and self._suspects and (slot := self._servers.least_loaded()) is not None:
            slot.is_reserved, self._reserved = True, slot
            self._changed()

    def _least_loaded(self) -> Slot | None:
        found = self._servers.least_loaded()
        return found if found is not None and len(found.calls) < self.limits.max_in_flight else None

    def _issue(self, slot: Slot, call: Call) -> None:
        if not slot.calls:
            slot.busy_since = _now()
        slot.calls[call] = self._spawn(self._perform(slot, call))
        self._servers.changed(slot)

    async def _perform(self, slot: Slot, call: Call) -> None:
        what = f"a call of {self.name} worker {slot.index}"
        try:
            ref = self._actors.begin(slot.actor, call.method, call.args)
            call.done.add_done_callback(
                lambda done: self._actors.cancel(ref) if done.cancelled() and not slot.is_gone else None
            )
            result = await self._actors.answer(ref, deadline_s=self.limits.call_deadline_s, what=what)
        except self._actors.lost as error:
            self._lose(slot, error)
        except Exception as error:
            call.fail(error)
        else:
            self._has_succeeded, self._given_up = True, 0
            call.succeed(result)
        finally:
            if slot.calls.pop(call, None) is not None:
                self._note_idle(slot)
                self._servers.changed(slot)
            self._issue_waiting()
            self._tell()

    def _note_idle(self, slot: Slot) -> None:
        if not slot.calls:
            self._busy_s += _now() - slot.busy_since

    def _lose(self, slot: Slot, error: Exception) -> None:
        """Its calls go to others at once, before all that wait; another actor is made in its place."""
        if slot.is_gone:
            return
        if self._actors.is_hopeless(error):
            self._fail(error)
            return
        was_ready = slot.is_ready
        self._remove(slot, error)
        if not slot.is_leaving:
            self.replacements += 1
            log.warning("%s worker %d was lost and is replaced: %s", self.name, slot.index, _reason(error))
            self._failed_starts += not was_ready
            if was_ready or self._failed_starts <= self.limits.max_losses:
                self._fill()
            else:
                self._do_without(error)
        self._changed()

    def _do_without(self, error: Exception) -> None:
        """No actor gets ready any more: the others go on where they are enough."""
        message = self._keep_failing(self._failed_starts, "before they were ready", error)
        serving, enough = len(self._servers), self.limits.min_size
        if enough is None or serving < enough:
            self._fail(RuntimeError(message))
            return
        log.warning("%s; going on with %d", message, serving)
        self._failed_starts = 0
        self.size = max(enough, self.size - 1)

    def _remove(self, slot: Slot, error: Exception) -> None:
        """End an actor; what it was doing is issued again."""
        slot.is_gone = True
        self._actors.kill(slot.actor)
        self.slots = [other for other in self.slots if other is not slot]
        self._servers = Servers([other for other in self._servers if other is not slot])
        calls, slot.calls = slot.calls, {}
        if calls:
            self._note_idle(slot)
        for call, task in reversed(calls.items()):
            if task is not asyncio.current_task():
                task.cancel()
            self._again(call, error, is_loss=not slot.is_leaving)

    def _again(self, call: Call, error: Exception, *, is_loss: bool) -> None:
        if call.done.done():
            return
        if call.losses is None:
            call.fail(error)
            return
        call.losses += is_loss
        if call.losses > self.limits.max_losses:
            self._give_up(call, self._keep_failing(call.losses, "over one call", error))
        elif self._failure is not None:
            call.fail(self._failure)
        elif call.losses >= self.limits.max_losses:
            self._suspects.append(call)
        else:
            self._waiting.appendleft(call)

    def _give_up(self, call: Call, message: str) -> None:
        """Its own fault while other calls succeed; else something is wrong that replacing does not mend."""
        self._given_up += 1
        if self._has_succeeded and self._given_up <= MAX_GIVEN_UP:
            log.warning("a call was given up: %s", message)
            call.fail(CallGivenUp(message))
        else:
            self._fail(RuntimeError(message))
            call.fail(self._failure or RuntimeError(message))

    def _leave(self, slot: Slot) -> None:
        slot.is_leaving = True
        self._spawn(self._retire(slot))

    async def _retire(self, slot: Slot) -> None:
        with suppress(Exception):  # the time is over, or the pool
            await asyncio.wait_for(self.until(lambda: not slot.calls or slot.is_gone), self.limits.leave_s)
        if not slot.is_gone:
            self._remove(slot, WorkerLost("it left the pool"))
            log.info("%s worker %d left", self.name, slot.index)
        self._changed()

    def _keep_failing(self, count: int, when: str, error: Exception) -> str:
        return f"{self.name} workers keep failing: {count} were lost {when}; the last error was {_reason(error)}"

    def _fail(self, error: Exception) -> None:
        """No actor will serve any more: everybody who waits is told."""
        self._failure = self._failure or error
        for waiting in (self._waiting, self._suspects):
            for call in waiting:
                call.fail(self._failure)
            waiting.clear()
        self._tell()

    def _changed(self) -> None:
        """Who serves: the lowest places among those that may; the others stand by."""
        self._servers = Servers([slot for slot in self.slots if slot.is_open][: self.size])
        self._issue_waiting()
        self._tell()

    def _tell(self) -> None:
        """Something changed that somebody may wait for."""
        self._news.set()
        self._news = asyncio.Event()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _reason(error: Exception) -> str:
    # Ray wraps what an actor raised.
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
