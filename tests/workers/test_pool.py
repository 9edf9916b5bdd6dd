"""The actor pool: order, faults and deadlines, with plain actors; and what counts as received."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle
from ray.exceptions import RayTaskError

from videor2_rl.config.errors import ConfigError
from workers.fetch import (
    DeadlineExceeded,
    WorkerLost,
    fetch,
    pickled_size,
    received_bytes,
    reset_received_bytes,
)
from workers.liveness import SILENT_S, Pulse, pulse_after
from workers.pool import ActorPool, actor_class


def test_the_size_of_an_array_is_its_buffer_and_little_more() -> None:
    array = np.zeros(1_000_000, dtype=np.uint8)
    assert 1_000_000 <= pickled_size(array) < 1_001_000
    assert 2_000_000 <= pickled_size([array, array.copy()]) < 2_002_000


def test_the_size_of_text_is_its_length_and_little_more() -> None:
    assert 10_000 <= pickled_size({"text": "x" * 10_000}) < 10_200


# --- without Ray ----------------------------------------------------------------------------------------------------


class Reference:
    """What a call of a `Fake` gives: a future that somebody resolves, or that is done at once."""

    def __init__(self, result: Any, *, done: bool = True) -> None:
        self._result: Future[Any] = Future()
        self._value = result
        if done:
            self.arrive()

    def arrive(self) -> None:
        if isinstance(self._value, Exception):
            self._result.set_exception(self._value)
        else:
            self._result.set_result(self._value)

    def future(self) -> Future[Any]:
        return self._result


@dataclass
class FakeRay:
    """Keeps the references of calls under way, by actor, and notes who was killed."""

    held: list[tuple[int, Reference]] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    cancelled: list[Reference] = field(default_factory=list)

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        self.killed.append(actor.index)

    def cancel(self, ref: Reference) -> None:
        self.cancelled.append(ref)


class Fake:
    """An actor: `echo` is done at once, `hold` when the test says so, `lose` is the death of it."""

    def __init__(self, index: int, ray: FakeRay) -> None:
        self.index = index
        self.start = self.echo = self.lose = SimpleNamespace(remote=lambda value=None: Reference(value))
        self.hold = SimpleNamespace(remote=self._hold)
        self._ray = ray

    def _hold(self, value: Any) -> Reference:
        ref = Reference(value, done=False)
        self._ray.held.append((self.index, ref))
        return ref


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    for name in ("kill", "cancel"):
        monkeypatch.setattr(ray, name, getattr(fake, name))
    return fake


@pytest.fixture
def fake_pool(fake_ray: FakeRay) -> Iterator[Callable[..., ActorPool]]:
    pools = []

    def make(size: int, **options: Any) -> ActorPool:
        pool = ActorPool(
            "fake",
            size=size,
            create=lambda index: Fake(index, fake_ray),
            prepare=lambda actor: actor.start.remote(),
            call_deadline_s=None,
            start_deadline_s=60.0,
            **options,
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.shutdown()


def eventually(is_met: Callable[[], bool]) -> None:
    due = time.monotonic() + 30
    while not is_met():
        assert time.monotonic() < due
        time.sleep(0.001)


def test_results_keep_the_order_of_the_items_whichever_is_done_first_and_are_counted(
    fake_pool: Callable[..., ActorPool], fake_ray: FakeRay
) -> None:
    pool = fake_pool(3, max_in_flight=2)
    pool.wait_ready()
    reset_received_bytes()
    items = [b"a" * 1000, b"b" * 2000, b"c" * 3000, b"d" * 4000]
    calls = [pool.submit("hold", item) for item in items]
    eventually(lambda: len(fake_ray.held) == 4)
    for _, ref in reversed(fake_ray.held):
        ref.arrive()
    assert [call.result(timeout=30) for call in calls] == items
    # A pickle of bytes adds a header of less than 30.
    assert 10_000 <= received_bytes() < 10_000 + 4 * 30


@pytest.mark.parametrize(("options", "at_once"), [({}, 1), ({"max_in_flight": 2}, 2)])
def test_an_actor_has_one_call_at_a_time_unless_more_are_allowed(
    options: dict[str, int], at_once: int, fake_pool: Callable[..., ActorPool], fake_ray: FakeRay
) -> None:
    pool = fake_pool(2, **options)
    pool.wait_ready()
    calls = [pool.submit("hold", number) for number in range(9)]
    for done in range(9):
        under_way = min(2 * at_once, 9 - done)
        eventually(lambda under_way=under_way: len(fake_ray.held) == under_way)  # type: ignore[misc]
        assert max(Counter(index for index, _ in fake_ray.held).values()) <= at_once
        fake_ray.held.pop(0)[1].arrive()
    assert [call.result(timeout=30) for call in calls] == list(range(9))


@pytest.mark.parametrize(("options", "allowed"), [({}, 3), ({"max_losses": 1}, 1)])
def test_so_many_actors_may_be_lost_over_one_call(
    options: dict[str, int], allowed: int, fake_pool: Callable[..., ActorPool], fake_ray: FakeRay
) -> None:
    pool = fake_pool(1, **options)
    with pytest.raises(RuntimeError, match=f"keep failing: {allowed + 1} were lost over one call.*WorkerLost: died"):
        pool.map("lose", [(WorkerLost("died"),)])
    assert (pool.replacements, fake_ray.killed) == (allowed + 1, [0] * (allowed + 1))


def test_actors_that_never_get_ready_end_the_wait_of_everybody(fake_ray: FakeRay) -> None:
    pool = ActorPool(
        "fake",
        size=2,
        create=lambda index: Fake(index, fake_ray),
        prepare=lambda actor: actor.start.remote(WorkerLost("no memory")),
        call_deadline_s=None,
        start_deadline_s=60.0,
    )
    for wait in (pool.wait_ready, lambda: pool.submit("echo", 1).result(timeout=30)):
        with pytest.raises(RuntimeError, match=r"4 were lost before they were ready; the last error.*no memory"):
            wait()
    pool.shutdown()


def test_a_timeout_that_a_worker_raises_is_its_own_and_costs_no_actor(fake_pool: Callable[..., ActorPool]) -> None:
    pool = fake_pool(1)
    raised = RayTaskError("echo", "the server took its time", TimeoutError()).as_instanceof_cause()
    assert isinstance(raised, TimeoutError)
    with pytest.raises(TimeoutError, match="the server took its time"):
        pool.map("echo", [(raised,)])
    assert pool.replacements == 0


def test_a_joiner_gets_nothing_before_it_is_let_in(fake_pool: Callable[..., ActorPool], fake_ray: FakeRay) -> None:
    pool = fake_pool(2, holds_joiners=True)
    pool.wait_ready()
    call = pool.submit("hold", 1)
    first, second = pool.joiners
    pool.let_in(second)
    eventually(lambda: len(fake_ray.held) == 1)
    assert fake_ray.held[0][0] == second.index and pool.joiners == (first,)
    fake_ray.held[0][1].arrive()
    assert call.result(timeout=30) == 1


def test_a_call_that_nobody_wants_any_more_is_cancelled_and_frees_its_place(
    fake_pool: Callable[..., ActorPool], fake_ray: FakeRay
) -> None:
    pool = fake_pool(1)
    pool.wait_ready()
    unwanted, waiting, wanted = pool.submit("hold", 1), pool.submit("hold", 2), pool.submit("hold", 3)
    eventually(lambda: len(fake_ray.held) == 1)
    unwanted.cancel(), waiting.cancel()
    eventually(lambda: fake_ray.cancelled == [fake_ray.held[0][1]])
    fake_ray.held[0][1].arrive()
    eventually(lambda: len(fake_ray.held) == 2)
    fake_ray.held[1][1].arrive()
    assert wanted.result(timeout=30) == 3


def test_how_busy_the_actors_were_is_a_mean_over_them(fake_pool: Callable[..., ActorPool], fake_ray: FakeRay) -> None:
    pool = fake_pool(2)
    pool.wait_ready()
    pool.busy_frac()
    assert pool.busy_frac() == 0
    call = pool.submit("hold", 1)
    eventually(lambda: len(fake_ray.held) == 1)
    pool.busy_frac()
    time.sleep(0.05)
    assert pool.busy_frac() == pytest.approx(0.5)
    fake_ray.held[0][1].arrive()
    call.result(timeout=30)


# --- with Ray -------------------------------------------------------------------------------------------------------


class Echo:
    """Misbehaves on request."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.state = "made"

    def start(self, state: str) -> None:
        self.state = state

    def pulse(self, hold_s: float) -> Pulse:
        return pulse_after(hold_s)

    def pid(self) -> int:
        return os.getpid()

    def echo(self, value: Any) -> Any:
        return value

    def where(self, sleep_s: float) -> tuple[int, str]:
        time.sleep(sleep_s)
        return self.index, self.state

    def set(self, state: str) -> str:
        self.state = state
        return self.state

    def once(self, marker: str, fault: str) -> str:
        """The first caller meets the fault, whoever asks again gets an answer."""
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return f"{fault} {self.state}"
        self.always(fault)
        return "not reached"

    def always(self, fault: str) -> None:
        if fault == "exit":
            os._exit(1)
        if fault == "lost":
            raise WorkerLost("the engine died")
        if fault == "hang":
            time.sleep(600)
        if fault == "config":
            raise ConfigError("row 3: mend it")
        raise ZeroDivisionError(fault)


