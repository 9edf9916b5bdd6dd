"""Where a run that trains can be spoken to, and how its pools are: files in its folder, read without Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import write_text_atomic

PLACE_FILE = "control.json"
POOLS_FILE = "pools.json"
AUTH_MODE = "RAY_AUTH_MODE"


@dataclass(frozen=True)
class Place:
    """A Ray cluster, and a namespace in it."""

    address: str
    namespace: str
    auth_mode: str | None
    """Ray turns tokens on by itself for a cluster of its own, and whoever joins must know; they have their own file."""

    def write(self, run_dir: Path) -> None:
        """Into the run's folder."""
        write_text_atomic(run_dir / PLACE_FILE, json.dumps(asdict(self)) + "\n")


def place_of(run_dir: Path) -> Place:
    """Of the run that trains in a folder. This process's environment is made to fit: Ray reads it as it is imported.

    Raises:
        ConfigError: none trains there.
    """
    path = run_dir / PLACE_FILE
    if not path.exists():
        raise ConfigError(f"{run_dir}: no run trains here ({PLACE_FILE} is not there)")
    place = Place(**json.loads(path.read_text(encoding="utf-8")))
    if place.auth_mode is not None:
        os.environ.setdefault(AUTH_MODE, place.auth_mode)
    return place


@dataclass(frozen=True)
class PoolState:
    """What the driver says of a pool."""

    size: int
    """That is wanted."""
    workers: Mapping[int, str]
    """Number -> what it does."""
    key: str
    """The configuration's key that bounds it, for messages."""
    most: int | None
    """None: no limit."""


def write_pools(run_dir: Path, states: Mapping[str, PoolState]) -> None:
    """For whoever looks at the run; a file of the same name is replaced."""
    tree = {name: {**asdict(state), "workers": dict(state.workers)} for name, state in states.items()}
    write_text_atomic(run_dir / POOLS_FILE, json.dumps(tree) + "\n")


def read_pools(run_dir: Path) -> dict[str, PoolState]:
    """What a run that trains said last of its pools; empty where none does."""
    path = run_dir / POOLS_FILE
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {
        name: PoolState(**{**state, "workers": {int(number): word for number, word in state["workers"].items()}})
        for name, state in tree.items()
    }
