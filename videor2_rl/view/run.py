"""A run's folder as it grows: what was logged so far, and what came since somebody looked."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from videor2_rl.config.errors import ConfigError
from videor2_rl.report.data import CONFIG_FILE, SKIPPED_FILE, STAGES, read_settings
from videor2_rl.report.folders import kind_of, members_of
from videor2_rl.run.files import read_jsonl
from videor2_rl.run.place import PoolState, read_pools
from videor2_rl.run.resume import FINISHED
from videor2_rl.run.rollout_index import INDEX_FILE, open_index, read_group, update_index
from videor2_rl.run.tracking import METRICS_FILE
from videor2_rl.training.ledger import LEDGER_FILE
from videor2_rl.view.frames import Films
from videor2_rl.view.media import Copies, find_clip, media_roots

_RECENT_S = 120.0


class RunFolder:
    """Read anew as often as asked; nothing is written but the index of its rollouts and playable copies of clips."""

    def __init__(self, folder: Path, name: str, *, media: Sequence[Path] = ()) -> None:
        """
        Args:
            name: by which the page calls it.
            media: further folders that its clips may be read from.
        """
        self.folder = folder
        self.name = name
        self.copies = Copies(folder)
        self.films = Films()
        self._media = tuple(media)
        self._metrics = MetricsTail(folder / METRICS_FILE)
        self._index_file = folder / INDEX_FILE
        self._lock = threading.Lock()

    @property
    def settings(self) -> dict[str, Any]:
        """The tree of config.yaml; empty where there is none."""
        path = self.folder / CONFIG_FILE
        return _settings(path, path.stat().st_mtime_ns) if path.exists() else {}

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl so far."""
        return self._metrics.rows()

    def skipped(self) -> list[dict[str, Any]]:
        """The samples that could not be used so far."""
        path = self.folder / SKIPPED_FILE
        return read_jsonl(path, torn_last_line=True) if path.exists() else []

    def ledger(self) -> dict[str, Any] | None:
        """How prompts ended so far, and how many were on their way when the last step ended; None: none is kept.

        `trained`, `in_flight` (None: not logged), and by reason `skipped` and `filtered`.
        """
        path = self.folder / LEDGER_FILE
        if not path.exists():
            return None
        found: dict[str, Any] = {"trained": 0, "skipped": Counter(), "filtered": Counter(), "in_flight": None}
        for row in read_jsonl(path, torn_last_line=True):
            found["trained"] += len(row["trained"])
            for state in ("skipped", "filtered"):
                found[state].update({reason: len(numbers) for reason, numbers in row[state].items()})
        rows = self.metrics()
        if rows and self.status() == "running":
            found["in_flight"] = rows[-1].get("data/in_flight")
        return found

    def pools(self) -> dict[str, PoolState]:
        """The pools of a run that trains, as it said last; of another one none, though it was killed over them."""
        return read_pools(self.folder) if self.status() == "running" else {}

    def status(self) -> Literal["finished", "running", "stopped"]:
        """running: a process of this machine holds the folder, or another machine's wrote a step a short time ago."""
        if (self.folder / FINISHED).exists():
            return "finished"
        metrics = self.folder / METRICS_FILE
        is_recent = metrics.exists() and time.time() - metrics.stat().st_mtime < _RECENT_S
        return "running" if is_recent or is_held(self.folder / ".lock") else "stopped"

    def state(self) -> dict[str, Any]:
        """How far the run is: the last step, the steps with rollouts, and whether it goes on. Updates the index."""
        self.update()
        rows = self.metrics()
        with self.index() as index:
            logged = 0 if index is None else index.execute("select count(*) from files").fetchone()[0]
        step = int(rows[-1]["step"]) if rows else 0
        pools = {name: dict(pool.workers) for name, pool in self.pools().items()}
        return {"step": step, "rollouts": logged, "status": self.status(), "pools": pools}

    def update(self) -> list[int]:
        """Bring the index up to date; returns the steps that came.

        Where the folder cannot be written, the index lies among the machine's temporary files.
        """
        with self._lock:
            try:
                return update_index(self.folder, self._index_file)
            except ConfigError:
                if self._index_file != self.folder / INDEX_FILE:
                    raise
                self._index_file = Path(tempfile.mkdtemp(prefix="videor2_view_")) / "index.sqlite"
                return update_index(self.folder, self._index_file)

    @contextmanager
    def index(self) -> Iterator[sqlite3.Connection | None]:
        """A connection that only reads; None where the run has logged no rollouts."""
        if not self._index_file.exists():
            yield None
            return
        connection = open_index(self._index_file)
        try:
            yield connection
        finally:
            connection.close()

    def group(self, *, step: int, group_id: int) -> dict[str, Any] | None:
        """A group's whole record; None where there is none."""
        with self.index() as index:
            return None if index is None else read_group(self.folder, index, step=step, group_id=group_id)

    def clip(self, record: Mapping[str, Any]) -> Path:
        """The file of a group's clip.

        Raises:
            ClipError: it is not there, or not in a folder that clips may be read from.
        """
        settings = self.settings
        return find_clip(record.get("video") or "", settings, media_roots(self.folder, settings, self._media))


class MetricsTail:
    """metrics.jsonl, of which only what is new is read; a file that was written anew is read anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._read = 0
        self._inode = 0
        self._lock = threading.Lock()

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far; a last line that is not whole yet waits for its end."""
        with self._lock:
            if not self._path.exists():
                return []
            stat = self._path.stat()
            # A run that goes on replaces the file by one without the steps that it does again.
            if stat.st_ino != self._inode or stat.st_size < self._read:
                self._rows, self._read, self._inode = [], 0, stat.st_ino
            if stat.st_size > self._read:
                with self._path.open("rb") as file:
                    file.seek(self._read)
                    lines = file.read().splitlines(keepends=True)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    if line.strip():
                        self._rows.append(_row(line, self._path))
            return list(self._rows)


def open_runs(folders: Sequence[Path], *, media: Sequence[Path]) -> list[RunFolder]:
    """The runs of some folders: each itself, a demo's stages, or the members of a sweep.

    Raises:
        ConfigError: a folder holds no run.
    """
    found: list[Path] = []
    for folder in folders:
        kind = kind_of(folder)
        if kind == "run":
            found.append(folder)
        elif kind == "demo":
            found += [folder / stage for stage in reversed(STAGES) if (folder / stage / METRICS_FILE).exists()]
        elif kind == "sweep":
            found += [member for member in members_of(folder) if (member / METRICS_FILE).exists()]
        else:
            raise ConfigError(f"{folder} holds no training run ({METRICS_FILE}); give a run, a demo or a sweep")
    return [RunFolder(folder, name, media=media) for folder, name in zip(found, names_of(found), strict=True)]


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of their paths as tells them apart."""
    paths = [folder.resolve() for folder in folders]
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def is_held(lock: Path, table: Path = Path("/proc/locks")) -> bool:
    """Whether a process of this machine holds a lock file. Looking takes no lock: not even for a moment may a run that
    starts find one."""
    if not lock.exists() or not table.exists():
        return False
    stat = lock.stat()
    device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    return any(device in line.split() and "FLOCK" in line for line in table.read_text().splitlines())


@lru_cache(maxsize=64)
def _settings(path: Path, mtime_ns: int) -> dict[str, Any]:
    return read_settings(path.read_text(encoding="utf-8"), path)


def _row(line: bytes, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path} has a line that is not valid JSON ({error}); remove the line") from None
    if not isinstance(row, dict) or "step" not in row:
        raise ConfigError(f"{path} has a line that is no row of metrics; remove the line")
    return row
