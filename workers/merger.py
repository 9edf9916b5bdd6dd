"""Many small requests to those who answer a large one in hardly more time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class _Request(Generic[K, T, U]):
    key: K
    items: list[T]
    answers: Future[list[U]]


class Merger(Generic[K, T, U]):
    """One call at a time, in a thread; what is asked for meanwhile becomes the next one, as far as it fits.

    Ranks compute together: asked for a group at a time, all but one of them would do work that counts for nothing.
    """

    def __init__(
        self, answer: Callable[[K, list[T]], Sequence[U]], *, is_full: Callable[[K, list[T]], bool], name: str
    ) -> None:
        """
        Args:
            answer: the call, in the thread; one answer for each item, in order.
            is_full: whether a call with these items takes no further request; the first would wait for the last.
            name: of the thread.
        """
        self._answer, self._is_full = answer, is_full
        self._waiting: deque[_Request[K, T, U]] = deque()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def begin(self, key: K, items: Sequence[T]) -> Future[list[U]]:
        """The items' answers, in order; what the call raises, all raise that are in it.

        Args:
            key: only requests of equal keys share a call; requests of different ones keep their order.
        """
        request: _Request[K, T, U] = _Request(key, list(items), Future())
        with self._lock:
            self._waiting.append(request)
        self._thread.submit(self._serve)
        return request.answers

    def shutdown(self) -> None:
        """No call is begun any more; requests that wait are cancelled."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            request.answers.cancel()

    def _serve(self) -> None:
        requests = self._take()
        if not requests:
            return
        items = [item for request in requests for item in request.items]
        try:
            answers = self._answer(requests[0].key, items)
            if len(answers) != len(items):
                raise RuntimeError(f"{len(answers)} answers to {len(items)} items")
        except BaseException as error:  # whose requests these are raises it, whatever it is
            for request in requests:
                request.answers.set_exception(error)
            return
        stop = 0
        for request in requests:
            request.answers.set_result(list(answers[stop : (stop := stop + len(request.items))]))

    def _take(self) -> list[_Request[K, T, U]]:
        """The requests of the next call; none where an earlier call had them all."""
        taken: list[_Request[K, T, U]] = []
        items: list[T] = []
        with self._lock:
            while self._waiting:
                request = self._waiting[0]
                if taken and (request.key != taken[0].key or self._is_full(request.key, items)):
                    break
                self._waiting.popleft()
                if request.answers.set_running_or_notify_cancel():
                    taken.append(request)
                    items += request.items
        return taken
