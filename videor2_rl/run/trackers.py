"""verl's trackers started and ended: their places, and one W&B run for a run that goes on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LoggingConfig
from videor2_rl.run.files import write_text_atomic

if TYPE_CHECKING:
    from verl.utils.tracking import Tracking

WANDB_ID_FILE = "wandb_run_id"


def start_trackers(run_dir: Path, config: LoggingConfig, run_config: Mapping[str, Any]) -> Tracking:
    """verl's trackers; their files lie under the run's folder, and a run that goes on is the same run of W&B.

    What the environment says already (TENSORBOARD_DIR, WANDB_DIR, WANDB_RUN_ID, ...) goes before.
    """
    places = {
        "TENSORBOARD_DIR": str(run_dir / "tensorboard"),
        "WANDB_DIR": str(run_dir),
        "WANDB_RUN_ID": _wandb_id(run_dir) if "wandb" in config.trackers else "",
        "WANDB_RESUME": "allow",
    }
    # Imported here: verl loads Ray, and a run without trackers needs neither.
    from verl.utils.tracking import Tracking

    try:
        with _environment(places):
            # verl reads its own `trainer` section from whatever configuration it is given.
            return Tracking(config.project, config.name, list(config.trackers), config={"trainer": {}, **run_config})
    except ImportError as error:
        raise ConfigError(
            f"logging.trackers={list(config.trackers)} could not start ({error}); install the package "
            f"{error.name or 'it needs'}, or set logging.trackers=[]"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"logging.trackers={list(config.trackers)} could not start ({type(error).__name__}: {error}); "
            "W&B needs WANDB_API_KEY, or WANDB_MODE=offline; logging.trackers=[] does without."
        ) from error


def _wandb_id(run_dir: Path) -> str:
    """The run's id at W&B, drawn when it begins and kept beside its metrics."""
    file = run_dir / WANDB_ID_FILE
    if not file.exists():
        write_text_atomic(file, secrets.token_hex(4) + "\n")
    return file.read_text(encoding="utf-8").strip()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are not set yet, for the time of the block: a sweep's next run has places of its own."""
    added = {name: value for name, value in values.items() if value and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def finish_trackers(backends: Tracking, *, exit_code: int) -> None:
    """End them; nothing can be logged any more."""
    backends.finish(exit_code=exit_code)
    if "wandb" in backends.logger:
        # It reads the environment once: without this a sweep's next run would be this one.
        backends.logger["wandb"].teardown()
