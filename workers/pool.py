"""Sets of like Ray actors: ordered fan-out with deadlines, and replacement of the ones that are lost.

Rollout, reward and video workers are all driven through this file, and `fetch` is the only place where the driver takes
data out of Ray, so that it can count what it receives.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from videor2_rl.config.errors import ConfigError
from workers.memory import most

log = logging.getLogger(__name__)


class WorkerLost(RuntimeError):
    """Raised inside an actor that cannot serve any more (its engine died): the pool replaces the actor."""


class DeadlineExceeded(RuntimeError):
    """Something asked of a worker took longer than allowed; the message names it."""


MEMORY_WAIT_S = 1.0
"""A figure for the log is not worth more."""

LOST = (WorkerLost, DeadlineExceeded, RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)
"""What costs an actor. Every other exception is a fault of the request and reaches the caller."""


# --- taking data out of Ray ---------------------------------------------------------------------------------------


class _Received:
    """Bytes that arrived; several threads of the driver may fetch."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes

    def count(self, *, reset: bool) -> int:
        with self._lock:
            num_bytes = self._num_bytes
            if reset:
                self._num_bytes = 0
        return num_bytes


# One per process on purpose: it answers what this process received, whoever asked for it.
_RECEIVED = _Received()


def received_bytes() -> int:
    """Bytes that `fetch` brought into this process since the last reset."""
    return _RECEIVED.count(reset=False)


def reset_received_bytes() -> int:
    """Begin to count anew; returns `received_bytes()` as it was."""
    return _RECEIVED.count(reset=True)


