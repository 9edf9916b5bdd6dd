"""What a pool decides, in virtual time: losses, workers that stand by, growing and shrinking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual_time import VirtualLoop
from workers.dispatch import MAX_GIVEN_UP, Dispatch
from workers.errors import CallGivenUp, DeadlineExceeded, WorkerLost
from workers.liveness import HOLD_S, SILENT_S, SPIN_S, STALLED_S, STARTING_SILENT_S, Pulse
from workers.slots import Limits

CALL_S, START_S = 5.0, 20.0


@dataclass(eq=False)
class Worker:
    """Answers each call after `CALL_S`, while it lives."""

    number: int
    pulse: Pulse = field(default_factory=Pulse)
    is_frozen: bool = False
    open: list[asyncio.Future[Any]] = field(default_factory=list)
    calls: int = 0


class Fakes:
    """`workers.slots.Actors`: every one made is kept, in order."""

    lost = (WorkerLost, DeadlineExceeded)
    has_pulse = True

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.made: list[Worker] = []
        self.killed: list[Worker] = []
        self.fail_starts = 0
        self.is_fatal: Callable[[tuple[Any, ...]], bool] = lambda args: args[0] == -1
        """Of a call's arguments: its worker dies over it."""

    def create(self, index: int) -> Worker:
        self.made.append(Worker(len(self.made)))
        return self.made[-1]

    def _after(self, worker: Worker, seconds: float, value: Callable[[], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        worker.open.append(future)

        def arrive() -> None:
            if not future.done() and not worker.is_frozen:
                future.set_result(value())

        self._loop.call_later(seconds, arrive)
        return future

    def prepare(self, actor: Worker) -> asyncio.Future[Any]:
        if self.fail_starts:
            self.fail_starts -= 1
            failed: asyncio.Future[Any] = self._loop.create_future()
            failed.set_exception(WorkerLost("no memory"))
            return failed
        return self._after(actor, START_S, lambda: None)

    def begin(self, actor: Worker, method: str, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        actor.calls += 1
        if self.is_fatal(args):
            self._loop.call_later(1.0, lambda: self.die(actor))
        return self._after(actor, CALL_S, lambda: (args[0], actor.number))

    async def answer(self, ref: asyncio.Future[Any], *, deadline_s: float | None, what: str) -> Any:
        try:
            return await asyncio.wait_for(ref, deadline_s)
        except TimeoutError:
            raise DeadlineExceeded(what) from None

    def cancel(self, ref: asyncio.Future[Any]) -> None:
        pass

    def kill(self, actor: Worker) -> None:
        self.killed.append(actor)

    def is_hopeless(self, error: Exception) -> bool:
        return False

    async def pulse(self, actor: Worker) -> Pulse:
        return await self._after(actor, HOLD_S, lambda: actor.pulse)

    def die(self, worker: Worker) -> None:
        for future in worker.open:
            if not future.done():
                future.set_exception(WorkerLost("its process died"))


class Driven:
    """A pool, its workers and the clock."""

    def __init__(self, loop: VirtualLoop, **options: Any) -> None:
        self.loop = loop
        self.actors = Fakes(loop)
        standby = options.pop("standby", 0)
        limits = Limits(**{"call_deadline_s": None, "start_deadline_s": 600.0, **options})
        self.pool = Dispatch("fake", self.actors, limits, holds_joiners=False, standby=standby)

    def start(self, size: int) -> None:
        self.loop.do(lambda: self.pool.resize(size))
        self.loop.wait(START_S + 1)

    def begin(self, *values: int) -> list[asyncio.Task[Any]]:
        return self.loop.do(lambda: [self.loop.create_task(self.pool.call("work", (value,))) for value in values])

    def finish(self, calls: list[asyncio.Task[Any]]) -> list[Any]:
        return self.loop.run_until_complete(asyncio.gather(*calls))

    def resize(self, size: int, *leaving: int) -> None:
        self.loop.do(lambda: self.pool.resize(size, leaving=leaving))


@pytest.fixture
def drive() -> Iterator[Callable[..., Driven]]:
    with closing(VirtualLoop(counts_cpu=False)) as loop:
        yield lambda **options: Driven(loop, **options)


def test_the_calls_of_a_frozen_worker_are_done_by_another_within_ten_seconds(drive: Callable[..., Driven]) -> None:
    one = drive()
    one.start(2)
    calls = one.begin(1, 2)
    one.loop.wait(0.1)
    one.actors.made[0].is_frozen = True
    began = one.loop.time()
    assert one.finish(calls) == [(1, 1), (2, 1)]
    # Noticed, and sampled anew by the worker that was free.
    assert one.loop.time() - began < 10 + CALL_S
    assert (one.pool.replacements, one.actors.killed) == (1, [one.actors.made[0]])


def test_who_freezes_while_it_gets_ready_is_replaced_long_before_its_deadline(drive: Callable[..., Driven]) -> None:
    one = drive(start_deadline_s=1800.0)
    one.loop.do(lambda: one.pool.resize(1))
    one.loop.wait(START_S / 2)
    one.actors.made[0].is_frozen = True
    one.loop.wait(STARTING_SILENT_S + 5)
    assert one.pool.replacements == 1
    one.loop.wait(START_S)
    assert one.pool.states() == {0: "serving"}


def test_a_dead_worker_is_noticed_though_nobody_asks_anything_of_it(drive: Callable[..., Driven]) -> None:
    one = drive()
    one.start(2)
    one.actors.die(one.actors.made[1])
    one.loop.wait(0.01)
    assert one.pool.replacements == 1 and one.pool.states() == {0: "serving", 1: "starting"}


@pytest.mark.parametrize(
    ("pulses", "is_lost"),
    [
        (lambda second: Pulse(True, progress=0, cpu_s=1.0), True),
        (lambda second: Pulse(True, progress=int(second)), False),
        (lambda second: Pulse(True, cpu_s=second), False),
        (lambda second: Pulse(False), False),
    ],
)
def test_who_answers_but_gets_nowhere_with_its_work_is_lost_and_nobody_else_in_an_hour(
    drive: Callable[..., Driven], pulses: Callable[[float], Pulse], is_lost: bool
) -> None:
    one = drive()
    one.start(1)
    worker, began = one.actors.made[0], one.loop.time()
    while one.loop.time() < began + 3600 and not one.pool.replacements:
        worker.pulse = pulses(one.loop.time())
        one.loop.wait(1.0)
    assert bool(one.pool.replacements) == is_lost
    assert not is_lost or one.loop.time() - began <= STALLED_S + 2 * HOLD_S + 1 < SILENT_S + 4


def test_an_engine_that_works_and_brings_no_token_any_more_is_lost(drive: Callable[..., Driven]) -> None:
    one = drive()
    one.start(1)
    worker, began = one.actors.made[0], one.loop.time()
    while one.loop.time() < began + 60 and not one.pool.replacements:
        seconds = one.loop.time() - began
        worker.pulse = Pulse(True, progress=int(min(seconds, 20)), cpu_s=seconds, worked_s=seconds)
        one.loop.wait(1.0)
    assert one.pool.replacements == 1
    assert 20 < one.loop.time() - began <= 20 + SPIN_S + 2 * HOLD_S + 1


def test_a_worker_that_stands_by_gets_nothing_until_one_is_lost_and_then_at_once(drive: Callable[..., Driven]) -> None:
    one = drive(standby=1)
    one.start(2)
    assert one.pool.states() == {0: "serving", 1: "serving", 2: "standing by"}
    assert {number for _, number in one.finish(one.begin(*range(8)))} == {0, 1}
    calls = one.begin(1, 2)
    one.loop.wait(0.1)
    one.actors.die(one.actors.made[0])
    one.loop.wait(0.1)
    assert one.actors.made[2].calls == 1
    assert one.pool.states() == {0: "starting", 1: "serving", 2: "serving"}
    assert one.finish(calls) == [(1, 2), (2, 1)]
    one.loop.wait(START_S)
    assert one.pool.states() == {0: "serving", 1: "serving", 2: "standing by"}


def test_a_pool_grows_and_any_worker_leaves_when_it_has_ended_its_calls(drive: Callable[..., Driven]) -> None:
    one = drive()
    one.start(1)
    calls = one.begin(*range(6))
    one.resize(3)
    one.loop.wait(START_S + 1)
    assert set(one.pool.states().values()) == {"serving"} and len(one.actors.made) == 3
    calls += one.begin(*range(6, 9))
    one.loop.wait(0.1)
    one.resize(2, 0)
    assert one.pool.states()[0] == "leaving" and one.actors.killed == []
    assert [value for value, _ in one.finish(calls)] == list(range(9))
    one.loop.wait(0.1)
    assert one.pool.states() == {1: "serving", 2: "serving"}
    assert (one.actors.killed, one.pool.replacements) == ([one.actors.made[0]], 0)
    # The place is free for the next one.
    one.resize(3)
    assert one.pool.states()[0] == "starting"


def test_a_leaving_worker_that_does_not_end_gives_its_calls_to_others(drive: Callable[..., Driven]) -> None:
    one = drive(leave_s=2.0)
    one.start(2)
    calls = one.begin(1, 2)
    one.loop.wait(0.1)
    one.resize(1, 0)
    assert one.finish(calls) == [(1, 1), (2, 1)]
    assert one.pool.replacements == 0


def test_those_that_do_not_serve_yet_leave_first(drive: Callable[..., Driven]) -> None:
    one = drive()
    one.start(2)
    one.resize(3)
    one.resize(2)
    one.loop.wait(0.1)
    assert one.pool.states() == {0: "serving", 1: "serving"}


def test_with_enough_that_serve_it_goes_on_where_others_never_get_ready(drive: Callable[..., Driven]) -> None:
    one = drive(min_size=1)
    one.start(1)
    one.actors.fail_starts = 99
    one.resize(2)
    one.loop.wait(1)
    assert one.pool.states() == {0: "serving"} and one.pool.size == 1
    assert one.finish(one.begin(5)) == [(5, 0)]


@pytest.mark.parametrize("size", [1, 3])
def test_a_call_that_ends_its_workers_is_given_up_and_none_that_it_shared_them_with(
    drive: Callable[..., Driven], size: int
) -> None:
    one = drive(max_in_flight=4, standby=1)
    one.start(size)
    [fatal] = one.begin(-1)
    others = one.begin(*range(40))
    assert [value for value, _ in one.finish(others)] == list(range(40))
    with pytest.raises(CallGivenUp, match=r"4 were lost over one call.*its process died"):
        one.loop.run_until_complete(fatal)
    # Three times with others beside it, then alone.
    assert len(one.actors.killed) == one.pool.replacements == 4
    one.loop.wait(2 * START_S)
    assert sorted(one.pool.states().values()) == sorted(["serving"] * size + ["standing by"])
    # The one that was kept for it serves as all do.
    later = one.begin(*range(4 * size))
    one.loop.wait(CALL_S + 1)
    assert all(call.done() for call in later)


def test_of_a_call_for_several_that_is_given_up_all_are_answered_but_the_one(drive: Callable[..., Driven]) -> None:
    one = drive()
    one.start(2)
    one.finish(one.begin(0))

    def split(item: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return [(value,) for value in item]

    one.actors.is_fatal = lambda args: 7 in args
    done = one.loop.run_until_complete(one.pool.call_all("work", [(5, 6, 7, 8), (9,)], split=split))
    assert [found if isinstance(found, CallGivenUp) else found[0] for found in done[:2]] == [5, 6]
    assert isinstance(done[2], CallGivenUp) and [found[0] for found in done[3:]] == [8, 9]


def test_calls_that_are_given_up_one_after_the_other_end_the_pool(drive: Callable[..., Driven]) -> None:
    one = drive()
    one.start(2)
    one.finish(one.begin(0))
    one.actors.is_fatal = lambda args: True
    calls = one.begin(1, 2, 3, 4)
    one.loop.wait(40 * START_S)
    errors = [call.exception() for call in calls]
    assert [type(error) for error in errors].count(CallGivenUp) == MAX_GIVEN_UP
    assert {type(error) for error in errors} == {CallGivenUp, RuntimeError}
    with pytest.raises(RuntimeError, match="4 were lost over one call"):
        one.finish(one.begin(5))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.1, 30), st.sampled_from(["die", "freeze", "resize", "leave"]), st.integers(0, 5)),
        max_size=12,
    )
)
def test_whatever_happens_every_call_is_answered_once(faults: list[tuple[float, str, int]]) -> None:
    with closing(VirtualLoop(counts_cpu=False)) as loop:
        # Who stands still before its first sign of life is found by the deadline of its start.
        one = Driven(loop, max_in_flight=2, max_losses=99, leave_s=3.0, start_deadline_s=60.0)
        one.start(2)
        calls = one.begin(*range(40))
        for wait_s, fault, number in faults:
            loop.wait(wait_s)
            living = [slot for slot in one.pool.slots if not slot.actor.is_frozen]
            slot = living[number % len(living)] if living else None
            if fault == "resize":
                one.resize(1 + number % 4)
            elif slot is not None and fault == "leave":
                one.resize(max(1, one.pool.size), slot.index)
            elif slot is not None and fault == "freeze":
                slot.actor.is_frozen = True
            elif slot is not None:
                one.actors.die(slot.actor)
        assert [value for value, _ in one.finish(calls)] == list(range(40))
        loop.wait(4 * SILENT_S + 2 * START_S + 2 * STARTING_SILENT_S)
        assert list(one.pool.states().values()) == ["serving"] * one.pool.size
