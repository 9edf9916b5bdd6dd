"""What a run leaves in its folder so that it can go on: complete checkpoints, and nothing half-written."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videor2_rl.config import ConfigError

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_LATEST = "latest"
FINISHED = "finished"
"""This file in a run's folder says that its last step is done."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    step: int
    """Steps done when it was written; a resumed run begins with the next one."""
    state: Mapping[str, Any]
    """What the loop stored: policy version, counters."""


class Checkpoints:
    """The checkpoints of one run, under `<run_dir>/checkpoints/step_000050/`."""

    def __init__(self, run_dir: Path, *, keep: int) -> None:
        self._folder = run_dir / "checkpoints"
        self._keep = max(1, keep)

    def save(self, step: int, state: Mapping[str, Any], *, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint: all of it under a temporary name first, so that a kill leaves the older ones whole.

        Args:
            step: steps done.
            state: JSON-able state of the loop.
            write: puts everything else (model, optimiser, ...) into the folder it is given.
        """
        target = self._folder / f"step_{step:06d}"
        partial = self._folder / f".partial_{target.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        sizes = {str(file.relative_to(partial)): file.stat().st_size for file in _files(partial)}
        manifest = {"step": step, "state": dict(state), "files": sizes}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in _files(partial):
            _sync(file)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _sync(self._folder)
        self._point_latest_to(target)
        self._prune()
        return target

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, None where there is none; damaged ones are named in a warning."""
        for path in self._all():
            checkpoint = _read(path)
            if checkpoint is not None:
                return checkpoint
            logger.warning("checkpoint %s is damaged or incomplete; trying the one before it", path)
        return None

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob("step_*"), reverse=True)

    def _point_latest_to(self, target: Path) -> None:
        partial = self._folder / f".{_LATEST}"
        partial.write_text(target.name)
        _sync(partial)
        partial.rename(self._folder / _LATEST)

    def _prune(self) -> None:
        for path in self._all()[self._keep :]:
            shutil.rmtree(path)


def start_run(run_dir: Path, *, resume: bool) -> None:
    """Make a run's folder.

    Raises:
        ConfigError: the folder holds a finished run, or a stopped one while `resume` is off.
    """
    if (run_dir / FINISHED).exists():
        raise ConfigError(f"output_dir: {run_dir} holds a finished run; give another output_dir or remove that folder")
    if (run_dir / "metrics.jsonl").exists() and not resume:
        raise ConfigError(
            f"output_dir: {run_dir} holds a stopped run; go on with checkpoint.resume=true or give another output_dir"
        )
    run_dir.mkdir(parents=True, exist_ok=True)


def _read(path: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        is_whole = all((path / name).stat().st_size == size for name, size in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return Checkpoint(path, manifest["step"], manifest["state"]) if is_whole else None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _sync(path: Path) -> None:
    """Force a file or folder entry to the disk, so that the rename after it never becomes visible before its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
