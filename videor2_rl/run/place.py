"""Where a run that trains can be spoken to: a file in its folder, read before Ray is imported."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import write_text_atomic

PLACE_FILE = "control.json"
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
