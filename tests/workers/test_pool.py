"""The actor pool: order, faults and deadlines, with plain actors; and what counts as received."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle

from videor2_rl.config.errors import ConfigError
from workers.pool import (
    ActorPool,
    DeadlineExceeded,
    WorkerLost,
    fetch,
    pickled_size,
    received_bytes,
    reset_received_bytes,
)


def test_the_size_of_an_array_is_its_buffer_and_little_more() -> None:
    array = np.zeros(1_000_000, dtype=np.uint8)
    assert 1_000_000 <= pickled_size(array) < 1_001_000
    assert 2_000_000 <= pickled_size([array, array.copy()]) < 2_002_000


def test_the_size_of_text_is_its_length_and_little_more() -> None:
    assert 10_000 <= pickled_size({"text": "x" * 10_000}) < 10_200


# --- without Ray ----------------------------------------------------------------------------------------------------


class Reference:
    """What a call of a `Fake` gives: its result, kept until it is fetched."""

    def __init__(self, actor: int, result: Any) -> None:
        self.actor, self.result = actor, result


class Fake:
    """An actor whose calls are done at once; `lose` is the death of it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.start, self.echo, self.lose = self, self, self

    def remote(self, value: Any = None) -> Any:
        return Reference(self.index, value)


class FakeRay:
    """Says that the latest of the calls under way is the one that is done, and notes how many each actor has."""

    def __init__(self) -> None:
        self.most_at_once: Counter[int] = Counter()
        self.killed: list[int] = []

    def wait(self, refs: list[Any], *, num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
        if num_returns > len(refs):
            raise ValueError(f"{num_returns} of {len(refs)} references")
        self.most_at_once |= Counter(ref.actor for ref in refs)
        return refs[-num_returns:], refs[:-num_returns]

    def get(self, ref: Any, *, timeout: float | None = None) -> Any:
        if isinstance(ref.result, Exception):
            raise ref.result
        return ref.result

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        self.killed.append(actor.index)

    def cancel(self, ref: Any) -> None:
        pass


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    for name in ("wait", "get", "kill", "cancel"):
        monkeypatch.setattr(ray, name, getattr(fake, name))
    return fake


def fake_pool(size: int, **options: Any) -> ActorPool:
    return ActorPool(
        "fake",
        size=size,
        create=Fake,
        prepare=lambda actor: actor.start.remote(),
        call_deadline_s=None,
        start_deadline_s=60.0,
        **options,
    )


def test_results_keep_the_order_of_the_items_whichever_is_done_first_and_are_counted(fake_ray: FakeRay) -> None:
    pool = fake_pool(3)
    pool.wait_ready()
    reset_received_bytes()
    items = [b"a" * 1000, b"b" * 2000, b"c" * 3000, b"d" * 4000]
    assert pool.map("echo", [(item,) for item in items]) == items
    # A pickle of bytes adds a header of less than 30.
    assert 10_000 <= received_bytes() < 10_000 + 4 * 30


@pytest.mark.parametrize(("options", "at_once"), [({}, 1), ({"max_in_flight": 2}, 2)])
def test_an_actor_has_one_call_at_a_time_unless_more_are_allowed(
    options: dict[str, int], at_once: int, fake_ray: FakeRay
) -> None:
    pool = fake_pool(2, **options)
    pool.wait_ready()
    pool.map("echo", [(number,) for number in range(9)])
    assert fake_ray.most_at_once == {0: at_once, 1: at_once}


@pytest.mark.parametrize(("options", "allowed"), [({}, 3), ({"max_replacements": 1}, 1)])
def test_so_many_actors_may_be_lost_within_one_map(options: dict[str, int], allowed: int, fake_ray: FakeRay) -> None:
    pool = fake_pool(1, **options)
    with pytest.raises(RuntimeError, match=f"keep failing: {allowed} were replaced.*WorkerLost: died"):
        pool.map("lose", [(WorkerLost("died"),)])
    assert (pool.replacements, fake_ray.killed) == (allowed, [0] * (allowed + 1))


# --- with Ray -------------------------------------------------------------------------------------------------------


class Echo:
    """Misbehaves on request."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.state = "made"

    def start(self, state: str) -> None:
        self.state = state

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
        actor_class: Any = ray.remote(Echo)
        settings: dict[str, Any] = {"call_deadline_s": 30.0, "start_deadline_s": 60.0}
        pool = ActorPool(
            "echo",
            size=size,
            create=lambda index: actor_class.options(num_cpus=0.1).remote(index),
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
def test_the_pool_gives_up_when_replacements_keep_failing(make_pool: PoolMaker) -> None:
    pool = make_pool(1, max_replacements=1)
    with pytest.raises(RuntimeError, match=r"echo workers keep failing: 1 were replaced.*WorkerLost: the engine died"):
        pool.map("always", [("lost",)])
    assert pool.replacements == 1


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
