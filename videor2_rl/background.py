"""An event loop in a thread of its own, for what goes on while the main thread waits for something else."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Mailbox(Protocol):
    """A queue between threads."""

    def put(self, item: Any) -> None: ...
    def get(self, *, timeout: float) -> Any:
        """The next item; raises queue.Empty after `timeout` seconds."""
        ...


class BackgroundLoop:
    """What runs in it has the thread to itself between two awaits, and needs no locks."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: of the thread.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it in the background; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it and wait; whoever breaks off the wait (a signal) breaks it off too."""
        future = self.begin(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def mailbox(self) -> Mailbox:
        """For what the background tells whoever may wait for it."""
        return queue.SimpleQueue()

    def close(self) -> None:
        """Cancel what runs, and end; nothing where it was closed before."""
        if not self._thread.is_alive():
            return
        self.begin(_cancel_others()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def then(
    future: Future[T], function: Callable[[T], U], *, rescue: Callable[[BaseException], U] | None = None
) -> Future[U]:
    """What `function` makes of the result, once it is there; an error or a cancellation passes through either way.

    Args:
        rescue: makes a result of an error, or raises one.
    """
    made: Future[U] = Future()
    # Let go of in the end: the two would else keep each other, and the result, until the next full garbage collection.
    under_way = [future]

    def on_done(done: Future[T]) -> None:
        under_way.clear()
        # Also keeps a cancellation that comes from now on from ending in an error here.
        if not made.set_running_or_notify_cancel():
            return
        try:
            error = done.exception()
            made.set_result(rescue(error) if error is not None and rescue is not None else function(done.result()))
        except BaseException as error:
            made.set_exception(error)

    future.add_done_callback(on_done)
    made.add_done_callback(lambda made: [one.cancel() for one in under_way] if made.cancelled() else None)
    return made
