"""Python's cyclic garbage collector, kept from stopping the driver for as long as all of its objects take to look at.

A run of a thousand rollout workers keeps a million objects that are no garbage: groups on their way. A full collection
looks at every one of them while all threads stand still, for a second and more. Nearly all that the loop throws away
has no cycles and goes at once; what has is mostly young.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = (5_000, 5)
"""So many new objects until the youngest are looked at, and so often until the older ones are too: 10 to 50 ms."""
NEVER = 1_000_000_000
FULL_EVERY = 100
"""Steps between two full collections."""


@contextmanager
def short_collections() -> Iterator[None]:
    """While the block lasts full collections come only from `collect_if_due`."""
    before = gc.get_threshold()
    gc.set_threshold(*YOUNG, NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def collect_if_due(step: int) -> None:
    """A full collection every `FULL_EVERY` steps."""
    if step % FULL_EVERY == 0:
        gc.collect()
