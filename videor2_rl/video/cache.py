"""Processed clips on disk, addressed by content: decoded once, whoever asks and however often.

It saves work and nothing else: where it cannot be written, clips are made anew each time, and callers are told why.

<cache_dir>/clips/ab/<key>.npz       frames, times and rate
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videor2_rl.types import Clip

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What numpy raises on an entry cut short by a full disk or a crash of the machine."""


@dataclass(frozen=True)
class Made:
    """What decoding gives."""

    frames: NDArray[np.uint8]
    """[F, 3, H, W]"""
    times_s: NDArray[np.float64]
    """[F]"""
    sample_fps: float
    """As `Clip.sample_fps`."""


@dataclass(frozen=True)
class ClipStats:
    """How a clip came about."""

    decodes: int
    """How often its content was ever decoded into this cache; 1 unless an entry was lost, or could not be stored."""
    is_cached: bool
    """It was there already."""
    seconds: float
    """Wall time of the call."""
    cache_fault: str | None
    """Why the clip could not be stored; None: it was."""


@dataclass(frozen=True)
class Stored:
    """A clip, and what the cache had to do with it."""

    clip: Clip
    decodes: int
    is_cached: bool
    cache_fault: str | None


def clip_key(settings: dict[str, Any]) -> str:
    """Content address: sha256 of `settings`, which name the files by their hashes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_or_make(cache_dir: Path, key: str, make: Callable[[], Made]) -> Stored:
    """The clip stored under `key`, or what `make()` gives, stored for everyone.

    Of several processes that miss the same key at once, one calls `make` and the others wait for it.
    """
    entry = _entry(cache_dir, key)
    clip = _load(entry, key)
    if clip is not None:
        return Stored(clip, _count(entry), is_cached=True, cache_fault=None)
    with _sole_maker(entry) as fault:
        clip = _load(entry, key)
        if clip is not None:
            return Stored(clip, _count(entry), is_cached=True, cache_fault=None)
        made = make()
        if fault is None:
            fault = _store(entry, made)
        decodes = _count(entry) if fault is None else 1
        return Stored(_clip(key, made), decodes, is_cached=False, cache_fault=fault)


@contextlib.contextmanager
def _sole_maker(entry: Path) -> Iterator[str | None]:
    """Hold an entry's lock; without it where it cannot be had, with the reason."""
    from filelock import FileLock

    with contextlib.ExitStack() as held:
        fault: str | None = None
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(entry.with_suffix(".lock")))
        except (OSError, NotImplementedError) as error:
            fault = _fault(error)
        yield fault


def _store(entry: Path, made: Made) -> str | None:
    """Count the clip and store it; why that could not be done, else None."""
    try:
        with entry.with_suffix(".decodes").open("ab") as file:
            file.write(b".")
        _publish(
            entry,
            lambda file: np.savez(
                file, frames=made.frames, timestamps_s=made.times_s, sample_fps=np.float64(made.sample_fps)
            ),
        )
    except OSError as error:
        return _fault(error)
    return None


def _count(entry: Path) -> int:
    """How often the entry was made, as far as that could be written down."""
    counter = entry.with_suffix(".decodes")
    return counter.stat().st_size if counter.exists() else 0


def _fault(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


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
    # Of the cache, not of `path`: what cannot be remembered is read again.
    with contextlib.suppress(OSError):
        return memo.read_text(encoding="ascii")
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    digest = content.hexdigest()
    with contextlib.suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        _publish(memo, lambda file: file.write(digest.encode("ascii")))
    return digest


def _load(entry: Path, key: str) -> Clip | None:
    try:
        with np.load(entry) as arrays:
            return _clip(key, Made(arrays["frames"], arrays["timestamps_s"], float(arrays["sample_fps"])))
    except _DAMAGED:
        return None


def _clip(key: str, made: Made) -> Clip:
    return Clip(key=key, frames=made.frames, timestamps_s=made.times_s, sample_fps=made.sample_fps)


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
