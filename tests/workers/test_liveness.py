"""Signs of life: what counts as getting somewhere, and whose silence it is."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.virtual_time import VirtualLoop
from workers.liveness import SILENT_S, WORK_S, Progress, Pulse, silence

MOVES = st.sampled_from(["tokens", "cpu", "idle", "nothing"])


@given(st.lists(MOVES, max_size=30))
def test_a_worker_has_stalled_for_as_long_as_it_was_busy_and_moved_neither_tokens_nor_the_processor(
    moves: list[str],
) -> None:
    progress, tokens, cpu_s = Progress(), 0, 0.0
    was_busy, since = False, 0
    for second, move in enumerate(moves):
        tokens += move == "tokens"
        cpu_s += 2 * WORK_S if move == "cpu" else 0.0
        is_busy = move != "idle"
        if move != "nothing" or not was_busy or second == 0:
            since = second
        assert progress.stalled_s(Pulse(is_busy, tokens, cpu_s), second) == second - since
        was_busy = is_busy


def test_little_processor_time_at_a_time_adds_up_to_progress() -> None:
    progress = Progress()
    found = [progress.stalled_s(Pulse(True, 0, WORK_S * second / 4), second) for second in range(9)]
    assert found == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_an_engine_spins_when_it_takes_far_more_processor_time_for_a_token_than_for_any_before() -> None:
    progress, worked_s = Progress(), 0.0

    def beat(*, tokens: int, works_s: float, is_busy: bool = True) -> float:
        nonlocal worked_s
        worked_s += works_s
        return progress.spun_s(Pulse(is_busy, tokens, cpu_s=worked_s, worked_s=worked_s))

    # What the first token takes is anybody's guess, and what is done between two calls is no token's.
    assert [beat(tokens=0, works_s=50.0) for _ in range(3)] == [0, 0, 0]
    assert beat(tokens=0, works_s=90.0, is_busy=False) == 0
    assert [beat(tokens=0, works_s=2.0), beat(tokens=0, works_s=3.0), beat(tokens=1, works_s=1.0)] == [0, 0, 0]
    # 4 s for a token so far: 19 s are slow, 20 s are too much.
    assert [beat(tokens=1, works_s=works_s) for works_s in (10.0, 9.0)] == [0, 0]
    assert beat(tokens=1, works_s=1.0) == 20.0
    assert beat(tokens=2, works_s=0.0) == 0


def test_who_gets_no_processor_does_not_spin() -> None:
    progress = Progress()
    found = [
        progress.spun_s(Pulse(True, min(second, 3), cpu_s=second, worked_s=min(second, 4))) for second in range(99)
    ]
    assert not any(found)


async def _never() -> Pulse:
    await asyncio.sleep(1e6)
    return Pulse()


def test_silence_ends_at_its_limit_and_a_sign_ends_it_before() -> None:
    with closing(VirtualLoop(counts_cpu=False)) as loop:
        assert loop.run_until_complete(silence(_never(), limit_s=SILENT_S)) is None
        assert loop.time() == SILENT_S

        async def soon() -> Pulse:
            await asyncio.sleep(3)
            return Pulse(progress=7)

        assert loop.run_until_complete(silence(soon(), limit_s=SILENT_S)) == Pulse(progress=7)
        assert loop.time() == SILENT_S + 3


def test_a_driver_that_was_held_up_itself_takes_nobody_for_frozen() -> None:
    """Its clock has run far beyond the limit when it wakes; the answer comes a moment later."""
    with closing(asyncio.new_event_loop()) as loop:

        async def late() -> Pulse:
            await asyncio.sleep(0.3)
            return Pulse(progress=1)

        async def held_up() -> Pulse | None:
            asyncio.get_running_loop().call_later(0.01, time.sleep, 0.25)
            return await silence(late(), limit_s=SILENT_S)

        assert loop.run_until_complete(held_up()) == Pulse(progress=1)
