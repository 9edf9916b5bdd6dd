"""Requests that wait for each other share a call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from workers.merger import Merger


class Squares:
    """Answers when it may, and notes what it was asked for together."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.is_busy, self.may_answer = threading.Event(), threading.Event()

    def __call__(self, key: str, items: list[int]) -> list[int]:
        self.calls.append((key, items))
        self.is_busy.set()
        assert self.may_answer.wait(10)
        if 0 in items:
            raise ZeroDivisionError("there is a 0")
        return [item * item for item in items]


@pytest.fixture
def squares() -> Squares:
    return Squares()


@pytest.fixture
def merger(squares: Squares) -> Iterator[Merger[str, int, int]]:
    merger: Merger[str, int, int] = Merger(squares, is_full=lambda key, items: sum(items) >= 10, name="squares")
    yield merger
    squares.may_answer.set()
    merger.shutdown()


def test_what_waits_while_a_call_runs_becomes_the_next_one(squares: Squares, merger: Merger[str, int, int]) -> None:
    first = merger.begin("a", [1])
    assert squares.is_busy.wait(10)
    later = [merger.begin("a", items) for items in ([2, 3], [], [4])]
    squares.may_answer.set()
    assert first.result(10) == [1]
    assert [future.result(10) for future in later] == [[4, 9], [], [16]]
    assert squares.calls == [("a", [1]), ("a", [2, 3, 4])]


def test_other_keys_have_calls_of_their_own_in_the_order_asked(squares: Squares, merger: Merger[str, int, int]) -> None:
    futures = [merger.begin("a", [1])]
    assert squares.is_busy.wait(10)
    futures += [merger.begin(key, [number]) for key, number in (("a", 2), ("b", 3), ("b", 4), ("a", 5))]
    squares.may_answer.set()
    assert [future.result(10) for future in futures] == [[1], [4], [9], [16], [25]]
    assert squares.calls == [("a", [1]), ("a", [2]), ("b", [3, 4]), ("a", [5])]


def test_a_full_call_takes_no_more_and_a_request_stays_whole(squares: Squares, merger: Merger[str, int, int]) -> None:
    futures = [merger.begin("a", [1])]
    assert squares.is_busy.wait(10)
    futures += [merger.begin("a", items) for items in ([9], [8, 7], [1], [12], [2])]
    squares.may_answer.set()
    assert [future.result(10) for future in futures] == [[1], [81], [64, 49], [1], [144], [4]]
    assert squares.calls == [("a", [1]), ("a", [9, 8, 7]), ("a", [1, 12]), ("a", [2])]


def test_a_failure_is_that_of_all_in_the_call_and_of_no_other(squares: Squares, merger: Merger[str, int, int]) -> None:
    fine = merger.begin("a", [1])
    assert squares.is_busy.wait(10)
    together = [merger.begin("a", [0]), merger.begin("a", [2])]
    squares.may_answer.set()
    assert fine.result(10) == [1]
    for future in together:
        with pytest.raises(ZeroDivisionError, match="there is a 0"):
            future.result(10)
    assert merger.begin("a", [3]).result(10) == [9]


def test_a_cancelled_request_is_not_answered(squares: Squares, merger: Merger[str, int, int]) -> None:
    first = merger.begin("a", [1])
    assert squares.is_busy.wait(10)
    dropped, kept = merger.begin("a", [2]), merger.begin("a", [3])
    assert dropped.cancel()
    squares.may_answer.set()
    assert (first.result(10), kept.result(10)) == ([1], [9])
    assert squares.calls == [("a", [1]), ("a", [3])]


def test_too_few_answers_are_an_error() -> None:
    short: Merger[str, int, int] = Merger(lambda key, items: items[1:], is_full=lambda *_: False, name="short")
    with pytest.raises(RuntimeError, match="1 answers to 2 items"):
        short.begin("a", [1, 2]).result(10)
    short.shutdown()


def test_at_the_end_what_waits_is_cancelled_and_what_runs_is_answered(
    squares: Squares, merger: Merger[str, int, int]
) -> None:
    first = merger.begin("a", [1])
    assert squares.is_busy.wait(10)
    waits = merger.begin("a", [2])
    merger.shutdown()
    with pytest.raises(CancelledError):
        waits.result(10)
    squares.may_answer.set()
    assert first.result(10) == [1]
