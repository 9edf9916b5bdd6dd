"""The pool over stand-ins for its actors: parts of the work, who gets which update, prompts that no engine survives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_checks import sampling

from videor2_rl.types import Group, LostPrompt, PromptHandle
from workers.errors import CallGivenUp
from workers.rollout import pool as pool_module
from workers.rollout.engine import EngineSpec
from workers.rollout.pool import RolloutPool, call_parts


@given(st.integers(0, 300), st.integers(1, 20), st.integers(1, 50))
def test_call_parts_cover_the_prompts_in_order_and_evenly(num_prompts: int, num_workers: int, max_groups: int) -> None:
    parts = call_parts(num_prompts, num_workers=num_workers, max_groups=max_groups)
    assert [index for part in parts for index in part] == list(range(num_prompts))
    sizes = [len(part) for part in parts]
    assert all(0 < size <= max_groups for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert len(parts) >= min(num_prompts, num_workers)


class Actors:
    """`ActorPool` without actors: who is ready, who waits to be let in, and what is asked of it."""

    def __init__(self, name: str, **_: Any) -> None:
        self.ready: tuple[str, ...] = ("early",)
        self.joiners: tuple[str, ...] = ("early",)
        self.silent: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.draining: list[Future[None]] = []

    def let_in(self, actor: str) -> None:
        self.asked.append(("let in", actor))
        self.joiners = tuple(one for one in self.joiners if one != actor)

    def answering(self, actors: Sequence[str], method: str, *, within_s: float) -> tuple[str, ...]:
        return tuple(actor for actor in actors if actor not in self.silent)

    def set_aside(self, actor: str) -> None:
        self.asked.append(("set aside", actor))
        self.joiners = (*self.joiners, actor)

    def drain(self, actor: str) -> Future[None]:
        self.asked.append(("drain", actor))
        self.draining.append(Future())
        return self.draining[-1]

    def shutdown(self) -> None:
        for future in self.draining:
            future.cancel()


@pytest.fixture
def undriven(engine_spec: EngineSpec, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RolloutPool, Actors]]:
    monkeypatch.setattr(pool_module, "ActorPool", Actors)
    config = replace(engine_spec.rollout, on_update="finish")
    pool = RolloutPool(replace(engine_spec, rollout=config), group_size=4)
    actors = pool._pool
    assert isinstance(actors, Actors)
    yield pool, actors
    pool.shutdown()


def test_who_gets_ready_while_the_others_take_weights_waits_for_its_own(
    undriven: tuple[RolloutPool, Actors], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, actors = undriven
    sent: list[tuple[str, ...]] = []

    def stream(source: Any, workers: Sequence[str], way: Any) -> dict[str, float]:
        sent.append(tuple(workers))
        actors.ready = actors.joiners = ("early", "late")
        return {"mib": 1.0}

    monkeypatch.setattr(pool_module, "stream", stream)
    monkeypatch.setattr(pool, "_finishes", False)
    pool.update_weights(SimpleNamespace(is_collective=False, policy_version=3))
    assert (sent, actors.asked, actors.joiners) == ([("early",)], [("let in", "early")], ("late",))
    pool.admit_joiners()
    assert (sent[1:], actors.asked[1:]) == ([("late",)], [("let in", "late")])


def test_who_says_nothing_when_an_update_is_due_takes_it_when_it_does(
    undriven: tuple[RolloutPool, Actors], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, actors = undriven
    actors.ready, actors.joiners, actors.silent = ("one", "two", "three"), (), {"two"}
    sent: list[tuple[str, ...]] = []

    def stream(source: Any, workers: Sequence[str], way: Any) -> dict[str, float]:
        sent.append(tuple(workers))
        return {"mib": 1.0}

    monkeypatch.setattr(pool_module, "stream", stream)
    monkeypatch.setattr(pool, "_finishes", False)
    update = SimpleNamespace(is_collective=False, policy_version=3)
    pool.update_weights(update)
    pool.admit_joiners()
    assert (sent, actors.asked) == ([("one", "three")], [("set aside", "two")])
    actors.silent = set()
    pool.admit_joiners()
    assert (sent[1:], actors.asked[1:]) == ([("two",)], [("let in", "two")])
    # Where nobody answers, or there is one alone, nothing is gained by going on without.
    actors.silent = {"one", "two", "three"}
    pool.update_weights(update)
    actors.ready = ("one",)
    pool.update_weights(update)
    assert (sent[2:], actors.asked[2:]) == ([("one", "two", "three"), ("one",)], [])


@pytest.mark.parametrize("streams", [False, True])
def test_of_prompts_that_are_sampled_together_the_one_that_no_engine_survives_is_told(
    undriven: tuple[RolloutPool, Actors], monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    pool, actors = undriven
    monkeypatch.setattr(pool, "_streams", streams)
    called: list[tuple[int, ...]] = []

    def answers(call: Any, split: Any) -> list[Any]:
        request, *refs = call
        assert refs == [f"prompt {number}" for number in request.group_ids]
        called.append(request.group_ids)
        if 6 not in request.group_ids:
            return [[Group(number, f"row-{number}", ()) for number in request.group_ids]]
        parts = split(call)
        return (
            [CallGivenUp("4 were lost")] if len(parts) == 1 else [one for part in parts for one in answers(part, split)]
        )

    def submit_all(method: str, calls: Sequence[Any], *, split: Any) -> Future[list[Any]]:
        future: Future[list[Any]] = Future()
        future.set_result([one for call in calls for one in answers(call, split)])
        return future

    monkeypatch.setattr(actors, "submit_all", submit_all, raising=False)
    monkeypatch.setattr(actors, "size", 2, raising=False)
    prompts = [PromptHandle(f"row-{number}", "clip", 10, f"prompt {number}") for number in (5, 6, 7, 8)]
    request: dict[str, Any] = {"group_ids": [5, 6, 7, 8], "sampling": sampling(), "seed": 1}
    found = pool.begin_generate(prompts, **request).result()
    assert found == [Group(n, f"row-{n}", ()) if n != 6 else LostPrompt("row-6", "4 were lost") for n in (5, 6, 7, 8)]
    assert called == ([(5,), (6,), (7,), (8,)] if streams else [(5, 6), (5,), (6,), (7, 8)])
    with pytest.raises(RuntimeError, match="sample row-6: 4 were lost"):
        pool.generate(prompts, **request)


def test_no_group_that_sets_out_after_an_update_gets_to_a_worker_that_has_not_finished(
    undriven: tuple[RolloutPool, Actors], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, actors = undriven
    actors.joiners = ()
    monkeypatch.setattr(pool_module, "store_update", lambda source: SimpleNamespace(portions=()))
    pool.update_weights(SimpleNamespace(policy_version=3))
    # Before the update returns, and so before the window admits anything.
    assert actors.asked == [("drain", "early")]
