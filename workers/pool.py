"""Sets of like Ray actors: calls as futures, with deadlines, and replacement of the actors that are lost.

Rollout, reward and video workers are all driven through this file; what it decides stands in `dispatch.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import RayActorError

from videor2_rl.background import BackgroundLoop
from workers.dispatch import Dispatch, Item, Split
from workers.fetch import LOST, answer, fetch
from workers.liveness import HOLD_S, Pulse
from workers.memory import most
from workers.slots import Limits

MEMORY_WAIT_S = 1.0
"""A figure for the log is not worth more."""
PULSE = "pulse"
"""Concurrency group of an actor's signs of life: they come while all else in it works."""


def actor_class(worker: type) -> Any:
    """A class of Ray actors whose `pulse` answers beside whatever else goes on in them."""
    # Two: that of its start may still be open when the next one is asked for.
    options: dict[str, Any] = {"concurrency_groups": {PULSE: 2}}
    return ray.remote(**options)(worker)


class RayActors:
    """What `Dispatch` needs of Ray."""

    lost = LOST

    def __init__(
        self, name: str, create: Callable[[int], Any], prepare: Callable[[Any], Any], *, has_pulse: bool
    ) -> None:
        self.create = create
        self.prepare = prepare
        self.has_pulse = has_pulse
        self._name = name

    def begin(self, actor: Any, method: str, args: tuple[Any, ...]) -> Any:
        """A reference of a call's result."""
        return getattr(actor, method).remote(*args)

    async def answer(self, ref: Any, *, deadline_s: float | None, what: str) -> Any:
        """As `workers.fetch.answer`."""
        return await answer(ref, deadline_s=deadline_s, what=what)

    def cancel(self, ref: Any) -> None:
        """Whoever computes it may stop."""
        ray.cancel(ref)

    def kill(self, actor: Any) -> None:
        """End its process."""
        ray.kill(actor, no_restart=True)

    def is_hopeless(self, error: Exception) -> bool:
        """Its code or environment is wrong, and would be in a replacement."""
        return isinstance(error, RayActorError) and error.actor_init_failed

    async def pulse(self, actor: Any) -> Pulse:
        """After `HOLD_S`."""
        ref = actor.pulse.options(concurrency_group=PULSE).remote(HOLD_S)
        return await answer(ref, deadline_s=None, what=f"a sign of life of a {self._name} worker", counts=False)


