"""An event loop whose clock jumps to whatever comes next, so that hours of waiting take as long as their work.

What this thread computes meanwhile can count as time too: a controller that is too slow shows as it would in a run.
"""

from __future__ import annotations

import asyncio
import queue
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from videor2_rl.background import BackgroundLoop

T = TypeVar("T")

LEAST_S = 1e-4
"""Less time outside of the loop is not worth a turn of it."""


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing."""

    waited_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever come")
        if not events and timeout is not None and timeout > 0:
            self.waited_s += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """One thread for all: whoever waits, outside of the loop too, has it run on."""

    def __init__(self, *, counts_cpu: bool) -> None:
        """
        Args:
            counts_cpu: what is computed takes its time: in the loop from all that goes on in it, outside beside it, as
                if the two were threads on cores of their own.
        """
        self._jumping = _Jumping()
        self._counts_cpu = counts_cpu
        self._uncounted_s = 0.0
        self._uncounted_from_s: float | None = None
        self._cpu_from_s = self._left_s = self._cpu_now_s()
        self._entered_s: float | None = None
        self._cpu_inside_s = 0.0
        super().__init__(self._jumping)

    @property
    def cpu_s(self) -> float:
        """Processor time of this thread since the loop was made, inside and outside, without what is not counted."""
        return self._cpu_now_s() - self._cpu_from_s

    def time(self) -> float:
        """Seconds since the loop was made."""
        if not self._counts_cpu:
            return self._jumping.waited_s
        inside_s = 0.0 if self._entered_s is None else self._cpu_now_s() - self._entered_s
        return self._jumping.waited_s + self._cpu_inside_s + inside_s

    def run_forever(self) -> None:
        """Until it is stopped."""
        self._entered_s = self._cpu_now_s()
        try:
            super().run_forever()
        finally:
            self._left_s = self._cpu_now_s()
            self._cpu_inside_s += self._left_s - self._entered_s
            self._entered_s = None

    def run_until_complete(self, future: Any) -> Any:
        """After the time that was spent outside of the loop."""
        outside_s = self._cpu_now_s() - self._left_s
        if self._counts_cpu and outside_s > LEAST_S:
            super().run_until_complete(asyncio.sleep(outside_s))
        return super().run_until_complete(future)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is computed in the block stands for what others do elsewhere: no time passes."""
        self._uncounted_from_s = began_s = time.thread_time()
        try:
            yield
        finally:
            self._uncounted_s += time.thread_time() - began_s
            self._uncounted_from_s = None

    def _cpu_now_s(self) -> float:
        now_s = time.thread_time() if self._uncounted_from_s is None else self._uncounted_from_s
        return now_s - self._uncounted_s

    def wait(self, seconds: float) -> None:
        """From outside of the loop: let so much time pass."""
        self.run_until_complete(asyncio.sleep(seconds))

    def do(self, function: Callable[[], T]) -> T:
        """From outside of the loop: what a function gives that must run inside."""

        async def inside() -> T:
            return function()

        return self.run_until_complete(inside())

    def close(self) -> None:
        """Cancel what runs, and end; nothing where it was closed before."""
        if not self.is_closed():
            tasks = asyncio.all_tasks(self)
            for task in tasks:
                task.cancel()
            if tasks:
                self.run_until_complete(asyncio.wait(tasks))
        super().close()


class VirtualBackground(BackgroundLoop):
    """A `BackgroundLoop` without a thread."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop: VirtualLoop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, with all else that goes on."""
        return self._loop.run_until_complete(coroutine)

    def mailbox(self) -> VirtualMailbox:
        """Whoever waits for it has the loop run on."""
        return VirtualMailbox(self._loop)

    def close(self) -> None:
        """Others use the loop too."""


class VirtualMailbox:
    """As `videor2_rl.background.Mailbox`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._news = asyncio.Event()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._news.set()

    def get(self, *, timeout: float) -> Any:
        """Raises queue.Empty after `timeout` seconds of the loop's."""
        if not self._items:
            self._news.clear()
            try:
                self._loop.run_until_complete(asyncio.wait_for(self._news.wait(), timeout))
            except TimeoutError:
                raise queue.Empty from None
        return self._items.popleft()
