"""Python's garbage collector for cycles, kept from stopping the driver while groups are on their way.

A run of a thousand rollout workers keeps a million objects that are no garbage, and makes as many in each step. The
collector would look at them again and again, for up to seconds, while all threads stand still. What the loop throws
away has no cycles, and goes at once without it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 20
"""Steps between two collections, for what libraries leave behind."""


@contextmanager
def no_collections() -> Iterator[None]:
    """While the block lasts there are none but those of `collect_if_due`."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def collect_if_due(step: int) -> None:
    """A collection every `EVERY` steps."""
    if step % EVERY == 0:
        gc.collect()
