"""Whether a worker still gets anywhere: what it says of itself, and when that is too little. Nothing here imports Ray.

An actor that answers may look after an engine that stands still, and one that says nothing may only be short of the
processor. So two things are held against each other: its signs of life, and the progress they speak of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass

HOLD_S = 2.0
"""A sign of life is asked for and comes after so long: a call is always open, and breaks when the process dies."""
SILENT_S = 7.5
"""Without a sign for so long, from the moment it was asked for, an actor is frozen."""
STARTING_SILENT_S = 60.0
"""While it gets ready: libraries that load keep all of its threads waiting."""
STALLED_S = 6.0
"""At work without progress for so long, its engine is frozen; noticed with the next sign, `HOLD_S` later at most."""
SPIN_S = 10.0
"""Processor time without a token, and ..."""
SPIN_FACTOR = 5.0
"""... so many times what any token before took: an engine that works is stuck. Not by the clock: one that others keep
from the processors takes none. Until its first token nobody knows what one takes, and a call's deadline counts."""
WORK_S = 0.02
"""Processor time that counts as progress: what stands still takes a little too."""
TICK_S = 2.5
"""Longer than `HOLD_S`, so that a healthy worker costs one."""


@dataclass(frozen=True)
class Pulse:
    """A sign of life."""

    is_busy: bool = False
    """It has something to do that must advance by itself."""
    progress: int = 0
    """Grows with what it gets done, e.g. tokens sampled."""
    cpu_s: float = 0.0
    """Seconds for which what does the work was on a processor or waited for one, so far."""
    worked_s: float = 0.0
    """Those on a processor alone."""


def pulse_after(hold_s: float) -> Pulse:
    """Of a worker whose calls have deadlines of their own: it lives."""
    time.sleep(hold_s)
    return Pulse()


class Progress:
    """Of one worker, by its signs of life."""

    def __init__(self) -> None:
        self._last: Pulse | None = None
        self._since_s = 0.0
        self._before: Pulse | None = None
        self._worked_from_s = 0.0
        self._most_worked_s = 0.0
        """Between two tokens, so far."""

    def stalled_s(self, pulse: Pulse, now: float) -> float:
        """Seconds for which a worker at work has got nowhere, this sign included; 0 where it has nothing to do.

        Args:
            now: seconds of any clock that runs on.
        """
        last = self._last
        moved = (
            last is None
            or not (pulse.is_busy and last.is_busy)
            or pulse.progress != last.progress
            or abs(pulse.cpu_s - last.cpu_s) >= WORK_S  # less: a thread ended
        )
        if moved:
            self._last, self._since_s = pulse, now
        return now - self._since_s

    def spun_s(self, pulse: Pulse) -> float:
        """Seconds of processor time since a worker's last token, where they are too many; else 0."""
        before, self._before = self._before, pulse
        worked_s = pulse.worked_s - self._worked_from_s
        if before is not None and before.is_busy and pulse.is_busy:
            if pulse.progress == before.progress:
                limit_s = max(SPIN_S, SPIN_FACTOR * self._most_worked_s)
                return worked_s if self._most_worked_s > 0 and worked_s >= limit_s else 0.0
            self._most_worked_s = max(self._most_worked_s, worked_s)
        self._worked_from_s = pulse.worked_s
        return 0.0


async def silence(sign: Awaitable[Pulse], *, limit_s: float) -> Pulse | None:
    """A sign of life, or None after `limit_s` without.

    Waited for in ticks, each of which counts as one however long it took: where this process, or the whole machine,
    was held up, the silence was its own.
    """
    asked = asyncio.ensure_future(sign)
    try:
        for _ in range(round(limit_s / TICK_S)):
            await asyncio.wait({asked}, timeout=TICK_S)
            if asked.done():
                return asked.result()
        return None
    finally:
        asked.cancel()
