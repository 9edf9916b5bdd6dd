"""Files that are whole or absent: a reader never sees half of one, whenever the writer is killed."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class FileSum:
    """By what a damaged file is told from a whole one."""

    size: int
    """Bytes."""
    crc32: int


def file_sum(path: Path) -> FileSum:
    """Size and checksum of what the file holds."""
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return FileSum(size, crc32)


def sync(path: Path) -> None:
    """Force a file or a folder's entries to the disk, so that a later rename never becomes visible before its data."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def apply_umask(*files: Path) -> None:
    """Give files the rights that an ordinary `open` would: mkstemp's and safetensors' are their owner's alone."""
    umask = os.umask(0)
    os.umask(umask)
    for file in files:
        os.chmod(file, 0o666 & ~umask)


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` as UTF-8 beside `path`, flush it to the disk, then rename it over `path`; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        # newline="": what is written is `text` itself on every platform.
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        apply_umask(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON. NaN and infinity raise ValueError: JSON has neither."""
    write_text_atomic(path, _json_text(value, indent=2) + "\n")


def write_jsonl_atomic(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line. NaN and infinity raise ValueError: JSON has neither."""
    write_text_atomic(path, "".join(_json_text(row) + "\n" for row in rows))


def _json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8: a text with a lone surrogate in it is escaped as a whole."""
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    return json.dumps(value, indent=indent, allow_nan=False) if _SURROGATE.search(text) else text


def parse_json(line: bytes) -> Any:
    """The value of a JSON text, several times as fast as `json.loads` where it is strict JSON.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    import orjson

    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line)  # NaN, lone surrogates, numbers beyond 64 bits.


def json_line(value: Any) -> bytes:
    """One line of JSON, UTF-8. What JSON cannot hold becomes null (NaN, infinity) or an escape (a lone surrogate)."""
    import orjson

    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return f"{json.dumps(_finite(value), allow_nan=False)}\n".encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ConfigError: the file is missing or holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); write it again.") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, with or without a byte order mark; bytes that are no text become U+FFFD.

    Raises:
        ConfigError: the file is missing.
    """
    try:
        # Split at "\n" only: str.splitlines would also cut at U+2028, which JSON allows inside a string.
        return path.read_bytes().decode("utf-8-sig", errors="replace").split("\n")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None


def read_jsonl(path: Path, *, torn_last_line: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, in order; empty lines are passed over.

    Args:
        path: the file.
        torn_last_line: drop a last line that is cut off, as a killed process leaves it in a file it appends to.

    Raises:
        ConfigError: the file is missing, or a line holds no JSON object.
    """
    lines = read_lines(path)
    last = max((number for number, line in enumerate(lines) if line.strip()), default=-1)
    rows = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if torn_last_line and number == last:
                break
            raise ConfigError(
                f"{path}, line {number + 1} is not valid JSON ({error}); remove the line or write the file again."
            ) from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number + 1} holds a {type(row).__name__}, not an object; mend the line.")
        rows.append(row)
    return rows
