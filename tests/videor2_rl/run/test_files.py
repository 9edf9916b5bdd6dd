from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import (
    FileSum,
    file_sum,
    json_line,
    parse_json,
    read_json,
    read_jsonl,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_text_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is gone"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_appears_only_after_its_content_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file.txt"
    seen = []
    replace = os.replace

    def watched(source: str, target: Path) -> None:
        seen.append((path.exists(), Path(source).read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_text_atomic(path, "complete")
    assert seen == [(False, "complete")]


def test_the_content_is_forced_to_the_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "file.txt", []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        done.append(f"fsync of {os.fstat(descriptor).st_size} bytes")

    def watched_replace(source: str, target: Path) -> None:
        replace(source, target)
        done.append("replace")

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_text_atomic(path, "complete")
    assert done == ["fsync of 8 bytes", "replace"]


def test_a_files_sum_is_its_size_and_the_crc32_of_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"123456789")
    # The published check value of CRC-32.
    assert file_sum(path) == FileSum(9, 0xCBF43926)
    content = b"x" * (1 << 24) + b"123456789"
    path.write_bytes(content)
    assert file_sum(path) == FileSum((1 << 24) + 9, zlib.crc32(content))


def test_a_line_of_json_holds_what_json_lacks_as_null() -> None:
    assert json_line({"a": [1, 2.5]}) == b'{"a":[1,2.5]}\n'
    assert json.loads(json_line({"a": math.nan, "b": [math.inf, "\ud800"]})) == {"a": None, "b": [None, "\ud800"]}
    assert math.isnan(parse_json(b"NaN")) and parse_json(b"[1]") == [1]
    with pytest.raises(ValueError):
        parse_json(b"[1")


def test_a_written_file_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        write_text_atomic(tmp_path / "file.txt", "x")
    finally:
        os.umask(umask)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o644


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=4))
def test_jsonl_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    write_jsonl_atomic(path, rows)
    assert read_jsonl(path) == rows


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_json_lacks_are_refused_and_nothing_is_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError):
        write_json_atomic(tmp_path / "a.json", {"x": value})
    with pytest.raises(ValueError):
        write_jsonl_atomic(tmp_path / "a.jsonl", [{"x": value}])
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_dropped_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert read_jsonl(path, torn_last_line=True) == [{"a": 1}]
    with pytest.raises(ConfigError, match=r"rows\.jsonl, line 2 is not valid JSON"):
        read_jsonl(path)


def test_a_character_cut_in_two_by_a_kill_counts_as_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"a": "é'.encode()[:-1])
    assert read_jsonl(path, torn_last_line=True) == [{"a": 1}]


def test_a_broken_line_in_the_middle_is_named_even_where_the_last_may_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1\n{"a": 2}\n')
    with pytest.raises(ConfigError, match="line 1 is not valid JSON"):
        read_jsonl(path, torn_last_line=True)


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(ConfigError, match="line 2 holds a list, not an object"):
        read_jsonl(path)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ConfigError, match=r"none\.json does not exist"):
        read(tmp_path / "none.json")
