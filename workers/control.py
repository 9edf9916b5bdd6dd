"""The sizes of a run's pools, told to it while it trains: a named actor that both sides talk to.

The driver asks once a second what is wanted and says who is alive, also in `pools.json` for whoever looks at the run;
`python -m videor2_rl.scale` puts wishes there and reads what the driver said. Neither waits for the other, and the run
goes on where the actor is lost.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.place import AUTH_MODE, PLACE_FILE, POOLS_FILE, Place, PoolState, write_pools
from workers.cluster import gcs_address
from workers.fetch import fetch

log = logging.getLogger(__name__)

ACTOR = "control"
POLL_S = 1.0
ANSWER_S = 30.0
"""In which the actor must answer."""
STALE_S = 30.0
"""A driver that said nothing for so long is gone, or busy starting."""


class Resizable(Protocol):
    """A pool, as far as its size goes."""

    @property
    def size(self) -> int: ...
    def states(self) -> Mapping[int, str]: ...
    def resize(self, size: int, *, leaving: Sequence[int] = ()) -> None: ...


@dataclass(frozen=True)
class Scaled:
    """A pool that may be resized."""

    pool: Resizable
    key: str
    """The configuration's key that bounds it, for messages."""
    most: int | None = None
    """None: no limit."""


@dataclass(frozen=True)
class Wish:
    """What somebody wants of a pool."""

    size: int
    leaving: tuple[int, ...] = ()
    """Numbers of workers that leave first."""


@dataclass
class Control:
    """The named actor: wishes one way, states the other."""

    _wishes: dict[str, Wish] = field(default_factory=dict)
    _states: Mapping[str, PoolState] = field(default_factory=dict)
    _told_at: float = 0.0

    def exchange(self, states: Mapping[str, PoolState]) -> dict[str, Wish]:
        """By the driver: how the pools are; returns what is wanted since the last call."""
        self._states, self._told_at = states, time.monotonic()
        wishes, self._wishes = self._wishes, {}
        return wishes

    def ask(self, wishes: Mapping[str, Wish]) -> None:
        """By anybody.

        Raises:
            ConfigError: no such pool, or a size that it cannot have; none of the wishes is taken.
        """
        for name, wish in wishes.items():
            check_wish(name, wish, self._states)
        self._wishes |= wishes

    def states(self) -> tuple[Mapping[str, PoolState], float]:
        """What the driver said last, and how many seconds ago."""
        return self._states, time.monotonic() - self._told_at


def check_wish(name: str, wish: Wish, states: Mapping[str, PoolState]) -> None:
    """Whether a pool can be so.

    Raises:
        ConfigError: it cannot; says what is possible.
    """
    state = states.get(name)
    if state is None:
        raise ConfigError(f"{name}: the run has no such pool; it has {', '.join(states) or 'none yet'}")
    if wish.size < 1:
        raise ConfigError(f"{name}={wish.size}: a pool needs at least one worker")
    if state.most is not None and wish.size > state.most:
        raise ConfigError(f"{name}={wish.size}: the run allows at most {state.most} ({state.key})")
    if unknown := set(wish.leaving) - set(state.workers):
        raise ConfigError(
            f"--leave: there is no {name} worker {min(unknown)}; there are {', '.join(map(str, state.workers))}"
        )


@contextmanager
def controlled(
    run_dir: Path, pools: Mapping[str, Scaled], *, on_resize: Callable[[Mapping[str, int]], None]
) -> Iterator[None]:
    """Take wishes for the pools from whoever reads `control.json` in the run's folder.

    Args:
        on_resize: called with the sizes of all pools, in another thread, after any was changed.
    """
    import ray

    namespace = f"videor2-rl-{uuid.uuid4().hex}"
    options = {"name": ACTOR, "namespace": namespace, "num_cpus": 0, "max_restarts": -1}
    actor: Any = ray.remote(Control).options(**options).remote()
    over = threading.Event()
    thread = threading.Thread(
        target=_exchange,
        args=(actor, pools, over),
        kwargs={"run_dir": run_dir, "on_resize": on_resize},
        name="control",
        daemon=True,
    )
    thread.start()
    Place(gcs_address(), namespace, os.environ.get(AUTH_MODE)).write(run_dir)
    try:
        yield
    finally:
        (run_dir / PLACE_FILE).unlink(missing_ok=True)
        over.set()
        thread.join()
        (run_dir / POOLS_FILE).unlink(missing_ok=True)
        ray.kill(actor, no_restart=True)


def _exchange(
    actor: Any,
    pools: Mapping[str, Scaled],
    over: threading.Event,
    *,
    run_dir: Path,
    on_resize: Callable[[Mapping[str, int]], None],
) -> None:
    told: Mapping[str, PoolState] = {}
    sizes = {name: one.pool.size for name, one in pools.items()}
    while not over.wait(POLL_S):
        states = {name: PoolState(sizes[name], one.pool.states(), one.key, one.most) for name, one in pools.items()}
        if states != told:
            # Nor does it depend on who looks.
            with suppress(OSError):
                write_pools(run_dir, states)
                told = states
        wishes: Mapping[str, Wish] = {}
        # The run does not depend on who wants to change it.
        with suppress(Exception):
            asked = actor.exchange.remote(states)
            wishes = fetch(asked, deadline_s=ANSWER_S, what="what is wanted of the pools", counts=False)
        for name, wish in wishes.items():
            log.info("%s: from %d to %d workers", name, sizes[name], wish.size)
            sizes[name] = wish.size
            pools[name].pool.resize(wish.size, leaving=wish.leaving)
        if wishes:
            on_resize(sizes)


@contextmanager
def control_of(run_dir: Path, place: Place) -> Iterator[Any]:
    """The control actor of the run that trains in a folder, connected to its cluster.

    Raises:
        ConfigError: its cluster cannot be reached.
    """
    import ray

    try:
        yield _connected(place, run_dir)
    finally:
        ray.shutdown()


def _connected(place: Place, run_dir: Path) -> Any:
    import ray

    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        ray.init(address=place.address, namespace=place.namespace, **options)
        return ray.get_actor(ACTOR)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"{run_dir}: the run does not answer ({error}); it may have been killed") from None