PoolMaker = Callable[..., ActorPool]


@pytest.fixture(scope="module")
def make_pool(ray_cluster: None) -> Iterator[PoolMaker]:
    # Workers cannot import test modules.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pools = []

    def make(size: int, *, state: list[str] | None = None, **options: Any) -> ActorPool:
        echo: Any = actor_class(Echo)
        settings: dict[str, Any] = {"call_deadline_s": 30.0, "start_deadline_s": 60.0}
        pool = ActorPool(
            "echo",
            size=size,
            create=lambda index: echo.options(num_cpus=0.1).remote(index),
            prepare=lambda actor: actor.start.remote((state or ["ready"])[0]),
            **{**settings, **options},
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def pair(make_pool: PoolMaker) -> ActorPool:
    """Two actors for the tests that lose none."""
    pool = make_pool(2, max_in_flight=2)
    pool.wait_ready()
    return pool


@pytest.mark.ray
def test_results_come_in_the_order_of_the_items_and_count_as_received(pair: ActorPool) -> None:
    reset_received_bytes()
    arrays = [(np.full(1000 * (9 - index), index, dtype=np.uint8),) for index in range(9)]
    results = pair.map("echo", arrays)
    assert [int(array[0]) for array in results] == list(range(9))
    total = sum(len(array) for (array,) in arrays)
    received = received_bytes()
    assert total <= received < total + 9 * 500
    assert reset_received_bytes() == received
    assert received_bytes() == 0
    assert pair.map("echo", []) == []


@pytest.mark.ray
def test_what_a_reference_points_to_is_not_received(pair: ActorPool) -> None:
    ref = ray.put(np.zeros(1_000_000, dtype=np.uint8))
    reset_received_bytes()
    pair.map("echo", [([ref],)])
    assert received_bytes() < 1000


@pytest.mark.ray
def test_a_free_actor_takes_the_next_item(pair: ActorPool) -> None:
    served = [index for index, _ in pair.map("where", [(3.0,), (0.0,), (0.0,), (0.0,), (0.0,)])]
    assert served[:3] == [0, 1, 0]  # the least loaded first, ties to the lower index
    assert served[3:] == [1, 1]  # actor 0 is busy with its two


@pytest.mark.ray
@pytest.mark.parametrize("fault", ["exit", "lost", "hang"])
def test_items_of_a_lost_actor_are_done_by_its_prepared_replacement(
    make_pool: PoolMaker, tmp_path: Any, fault: str
) -> None:
    state = ["old"]
    pool = make_pool(1, state=state, call_deadline_s=3.0, max_in_flight=2)
    pool.wait_ready()
    state[0] = "new"
    answers = pool.map("once", [(str(tmp_path / "marker"), fault), (str(tmp_path / "marker"), fault)])
    assert set(answers) <= {f"{fault} new", f"{fault} old"}
    assert f"{fault} new" in answers
    assert pool.replacements == 1


@pytest.mark.ray
def test_a_frozen_actor_is_noticed_and_ended_and_a_busy_one_is_not(make_pool: PoolMaker) -> None:
    """One hangs in the middle of a call, which has no deadline; the other works for longer than a silence may last."""
    pool = make_pool(2, call_deadline_s=None, has_pulse=True)
    pool.wait_ready()
    frozen, busy = pool.map("pid", [(), ()])
    assert frozen != busy
    calls = [pool.submit("where", 2 * SILENT_S) for _ in range(2)]
    time.sleep(0.5)
    os.kill(frozen, signal.SIGSTOP)
    assert len([call.result(timeout=300) for call in calls]) == 2
    assert pool.replacements == 1
    # Ray ends a process that does not end by itself.
    eventually(lambda: not Path(f"/proc/{frozen}").exists())


@pytest.mark.ray
def test_the_pool_gives_up_when_replacements_keep_failing(make_pool: PoolMaker) -> None:
    pool = make_pool(1, max_losses=1)
    with pytest.raises(RuntimeError, match=r"echo workers keep failing: 2 were lost.*WorkerLost: the engine died"):
        pool.map("always", [("lost",)])
    assert pool.replacements == 2


@pytest.mark.ray
def test_an_error_of_the_item_reaches_the_caller_and_costs_no_actor(pair: ActorPool) -> None:
    with pytest.raises(ZeroDivisionError):
        pair.map("always", [("zero",), ("zero",), ("zero",)])
    assert pair.map("echo", [(1,), (2,)]) == [1, 2]  # nothing of the failed call is left over
    assert pair.replacements == 0


@pytest.mark.ray
def test_a_configuration_error_arrives_as_its_one_sentence(pair: ActorPool) -> None:
    with pytest.raises(ConfigError) as error:
        pair.map("always", [("config",)])
    assert str(error.value) == "row 3: mend it"


@pytest.mark.ray
def test_a_broadcast_reaches_every_actor_and_replacements_get_the_new_state(make_pool: PoolMaker) -> None:
    state = ["one"]
    pool = make_pool(2, state=state)
    assert pool.broadcast("set", "two") == ["two"] * 2
    state[0] = "three"
    pool.actors[1].always.remote("exit")
    assert pool.broadcast("set", "three") in (["three"], ["three"] * 2)
    assert {held for _, held in pool.map("where", [(0.2,)] * 2)} == {"three"}
    assert pool.replacements == 1


@pytest.mark.ray
def test_a_deadline_names_what_was_waited_for(pair: ActorPool) -> None:
    ref = pair.actors[0].where.remote(1.0)
    with pytest.raises(DeadlineExceeded, match=r"the answer took longer than 0\.1 s"):
        fetch(ref, deadline_s=0.1, what="the answer")
