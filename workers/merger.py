"""Many small requests to those who answer a large one in hardly more time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
U = TypeVar("U")


class Merger(Generic[K, T, U]):
    """One call at a time, in a thread; what is asked for meanwhile becomes the next one.

    Ranks compute together: asked for a group at a time, all but one of them would do work that counts for nothing.
    """

    def __init__(self, answer: Callable[[K, list[T]], Sequence[U]], *, name: str) -> None:
        """
        Args:
            answer: the call, in the thread; one answer for each item, in order.
            name: of the thread.
        """
        self._answer = answer
        self._waiting: deque[tuple[K, list[T], Future[list[U]]]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def begin(self, key: K, items: Sequence[T]) -> Future[list[U]]:
        """The items' answers, in order; what the call raises, all raise that are in it.

        Args:
            key: only requests of equal keys share a call; requests of different ones keep their order.
        """
        future: Future[list[U]] = Future()
        self._waiting.append((key, list(items), future))
        self._thread.submit(self._serve)
        return future

    def shutdown(self) -> None:
        """No call is begun any more; requests that wait are cancelled."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        while self._waiting:
            self._waiting.popleft()[2].cancel()

    def _serve(self) -> None:
        taken: list[tuple[K, list[T], Future[list[U]]]] = []
        while self._waiting and (not taken or self._waiting[0][0] == taken[0][0]):
            request = self._waiting.popleft()
            if request[2].set_running_or_notify_cancel():
                taken.append(request)
        if not taken:
            return
        items = [item for _, items, _ in taken for item in items]
        try:
            answers = self._answer(taken[0][0], items)
            if len(answers) != len(items):
                raise RuntimeError(f"{len(answers)} answers to {len(items)} items")
        except BaseException as error:  # whose requests these are raises it, whatever it is
            for _, _, future in taken:
                future.set_exception(error)
            return
        stop = 0
        for _, asked, future in taken:
            future.set_result(list(answers[stop : (stop := stop + len(asked))]))
