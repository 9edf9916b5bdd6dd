"""What a run leaves in its folder so that it can go on: complete checkpoints, and nothing half-written."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import FileSum, file_sum, sync, write_json_atomic, write_text_atomic

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_LATEST = "latest"
_READERS = 8
"""Files whose checksums are computed at a time."""


class StateWriter(Protocol):
    """What holds the model and its optimiser."""

    def save(self, path: Path) -> None:
        """Take the state as it is now and begin to write it into the folder."""

    def finish_save(self) -> Mapping[str, FileSum]:
        """Wait until all of it is on the disk; the files by their names in the folder."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    step: int
    """Steps done when it was written; a resumed run begins with the next one."""
    state: Mapping[str, Any]
    """What the loop stored: policy version, data position, counters."""


@dataclass(frozen=True)
class _Begun:
    """A checkpoint on its way to the disk."""

    step: int
    state: Mapping[str, Any]
    folder: Path
    writer: StateWriter


class Checkpoints:
    """The checkpoints of one run, under `<run_dir>/checkpoints/step_000050/`.

    Written in two parts, so that a run need not wait for the disk: `begin` takes the state, `complete` gives the
    checkpoint its name. Until then it lies under a temporary one, and the checkpoint before it is the newest.
    """

    def __init__(self, run_dir: Path, *, keep: int, origin: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            keep: newest checkpoints kept, at least one.
            origin: config key -> value of what a run must share with the one it goes on from, JSON-able.
        """
        self._folder = run_dir / "checkpoints"
        self._keep = max(1, keep)
        self._origin = dict(origin or {})
        self._begun: _Begun | None = None

    def begin(self, step: int, state: Mapping[str, Any], writer: StateWriter) -> None:
        """Take the run's state and begin to write it; whatever was begun before is completed first.

        Args:
            step: steps done.
            state: JSON-able state of the loop.
            writer: puts everything else (model, optimiser, ...) into the folder it is given.
        """
        self.complete()
        for leftover in self._folder.glob(".partial_*"):
            shutil.rmtree(leftover, ignore_errors=True)
        # A name of its own: workers of a killed run may live a moment longer and still write into theirs.
        folder = self._folder / f".partial_{_name(step)}_{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        writer.save(folder)
        self._begun = _Begun(step, dict(state), folder, writer)

    def complete(self) -> None:
        """Wait for the checkpoint that was begun and make it the newest; `latest` moves last."""
        if self._begun is None:
            return
        begun, self._begun = self._begun, None
        files = {name: asdict(found) for name, found in sorted(begun.writer.finish_save().items())}
        content = {"step": begun.step, "state": begun.state, "origin": self._origin, "files": files}
        write_json_atomic(begun.folder / _MANIFEST, {"crc32": _crc32(content), **content})
        sync(begun.folder)
        target = self._folder / _name(begun.step)
        shutil.rmtree(target, ignore_errors=True)
        begun.folder.rename(target)
        sync(self._folder)
        write_text_atomic(self._folder / _LATEST, target.name)
        self._prune(begun.step)

    @contextmanager
    def completed(self) -> Iterator[None]:
        """Complete what was begun when the block ends; an error that ends it stays the one that is raised."""
        try:
            yield
        except BaseException:
            try:
                self.complete()
            except Exception as error:
                logger.warning("the newest checkpoint was not completed: %s", error)
            raise
        self.complete()

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of these steps, whole or begun."""
        return (self._folder / _name(step) / _MANIFEST).exists() or (
            self._begun is not None and self._begun.step == step
        )

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, None where there is none; damaged ones are named in a warning.

        Raises:
            ConfigError: it was written by a run with another `origin`.
        """
        for path in self._all():
            try:
                manifest = _whole_manifest(path)
            except _Damaged as damage:
                logger.warning("checkpoint %s is damaged (%s); going on from the one before it", path, damage)
                continue
            self._check_origin(path, manifest["origin"])
            return Checkpoint(path, manifest["step"], manifest["state"])
        return None

    def _check_origin(self, path: Path, origin: Mapping[str, Any]) -> None:
        for key, value in self._origin.items():
            if origin.get(key) != value:
                raise ConfigError(
                    f"{key}: found {value}, but {path} was written with {origin.get(key)}; "
                    "resume with that, or give another output_dir"
                )

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("step_*"), key=_step, reverse=True)

    def _prune(self, newest: int) -> None:
        """Keep the newest ones up to this step; later ones were damaged when the run went on from an earlier one."""
        found = self._all()
        earlier = [path for path in found if _step(path) <= newest]
        for path in {*found} - {*earlier[: self._keep]}:
            shutil.rmtree(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint by its folder, whole.

    Raises:
        ConfigError: it is none, or damaged.
    """
    try:
        manifest = _whole_manifest(path)
    except _Damaged as damage:
        raise ConfigError(f"{path} is no whole checkpoint: {damage}; give another") from None
    return Checkpoint(path, manifest["step"], manifest["state"])


class _Damaged(Exception):
    """What is wrong with a checkpoint."""


def _whole_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all as they were written.

    Raises:
        _Damaged: one of them is not.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        is_whole = manifest.pop("crc32") == _crc32(manifest)
    except (OSError, ValueError, KeyError, AttributeError):
        is_whole = False
    if not is_whole:
        raise _Damaged(f"{_MANIFEST} is missing or not as it was written")
    files = {path / name: FileSum(**found) for name, found in manifest["files"].items()}
    # Sizes first: a missing file is noticed without reading the others.
    for file, expected in files.items():
        size = file.stat().st_size if file.is_file() else None
        if size != expected.size:
            state = "is missing" if size is None else f"has {size} bytes"
            raise _Damaged(f"{file.name} {state}, {expected.size} bytes were written")
    with ThreadPoolExecutor(max_workers=_READERS) as readers:
        for (file, expected), found in zip(files.items(), readers.map(file_sum, files), strict=True):
            if found != expected:
                raise _Damaged(f"{file.name} has another checksum than what was written")
    return manifest


def _crc32(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _name(step: int) -> str:
    return f"step_{step:06d}"


def _step(path: Path) -> int:
    return int(path.name.rpartition("_")[2])
