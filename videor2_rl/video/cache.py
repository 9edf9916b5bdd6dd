"""Processed clips on disk, addressed by content: decoded once, whoever asks and however often.

<cache_dir>/clips/ab/<key>.npz       frames and times
<cache_dir>/clips/ab/<key>.decodes   one byte for every time the clip was decoded
<cache_dir>/files/ab/<name>          hash of a file, by path, size and modification time
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videor2_rl.types import Clip
from videor2_rl.video.sampling import sample_fps

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What numpy raises on an entry cut short by a full disk or a crash of the machine."""


@dataclass(frozen=True)
class ClipStats:
    """How a clip came about."""

    decodes: int
    """How often its content was ever decoded into this cache; 1 unless an entry was lost."""
    is_cached: bool
    """It was there already."""
    seconds: float
    """Wall time of the call."""


def clip_key(settings: dict[str, Any]) -> str:
    """Content address: sha256 of `settings`, which name the files by their hashes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_or_make(
    cache_dir: Path, key: str, make: Callable[[], tuple[NDArray[np.uint8], NDArray[np.float64]]]
) -> tuple[Clip, int, bool]:
    """The clip stored under `key`, or `make()`'s frames [F, 3, H, W] and times [F], stored for everyone.

    Of several processes that miss the same key at once, one calls `make` and the others wait for it.

    Returns:
        The clip, how often it was ever made, and whether it was there already.
    """
    from filelock import FileLock

    entry = _entry(cache_dir, key)
    counter = entry.with_suffix(".decodes")
    clip = _load(entry, key)
    if clip is not None:
        return clip, counter.stat().st_size, True
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_suffix(".lock")):
        clip = _load(entry, key)
        if clip is not None:
            return clip, counter.stat().st_size, True
        frames, times_s = make()
        with counter.open("ab") as file:
            file.write(b".")
        _publish(entry, lambda file: np.savez(file, frames=frames, timestamps_s=times_s))
        return _clip(key, frames, times_s), counter.stat().st_size, False


def cached(cache_dir: Path, key: str) -> Clip | None:
    """The clip stored under `key`; None where there is none, or a damaged one."""
    return _load(_entry(cache_dir, key), key)


def _entry(cache_dir: Path, key: str) -> Path:
    return cache_dir / "clips" / key[:2] / f"{key}.npz"


def file_hash(path: Path, cache_dir: Path) -> str:
    """sha256 of the file's content, read once for each path, size and modification time.

    Raises:
        OSError: it cannot be read.
    """
    stat = path.stat()
    name = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_dir / "files" / name[:2] / name
    with contextlib.suppress(FileNotFoundError):
        return memo.read_text(encoding="ascii")
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    digest = content.hexdigest()
    memo.parent.mkdir(parents=True, exist_ok=True)
    _publish(memo, lambda file: file.write(digest.encode("ascii")))
    return digest


def _load(entry: Path, key: str) -> Clip | None:
    try:
        with np.load(entry) as arrays:
            return _clip(key, arrays["frames"], arrays["timestamps_s"])
    except _DAMAGED:
        return None


def _clip(key: str, frames: NDArray[np.uint8], times_s: NDArray[np.float64]) -> Clip:
    return Clip(key=key, frames=frames, timestamps_s=times_s, sample_fps=sample_fps(times_s))


def _publish(path: Path, write: Callable[[Any], object]) -> None:
    """Write under another name, then rename: a reader sees all of it or nothing."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
