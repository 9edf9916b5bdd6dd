"""Replies on disk: whole or absent, whoever writes and however it ends."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.judge import consistency_prompt
from videor2_rl.judge.cache import ReplyCache, cache_key

PROMPT = consistency_prompt("So B.", "B", question="Q?", options=())
SAMPLING = {"temperature": 0.0, "seed": 1}


def key_of(number: int) -> str:
    return cache_key(replace(PROMPT, user=str(number)), model="m", sampling=SAMPLING)


def text_of(number: int) -> str:
    return f"reply {number} é \u2028 " + "x" * 2000


def write_all(folder: Path, count: int) -> None:
    cache = ReplyCache(folder)
    for number in range(count):
        cache.put(key_of(number), text_of(number), prompt=PROMPT, model="m")


def write_for_ever(folder: Path) -> None:
    while True:
        write_all(folder, 50)


def test_everything_that_shapes_a_reply_changes_the_key() -> None:
    changes = [
        (replace(PROMPT, user="other"), "m", SAMPLING),
        (replace(PROMPT, system="other"), "m", SAMPLING),
        (replace(PROMPT, version="consistency.v2"), "m", SAMPLING),
        (replace(PROMPT, schema=None), "m", SAMPLING),
        (PROMPT, "n", SAMPLING),
        (PROMPT, "m", {**SAMPLING, "seed": 2}),
    ]
    keys = [cache_key(prompt, model=model, sampling=sampling) for prompt, model, sampling in changes]
    assert len({*keys, cache_key(PROMPT, model="m", sampling=SAMPLING)}) == len(changes) + 1
    assert cache_key(PROMPT, model="m", sampling=dict(reversed(SAMPLING.items()))) == cache_key(
        PROMPT, model="m", sampling=SAMPLING
    )


def test_a_reply_comes_back_as_it_was(tmp_path: Path) -> None:
    write_all(tmp_path, 3)
    assert [ReplyCache(tmp_path).get(key_of(number)) for number in range(4)] == [
        text_of(0),
        text_of(1),
        text_of(2),
        None,
    ]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"reply": 5}', '{"other": "x"}', "\x00\x00"])
def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path: Path, damage: str) -> None:
    cache = ReplyCache(tmp_path)
    cache.put(key_of(0), text_of(0), prompt=PROMPT, model="m")
    [file] = tmp_path.rglob("*.json")
    file.write_text(damage)
    assert cache.get(key_of(0)) is None
    cache.put(key_of(0), "again", prompt=PROMPT, model="m")
    assert cache.get(key_of(0)) == "again"


def test_a_killed_writer_leaves_whole_replies_only(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path,))
    writer.start()
    while len(list(tmp_path.rglob("*.json"))) < 20:
        time.sleep(0.005)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    for file in tmp_path.rglob("*.json"):
        json.loads(file.read_text())
    found = [ReplyCache(tmp_path).get(key_of(number)) for number in range(50)]
    assert all(text in (None, text_of(number)) for number, text in enumerate(found))


def test_several_writers_of_the_same_replies_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_all, args=(tmp_path, 60)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [ReplyCache(tmp_path).get(key_of(number)) for number in range(60)] == [text_of(n) for n in range(60)]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_takes_no_files_costs_a_warning_and_no_reply(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = ReplyCache(tmp_path / "file")
    cache.put(key_of(0), "a", prompt=PROMPT, model="m")
    cache.put(key_of(1), "b", prompt=PROMPT, model="m")
    assert cache.get(key_of(0)) is None
    assert len(caplog.records) == 1 and "judge.calls.cache_dir" in caplog.text
