"""The garbage collector rests while a run trains, and finds nothing to do where a group's way has ended."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import Future

import pytest

from videor2_rl.background import then
from videor2_rl.training import collector
from videor2_rl.training.collector import collect_if_due, no_collections


def test_it_rests_in_the_block_and_is_as_before_after_it_whatever_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[bool] = []
    monkeypatch.setattr(collector.gc, "collect", lambda: collected.append(gc.isenabled()))
    with pytest.raises(KeyError), no_collections():
        collect_if_due(collector.EVERY - 1)
        collect_if_due(collector.EVERY)
        raise KeyError
    assert collected == [False] and gc.isenabled()


class Result:
    """Something that can be watched."""


def test_what_came_of_a_future_goes_with_whoever_held_it_without_a_collection() -> None:
    first: Future[Result] = Future()
    made = then(first, lambda result: [result])
    first.set_result(Result())
    watched = weakref.ref(first.result())
    assert made.result() == [watched()]
    gc.disable()
    try:
        del first, made
        assert watched() is None
    finally:
        gc.enable()
