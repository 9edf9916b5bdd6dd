"""Files of rows: a JSON list, JSON lines, or Parquet; by the suffix, and where it lies, by what the file holds."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.layouts.row import kind_of

SUFFIXES = (".jsonl", ".json", ".parquet")
_PARQUET_MAGIC = b"PAR1"


def read_rows(path: Path) -> list[Any]:
    """The rows of a file, in order, as plain Python values.

    Raises:
        ConfigError: the file is missing, or is none of the three; the message names the mend.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such dataset file; check data.train_file and data.validation_file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a .json, .jsonl or .parquet file") from None
    if path.suffix == ".parquet" or data.startswith(_PARQUET_MAGIC):
        return _read_parquet(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: cannot be read as UTF-8 text ({error}); name a .json, .jsonl or .parquet file"
        ) from None
    return _read_lines(text, path) if path.suffix == ".jsonl" else _read_list(text, path)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the paper's layout, by the suffix as Parquet, a JSON list or JSON lines; whole or not at all.

    Raises:
        ConfigError: a row holds what such a file cannot, e.g. bytes in JSON; the message names row and column.
    """
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".parquet":
            _write_parquet(part, path, rows)
        else:
            lines = [_json_text(row, number, path) for number, row in enumerate(rows)]
            text = "[\n" + ",\n".join(lines) + "\n]\n" if path.suffix == ".json" else "\n".join([*lines, ""])
            part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read_list(text: str, path: Path) -> list[Any]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        # Many a published .json holds JSON lines: its first line is an object by itself.
        if str(error).startswith("Extra data") and text.lstrip().startswith("{"):
            return _read_lines(text, path)
        raise ConfigError(f"{path}: the file is not valid JSON: {error}; mend it there") from None
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: holds a JSON {kind_of(rows)}, expected a list of rows; or name the file .jsonl")
    return rows


def _read_lines(text: str, path: Path) -> list[Any]:
    rows = []
    # Not splitlines: it would also cut at U+2028, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ConfigError(f"{path}: line {number} is not valid JSON: {error}; mend it there") from None
    return rows


def _read_parquet(path: Path) -> list[Any]:
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_table(path).to_pylist())
    except (ArrowException, OSError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: is no readable Parquet file ({detail:.160}); write or fetch it again") from None


def _json_text(row: dict[str, Any], number: int, path: Path) -> str:
    for key, value in row.items():
        try:
            json.dumps(value, default=_plain)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}: row {number}: {key}: {error}; leave the column out, or write .parquet"
            ) from None
    return json.dumps(row, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """What Parquet knows and JSON does not: dates and decimals as texts."""
    import datetime
    import decimal

    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def _write_parquet(part: Path, path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = list(dict.fromkeys(key for row in rows for key in row))
    try:
        arrays = [_column([row.get(key) for row in rows], key) for key in columns]
        parquet.write_table(pyarrow.table(dict(zip(columns, arrays, strict=True))), part)
    except pyarrow.ArrowException as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be written as Parquet ({detail:.160}); write .jsonl instead") from None


def _column(values: list[Any], key: str) -> Any:
    import pyarrow

    if key != "temporal_grounding":
        return pyarrow.array(values)
    # As a struct it would give every row the time keys of all.
    pairs = [None if value is None else list(value.items()) for value in values]
    return pyarrow.array(pairs, pyarrow.map_(pyarrow.string(), pyarrow.string()))