class ActorPool:
    """Like actors that share out calls; any thread may use it, and what goes on in it goes on in one of its own.

    A lost actor (its process died, it raised `WorkerLost`, a call passed its deadline, it gave no sign of life or got
    nowhere) is killed and replaced, and its calls are issued again; they must therefore be repeatable. The replacement
    serves only when the reference given by `prepare` has resolved and, in a pool that holds its joiners, when its owner
    has let it in.
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
        leave_s: float = 60.0,
        holds_joiners: bool = False,
        max_in_flight: int = 1,
        max_losses: int = 3,
        min_size: int | None = None,
        standby: int = 0,
        has_pulse: bool = False,
    ) -> None:
        """Create the actors; they get ready in the background (`wait_ready`).

        Args:
            name: For messages, e.g. "rollout".
            size: Actors that serve.
            create: Place in the pool -> actor handle; must not block.
            prepare: Actor handle -> reference that resolves when the actor may serve, e.g. `actor.start.remote()`.
            call_deadline_s: Seconds that one call may take on an actor; None: no limit.
            start_deadline_s: Seconds from an actor's creation until it is ready.
            leave_s: Seconds for an actor that leaves to end its calls; what is left then is issued again.
            holds_joiners: An actor that got ready waits for `let_in`.
            max_in_flight: Calls per actor at a time.
            max_losses: Actors that may be lost over one call, or one after the other before they are ready.
            min_size: With so many the pool begins, and goes on where others never get ready; None: with all.
            standby: Further actors that are as ready, and take the place of a lost one at once.
            has_pulse: Actors have a method `pulse` in the concurrency group `PULSE`, which returns a `Pulse` after the
                seconds that it is given.
        """
        self.name = name
        limits = Limits(call_deadline_s, start_deadline_s, leave_s, max_in_flight, max_losses, min_size)
        actors = RayActors(name, create, prepare, has_pulse=has_pulse)
        self._dispatch = Dispatch(name, actors, limits, holds_joiners=holds_joiners, standby=standby)
        self._loop = BackgroundLoop(f"{name} pool")
        self._unanswered: dict[Any, Any] = {}
        self.resize(size)

    @property
    def size(self) -> int:
        """Actors that are to serve."""
        return self._dispatch.size

    @property
    def replacements(self) -> int:
        """Actors replaced since the pool was made."""
        return self._dispatch.replacements

    @property
    def actors(self) -> tuple[Any, ...]:
        """The handles at this moment."""
        return tuple(slot.actor for slot in self._dispatch.slots)

    @property
    def ready(self) -> tuple[Any, ...]:
        """Those that got ready and do not leave, let in or not."""
        return tuple(slot.actor for slot in self._dispatch.slots if slot.is_ready and not slot.is_leaving)

    @property
    def joiners(self) -> tuple[Any, ...]:
        """Those that got ready and wait for `let_in`."""
        slots = self._dispatch.slots
        return tuple(slot.actor for slot in slots if slot.is_ready and not slot.has_joined and not slot.is_leaving)

    def states(self) -> Mapping[int, str]:
        """Of each place in the pool what its actor does, in a word or two."""
        return self._loop.run(_done(self._dispatch.states))

    def resize(self, size: int, *, leaving: Sequence[int] = ()) -> None:
        """So many are to serve from now on; nothing is waited for.

        New ones get ready beside the others; those too many get no more calls, end those that they have, within a
        limit, and leave.

        Args:
            leaving: places whose actors leave first, whatever they do.
        """
        self._loop.run(_done(lambda: self._dispatch.resize(size, leaving=leaving)))

    def wait_ready(self) -> None:
        """Block until every actor is ready, or `min_size` of them.

        Raises:
            RuntimeError: they keep failing.
        """
        self._loop.run(self._dispatch.until(self._dispatch.is_whole))

    def let_in(self, actor: Any) -> None:
        """A joiner gets calls from now on; nothing where it was lost meanwhile."""
        self._loop.run(_done(lambda: self._dispatch.let_in(actor)))

    def set_aside(self, actor: Any) -> None:
        """An actor is a joiner again: no more calls until it is let in, while those that it has go on."""
        self._loop.run(_done(lambda: self._dispatch.set_aside(actor)))

    def drain(self, actor: Any) -> Future[None]:
        """An actor gets no more calls until it is let in again; done when those that it has have ended."""
        return self._loop.begin(self._dispatch.drained(actor))

    def submit(self, method: str, *args: Any) -> Future[Any]:
        """Call `method` on the least loaded actor that serves, ties going to the lower index; calls wait in order.

        The future raises CallGivenUp where this call costs too many actors, RuntimeError where actors keep failing
        whatever they are called for, else what the call raised.
        """
        return self._loop.begin(self._dispatch.call(method, args))

    def submit_all(self, method: str, items: Sequence[Item], *, split: Split | None = None) -> Future[list[Any]]:
        """Call `method` with each tuple of arguments; results in the order of `items`; an error ends the others.

        Args:
            split: as `Dispatch.call_all`.
        """
        return self._loop.begin(self._dispatch.call_all(method, items, split=split))

    def map(self, method: str, items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`submit_all`, waited for.

        Raises:
            RuntimeError: actors keep failing.
        """
        return self._loop.run(self._dispatch.call_all(method, items))

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call `method` once on every actor; results in slot order, without those of actors lost on the way.

        Returns when every actor has answered or its replacement is ready: it must by then have been brought to the
        state that the call leaves behind.
        """
        self.wait_ready()
        results = self._loop.run(self._dispatch.call_each(method, args))
        self.wait_ready()
        return results

    def lose(self, actor: Any, error: Exception) -> None:
        """Replace an actor that somebody else found to be of no more use; nothing where it has been replaced."""
        self._loop.run(_done(lambda: self._dispatch.lose(actor, error)))

    def answering(self, actors: Sequence[Any], method: str, *, within_s: float) -> tuple[Any, ...]:
        """Those of the actors that answer a call of `method` in time, in order; lost ones are replaced.

        One that says nothing is not waited for a second time: it counts again when that answer has come. One thread
        may ask.
        """
        if not actors:
            return ()
        asked = {actor: self._unanswered.get(actor) or getattr(actor, method).remote() for actor in actors}
        first = [ref for actor, ref in asked.items() if actor not in self._unanswered]
        if first:
            ray.wait(first, num_returns=len(first), timeout=within_s)
        done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=0)
        self._unanswered = {actor: ref for actor, ref in asked.items() if ref not in done}
        return tuple(actor for actor, ref in asked.items() if ref in done and self._has_answered(actor, ref, method))

    def replace_silent(self, method: str, *, deadline_s: float) -> None:
        """Call `method` on every actor that is ready, and replace those that do not answer in time or are lost."""
        asked = [(actor, getattr(actor, method).remote()) for actor in self.ready]
        ray.wait([ref for _, ref in asked], num_returns=len(asked), timeout=deadline_s)
        for actor, ref in asked:
            self._has_answered(actor, ref, method)

    def _has_answered(self, actor: Any, ref: Any, method: str) -> bool:
        """By now; an actor that has not is replaced."""
        try:
            fetch(ref, deadline_s=0, what=f"the {method} of a {self.name} worker", counts=False)
        except LOST as error:
            self.lose(actor, error)
            return False
        return True

    def busy_frac(self) -> float:
        """Share of the time since the last call of this in which an actor had something to do, a mean over actors."""
        return self._loop.run(_done(self._dispatch.take_busy_frac))

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
        for slot in self._dispatch.slots:
            ray.kill(slot.actor, no_restart=True)
        self._dispatch.slots = []


class PoolOwner:
    """What rollout, reward and video workers have in common for the rest of a run; whoever inherits sets `_pool`."""

    _pool: ActorPool

    @property
    def size(self) -> int:
        """Workers that are to serve."""
        return self._pool.size

    def states(self) -> Mapping[int, str]:
        """Of each worker what it does, in a word or two."""
        return self._pool.states()

    def resize(self, size: int, *, leaving: Sequence[int] = ()) -> None:
        """So many are to serve from now on; any thread may ask, and nothing is waited for.

        Args:
            leaving: numbers of workers that leave first.
        """
        self._pool.resize(size, leaving=leaving)

    def memory(self) -> dict[str, float]:
        """The most that one worker takes, in MiB by kind."""
        return self._pool.memory()


async def _done(function: Callable[[], Any]) -> Any:
    """What a function gives, in the thread of whoever runs this."""
    return function()