class _Counter(io.RawIOBase):
    """A file that keeps nothing but its length."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def write(self, data: Any) -> int:
        num_bytes = memoryview(data).nbytes
        self.num_bytes += num_bytes
        return num_bytes


class _SizePickler(cloudpickle.CloudPickler):
    """Pickles without following object references: what they point to did not arrive here."""

    def persistent_id(self, obj: Any) -> str | None:
        return obj.hex() if isinstance(obj, ray.ObjectRef) else None


def pickled_size(value: Any) -> int:
    """Size of `value` in bytes as pickle protocol 5 moves it, out-of-band buffers included, references excluded."""
    file = _Counter()
    buffers: list[pickle.PickleBuffer] = []
    _SizePickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    return file.num_bytes + sum(buffer.raw().nbytes for buffer in buffers)


def fetch(refs: Any, *, deadline_s: float | None = None, what: str) -> Any:
    """`ray.get` with a deadline whose error names what was waited for; counts the bytes that arrive.

    Args:
        refs: One object reference or a list of them.
        deadline_s: Seconds to wait; None waits for ever.
        what: Named in the error, e.g. "the reward of 16 groups".

    Raises:
        DeadlineExceeded: nothing came in time.
        ConfigError: raised as it was in the worker, without Ray's wrapping.
    """
    try:
        value = ray.get(refs, timeout=deadline_s)
    except GetTimeoutError:
        raise DeadlineExceeded(f"{what} took longer than {deadline_s:g} s") from None
    except RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise error.cause from None
        raise
    _RECEIVED.add(pickled_size(value))
    return value


# --- actors -------------------------------------------------------------------------------------------------------


@dataclass
class _Slot:
    """One place in the pool and the actor that fills it now."""

    index: int
    actor: Any
    ready: Any
    """Reference that resolves when the actor may serve; None once it does."""
    ready_by: float
    calls: list[_Call] = field(default_factory=list)


@dataclass
class _Call:
    """One item on its way through an actor."""

    item: int
    ref: Any
    due: float


class ActorPool:
    """`size` like actors that share out work; the driver's ordinary object, its methods block.

    A lost actor (its process died, it raised `WorkerLost`, or a call passed its deadline) is killed and replaced, and
    what it worked on is issued again; items must therefore be repeatable. The replacement serves only when the
    reference given by `prepare` has resolved.
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
        admit: Callable[[Any], None] | None = None,
        max_in_flight: int = 1,
        max_replacements: int = 3,
    ) -> None:
        """Create the actors; they get ready in the background (`wait_ready`).

        Args:
            name: For messages, e.g. "rollout".
            create: Slot index -> actor handle; must not block.
            prepare: Actor handle -> reference that resolves when the actor may serve, e.g. `actor.start.remote()`.
            call_deadline_s: Seconds that one call may take; None: no limit.
            start_deadline_s: Seconds from an actor's creation until it is ready.
            admit: Called with each actor that got ready, before it serves; one of `LOST` from it costs the actor.
            max_in_flight: Calls per actor at a time.
            max_replacements: Actors replaced within one `map` or `broadcast` before it gives up.
        """
        self.name = name
        self.replacements = 0
        """Actors replaced since the pool was made."""
        self._create = create
        self._prepare = prepare
        self._admit = admit
        self._call_deadline_s = call_deadline_s
        self._start_deadline_s = start_deadline_s
        self._max_in_flight = max_in_flight
        self._max_replacements = max_replacements
        self._allowed = max_replacements
        self._slots = [self._fill(index) for index in range(size)]

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def actors(self) -> tuple[Any, ...]:
        """The handles at this moment."""
        return tuple(slot.actor for slot in self._slots)

    def wait_ready(self) -> None:
        """Block until every actor may serve."""
        self._allowed = self._max_replacements
        while any(slot.ready is not None for slot in self._slots):
            self._step({})

    def map(self, method: str, items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call `method` with each tuple of arguments on some actor; results in the order of `items`.

        Each item goes to the least loaded actor that is ready; ties go to the lower index.

        Raises:
            RuntimeError: more than `max_replacements` actors were lost on the way.
        """
        self._allowed = self._max_replacements
        todo = deque(range(len(items)))
        results: dict[int, Any] = {}
        with self._calls_end_here():
            while len(results) < len(items):
                while todo and (slot := self._least_loaded()) is not None:
                    item = todo.popleft()
                    self._call(slot, method, items[item], item=item)
                todo.extendleft(sorted(self._step(results), reverse=True))
        return [results[index] for index in range(len(items))]

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call `method` once on every actor; results in slot order, without those of actors lost on the way.

        Returns when every actor has answered or its replacement is ready: `prepare` must by then bring a new actor to
        the state that the call leaves behind.
        """
        self.wait_ready()
        results: dict[int, Any] = {}
        with self._calls_end_here():
            for slot in self._slots:
                self._call(slot, method, args, item=slot.index)
            while any(slot.calls for slot in self._slots):
                self._step(results)
        self.wait_ready()
        return [results[index] for index in sorted(results)]

    def lose(self, actor: Any, error: Exception) -> None:
        """Replace an actor that somebody else found to be of no more use; nothing where it has been replaced.

        Raises:
            RuntimeError: too many were replaced since the last call of another method.
        """
        for slot in list(self._slots):
            if slot.actor == actor:
                self._replace(slot, error)

    def replace_silent(self, method: str, *, deadline_s: float) -> None:
        """Call `method` on every actor that serves, and replace those that do not answer in time or are lost."""
        asked = [(slot.actor, getattr(slot.actor, method).remote()) for slot in self._slots if slot.ready is None]
        ray.wait([ref for _, ref in asked], num_returns=len(asked), timeout=deadline_s)
        for actor, ref in asked:
            try:
                fetch(ref, deadline_s=0, what=f"the {method} of a {self.name} worker")
            except LOST as error:
                self.lose(actor, error)

    def memory(self) -> dict[str, float]:
        """The most that one actor takes, in MiB by kind; one that is busy, getting ready or lost says nothing."""
        refs = [slot.actor.memory.remote() for slot in self._slots if slot.ready is None]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=MEMORY_WAIT_S) if refs else ([], [])
        memories = []
        for ref in done:
            # The next call that needs the actor deals with its loss.
            with contextlib.suppress(*LOST):
                memories.append(fetch(ref, what=f"the memory of a {self.name} worker"))
        return most(memories)

    def shutdown(self) -> None:
        """Kill the actors; what they still worked on is lost."""
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots = []

    def _fill(self, index: int) -> _Slot:
        actor = self._create(index)
        return _Slot(index, actor, self._prepare(actor), time.monotonic() + self._start_deadline_s)

    @contextlib.contextmanager
    def _calls_end_here(self) -> Iterator[None]:
        """After an error or an interrupt the results still under way belong to nobody."""
        try:
            yield
        finally:
            for slot in self._slots:
                for call in slot.calls:
                    ray.cancel(call.ref)
                slot.calls.clear()

    def _least_loaded(self) -> _Slot | None:
        free = [slot for slot in self._slots if slot.ready is None and len(slot.calls) < self._max_in_flight]
        return min(free, key=lambda slot: (len(slot.calls), slot.index), default=None)

    def _call(self, slot: _Slot, method: str, args: tuple[Any, ...], *, item: int) -> None:
        due = float("inf") if self._call_deadline_s is None else time.monotonic() + self._call_deadline_s
        slot.calls.append(_Call(item, getattr(slot.actor, method).remote(*args), due))

    def _step(self, results: dict[int, Any]) -> list[int]:
        """Wait until something happens; put finished items into `results` and return the items of lost actors."""
        waiting = [(slot.ready, slot.ready_by) for slot in self._slots if slot.ready is not None]
        waiting += [(call.ref, call.due) for slot in self._slots for call in slot.calls]
        due = min(when for _, when in waiting)
        timeout_s = None if due == float("inf") else max(0.0, due - time.monotonic())
        done, _ = ray.wait([ref for ref, _ in waiting], num_returns=1, timeout=timeout_s)
        again: list[int] = []
        for slot in list(self._slots):
            try:
                self._collect(slot, set(done), results)
            except LOST as error:
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    raise  # its code or environment is wrong, and would be in a replacement
                again += [call.item for call in slot.calls]
                self._replace(slot, error)
        return again

    def _collect(self, slot: _Slot, done: set[Any], results: dict[int, Any]) -> None:
        """Take in what `slot` finished; raises one of `LOST` when its actor is of no more use."""
        now = time.monotonic()
        if slot.ready is not None:
            if slot.ready in done:
                fetch(slot.ready, what=f"starting {self.name} worker {slot.index}")
                if self._admit is not None:
                    self._admit(slot.actor)
                slot.ready = None
            elif now > slot.ready_by:
                raise DeadlineExceeded(f"the start took longer than {self._start_deadline_s:g} s")
        for call in list(slot.calls):
            if call.ref in done:
                results[call.item] = fetch(call.ref, what=f"{self.name} worker {slot.index}")
                slot.calls.remove(call)
            elif now > call.due:
                raise DeadlineExceeded(f"a call took longer than {self._call_deadline_s:g} s")

    def _replace(self, slot: _Slot, error: Exception) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        ray.kill(slot.actor, no_restart=True)
        if self._allowed == 0:
            raise RuntimeError(
                f"{self.name} workers keep failing: {self._max_replacements} were replaced, then worker {slot.index} "
                f"was lost too; the last error was {reason}"
            ) from error
        self._allowed -= 1
        self.replacements += 1
        log.warning("%s worker %d was lost and is replaced: %s", self.name, slot.index, reason)
        self._slots[slot.index] = self._fill(slot.index)
