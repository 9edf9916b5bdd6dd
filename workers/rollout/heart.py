"""Signs of life of a rollout worker, from a thread beside the one that works."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from workers.errors import WorkerLost
from workers.liveness import Pulse

LOOK_S = 0.25
"""Between two looks at whether the engine died."""


class Heart:
    """Made in the thread that works, when the engine's processes are there."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.get_native_id()
        self._engine = psutil.Process().children(recursive=True)

    async def beat(
        self, hold_s: float, *, is_dead: Callable[[], bool], is_busy: Callable[[], bool], progress: Callable[[], int]
    ) -> Pulse:
        """A sign of life after `hold_s` seconds; a thread that does not answer meanwhile counts as busy.

        Raises:
            WorkerLost: the engine died.
        """
        answered = asyncio.run_coroutine_threadsafe(_nothing(), self._loop)
        for _ in range(max(1, round(hold_s / LOOK_S))):
            if is_dead():
                raise WorkerLost("the engine process is gone")
            await asyncio.sleep(LOOK_S)
        stands_still = not answered.done()
        answered.cancel()
        worked_s = self._worked_s()
        return Pulse(stands_still or is_busy(), progress(), cpu_s=worked_s + self._waited_s(), worked_s=worked_s)

    def _worked_s(self) -> float:
        """Processor time of the engine's processes and of the thread that works; all else here is not counted."""
        total = time.clock_gettime(self._clock)
        for process in self._engine:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _waited_s(self) -> float:
        """For which they waited for a processor."""
        tasks = [Path(f"/proc/self/task/{self._thread}")]
        for process in self._engine:
            tasks += Path(f"/proc/{process.pid}/task").glob("*")
        return sum(map(waited_s, tasks))


def waited_s(task: Path) -> float:
    """Seconds for which a thread could have worked and others had the processors; 0 where nothing says so.

    Args:
        task: its folder in /proc.
    """
    with contextlib.suppress(OSError, ValueError):
        # Time on a processor, time in wait for one, and how often it got one; nanoseconds.
        _, waited_ns, _ = (task / "schedstat").read_text().split()
        return int(waited_ns) / 1e9
    return 0.0


async def _nothing() -> None:
    pass
