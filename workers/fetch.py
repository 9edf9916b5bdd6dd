"""Taking data out of Ray: the only two places where the driver does, so that it can count what it receives."""

from __future__ import annotations

import asyncio
import copyreg
import io
import pickle
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray import cloudpickle
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from videor2_rl.config.errors import ConfigError
from workers.errors import DeadlineExceeded, WorkerLost

LOST = (WorkerLost, DeadlineExceeded, RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)
"""What costs an actor. Every other exception is a fault of the request and reaches the caller."""


class _Received:
    """Bytes that arrived; several threads of the driver may fetch."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes

    def count(self, *, reset: bool) -> int:
        with self._lock:
            num_bytes = self._num_bytes
            if reset:
                self._num_bytes = 0
        return num_bytes


# One per process on purpose: it answers what this process received, whoever asked for it.
_RECEIVED = _Received()


def received_bytes() -> int:
    """Bytes that `fetch` brought into this process since the last reset."""
    return _RECEIVED.count(reset=False)


def reset_received_bytes() -> int:
    """Begin to count anew; returns `received_bytes()` as it was."""
    return _RECEIVED.count(reset=True)


class _Counter(io.RawIOBase):
    """A file that keeps nothing but its length."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def write(self, data: Any) -> int:
        num_bytes = memoryview(data).nbytes
        self.num_bytes += num_bytes
        return num_bytes


def _reference(ref: ray.ObjectRef) -> tuple[Any, ...]:
    # What it points to did not arrive here.
    return str, (ref.hex(),)


def pickled_size(value: Any) -> int:
    """Size of `value` in bytes as pickle protocol 5 moves it, out-of-band buffers included, references excluded."""
    try:
        return _size(pickle.Pickler, copyreg.dispatch_table, value)
    except (pickle.PicklingError, AttributeError, TypeError):
        # Of a class or function that no module holds: rare, and much slower.
        return _size(cloudpickle.CloudPickler, cloudpickle.CloudPickler.dispatch_table, value)


def _size(pickler_class: Any, reducers: Mapping[type, Any], value: Any) -> int:
    file = _Counter()
    buffers: list[pickle.PickleBuffer] = []

    def array(one: np.ndarray[Any, Any]) -> Any:
        if one.dtype.hasobject:
            return one.__reduce_ex__(5)
        # Most of what arrives are arrays, and a buffer for each takes as long as all the rest.
        file.num_bytes += one.nbytes
        return str, (one.dtype.str,)

    pickler = pickler_class(file, protocol=5, buffer_callback=buffers.append)
    pickler.dispatch_table = {**reducers, ray.ObjectRef: _reference, np.ndarray: array}
    pickler.dump(value)
    return file.num_bytes + sum(buffer.raw().nbytes for buffer in buffers)


def fetch(refs: Any, *, deadline_s: float | None = None, what: str, counts: bool = True) -> Any:
    """`ray.get` with a deadline whose error names what was waited for; counts the bytes that arrive.

    Args:
        refs: One object reference or a list of them.
        deadline_s: Seconds to wait; None waits for ever.
        what: Named in the error, e.g. "the reward of 16 groups".
        counts: False for what comes by the clock and not by the step.

    Raises:
        DeadlineExceeded: nothing came in time.
        ConfigError: raised as it was in the worker, without Ray's wrapping.
    """
    with _errors_of(what, deadline_s):
        value = ray.get(refs, timeout=deadline_s)
    if counts:
        _RECEIVED.add(pickled_size(value))
    return value


async def answer(ref: Any, *, deadline_s: float | None, what: str, counts: bool = True) -> Any:
    """`fetch` of one reference, in an event loop."""
    with _errors_of(what, deadline_s):
        value = await asyncio.wait_for(asyncio.wrap_future(ref.future()), deadline_s)
    if counts:
        _RECEIVED.add(pickled_size(value))
    return value


@contextmanager
def _errors_of(what: str, deadline_s: float | None) -> Iterator[None]:
    try:
        yield
    except RayTaskError as error:  # first: what a worker raised may be a TimeoutError too
        if isinstance(error.cause, ConfigError):
            raise error.cause from None
        raise
    except (GetTimeoutError, asyncio.TimeoutError):
        raise DeadlineExceeded(f"{what} took longer than {deadline_s:g} s") from None
