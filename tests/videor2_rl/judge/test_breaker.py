"""The circuit breaker, with a clock and a server of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from videor2_rl.judge.breaker import Breaker, JudgeDown


@dataclass
class Clock:
    """Seconds that pass only when told to."""

    now_s: float = 100.0

    def monotonic(self) -> float:
        return self.now_s


@dataclass
class Watched:
    """A breaker, what it announced, and the server that it probes."""

    clock: Clock
    failures: int = 3
    patience_s: float = 60.0
    problems: list[str | None] = field(default_factory=list)
    """What the next probes find, None for an answer; at the end of the list there is no further look."""
    notices: list[str] = field(default_factory=list)

    def start(self) -> Breaker:
        return Breaker(
            "http://judge/v1",
            mend="start it again",
            failures=self.failures,
            probe_every_s=0.0,
            patience_s=self.patience_s,
            probe=self._probe,
            notify=self.notices.append,
        )

    async def _probe(self) -> str | None:
        while not self.problems:
            await asyncio.sleep(0.001)
        self.clock.now_s += 10.0
        return self.problems.pop(0)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    clock = Clock()
    monkeypatch.setattr("videor2_rl.judge.breaker.time", clock)
    return Watched(clock)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def within_a_minute() -> None:
        await asyncio.wait_for(scenario(), timeout=60)

    asyncio.run(within_a_minute())


def test_it_opens_at_the_configured_number_of_failures_in_a_row(watched: Watched) -> None:
    async def scenario() -> None:
        breaker = watched.start()
        states = []
        for _ in range(4):
            states.append(breaker.is_open)
            breaker.failed("status 500")
        assert states == [False, False, False, True]
        assert len(watched.notices) == 1  # A failure while it is open is no news.
        assert "http://judge/v1" in watched.notices[0] and "status 500" in watched.notices[0]
        await breaker.stop()
        assert not breaker.is_open

    run(scenario)


def test_failures_with_an_answer_between_them_never_open_it(watched: Watched) -> None:
    async def scenario() -> None:
        breaker = watched.start()
        for _ in range(20):
            breaker.failed("status 500")
            breaker.failed("status 500")
            breaker.answered()
        assert not breaker.is_open and not watched.notices
        assert breaker.answers == 20
        assert not await breaker.wait_closed()

    run(scenario)


def test_a_probe_that_is_answered_closes_it_and_counts_as_an_answer(watched: Watched) -> None:
    async def scenario() -> None:
        breaker = watched.start()
        breaker.trip("no connection")
        watched.problems += ["no connection", "status 503", None]
        assert await breaker.wait_closed()
        assert breaker.answers == 1
        # Three looks of 10 s each.
        assert breaker.paused_s == 30.0
        assert watched.notices[1] == "the judge at http://judge/v1 answers again after 30 s: going on"
        # The failures before the pause are forgotten.
        breaker.failed("status 500")
        breaker.failed("status 500")
        assert not breaker.is_open and not await breaker.wait_closed()

    run(scenario)


def test_failures_that_opened_it_do_not_count_towards_the_next_time(watched: Watched) -> None:
    async def scenario() -> None:
        breaker = watched.start()
        for _ in range(3):
            breaker.failed("status 500")
        watched.problems.append(None)
        assert await breaker.wait_closed()
        breaker.failed("status 500")
        assert not breaker.is_open

    run(scenario)


def test_an_answer_to_a_call_under_way_closes_it_at_once(watched: Watched) -> None:
    async def scenario() -> None:
        breaker = watched.start()
        breaker.trip("no connection")
        waiting = asyncio.create_task(breaker.wait_closed())
        await asyncio.sleep(0)
        watched.clock.now_s += 5.0
        breaker.answered()
        assert not breaker.is_open
        assert await waiting
        assert (breaker.answers, breaker.paused_s, len(watched.notices)) == (1, 5.0, 2)

    run(scenario)


def test_pauses_add_up_each_from_its_own_start(watched: Watched) -> None:
    async def scenario() -> None:
        breaker = watched.start()
        for away_s in (5.0, 7.0):
            breaker.trip("no connection")
            watched.clock.now_s += away_s
            breaker.answered()
            watched.clock.now_s += 1000.0  # Closed: no pause.
        assert breaker.paused_s == 12.0

    run(scenario)


@pytest.mark.parametrize(("patience_s", "looks"), [(29.0, 3), (30.0, 3), (31.0, 4)])
def test_patience_ends_at_its_last_second_with_what_the_last_look_found(
    patience_s: float, looks: int, watched: Watched
) -> None:
    watched.patience_s = patience_s
    watched.problems += [f"problem {look}" for look in range(1, 10)]

    async def scenario() -> None:
        breaker = watched.start()
        breaker.trip("the first reason")
        with pytest.raises(JudgeDown) as caught:
            await breaker.wait_closed()
        message = str(caught.value)
        assert f"has been away for {patience_s:g} s (problem {looks}); start it again, then" in message
        # Whoever asks later learns the same.
        with pytest.raises(JudgeDown):
            await breaker.wait_closed()

    run(scenario)


def test_a_call_that_is_cancelled_while_it_waits_leaves_the_others_waiting(watched: Watched) -> None:
    async def scenario() -> None:
        breaker = watched.start()
        breaker.trip("no connection")
        first, second = (asyncio.create_task(breaker.wait_closed()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert breaker.is_open and not second.done()
        watched.problems.append(None)
        assert await second

    run(scenario)
