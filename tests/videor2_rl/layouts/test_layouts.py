"""Every layout gives the same sample, from every kind of file; what is no layout is one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import DataConfig
from videor2_rl.dataset import load_samples
from videor2_rl.layouts.files import read_rows, write_rows
from videor2_rl.layouts.reading import read_row
from videor2_rl.layouts.row import RowError
from videor2_rl.types import VideoSample

QUESTION = "Who enters first?\nA. a man\nB. a dog"
ANSWER = "<answer>B</answer>"
GROUNDING = {"00:05": "A dog enters.", "00:09-00:12": "A man enters."}
SHARED = {"id": "k1", "temporal_grounding": GROUNDING, "problem_type": "multiple choice", "hint": "door"}
VIDEO_PART = {"type": "video", "video": "a/b.mp4", "fps": 2.0}
TEXT_PART = {"type": "text", "text": QUESTION}
USER = {"role": "user", "content": [VIDEO_PART, TEXT_PART]}
SYSTEM = {"role": "system", "content": "Look closely."}
SYSTEM_PART = {"role": "system", "content": [{"type": "text", "text": "Look closely."}]}
ASSISTANT = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}

ROWS: dict[str, dict[str, Any]] = {
    "paper": {
        **SHARED,
        "video": "a/b.mp4",
        "conversations": [
            {"from": "system", "value": "Look closely."},
            {"from": "human", "value": f"<video>\n{QUESTION}"},
            {"from": "gpt", "value": ANSWER},
        ],
    },
    "messages with a video part": {**SHARED, "messages": [SYSTEM_PART, USER, ASSISTANT]},
    "messages with the video beside them": {
        **SHARED,
        "messages": [SYSTEM, {"role": "user", "content": f"<video>{QUESTION}"}, {**ASSISTANT, "content": ANSWER}],
        "videos": ["a/b.mp4"],
    },
    "messages with an address": {
        **SHARED,
        "messages": [
            SYSTEM_PART,
            {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "a/b.mp4"}}, TEXT_PART]},
            ASSISTANT,
        ],
    },
    "trl, prompt as messages": {
        **SHARED,
        "prompt": [SYSTEM_PART, {"role": "user", "content": [{"type": "video"}, TEXT_PART]}],
        "solution": ANSWER,
        "video": "a/b.mp4",
    },
    "trl, completion": {
        **SHARED,
        "prompt": [SYSTEM, {"role": "user", "content": QUESTION}],
        "completion": [ASSISTANT | {"content": ANSWER}],
        "video": "a/b.mp4",
    },
    "verl": {
        "prompt": [SYSTEM, {"role": "user", "content": f"<video>{QUESTION}"}],
        "videos": [{"type": "video", "video": "a/b.mp4"}],
        "reward_model": {"style": "rule", "ground_truth": ANSWER},
        "hint": "door",
        "extra_info": {key: SHARED[key] for key in ("id", "temporal_grounding", "problem_type")},
    },
}


def data_config(tmp_path: Path) -> DataConfig:
    return DataConfig(
        train_file=None,
        validation_file=None,
        media_dir=str(tmp_path),
        subtitles_dir=None,
        shuffle=True,
        max_skipped_frac=0.1,
        make_demo=None,
    )


def load(file: Path, rows: list[Any]) -> list[VideoSample]:
    if file.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_samples(str(file), data=data_config(file.parent))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ROWS)
def test_every_layout_in_every_file_gives_the_same_sample(name: str, suffix: str, tmp_path: Path) -> None:
    (sample,) = load(tmp_path / f"rows{suffix}", [ROWS[name]])
    expected = VideoSample(
        sample_id="k1",
        video=str(tmp_path / "a/b.mp4"),
        question=QUESTION,
        solution=ANSWER,
        temporal_grounding=GROUNDING,
        problem_type="multiple choice",
        options=("a man", "a dog"),
        system_prompt="Look closely.",
        extra=sample.extra,
    )
    assert sample == expected
    assert sample.extra["hint"] == "door"
    assert set(sample.extra) == ({"hint", "extra_info"} if name == "verl" else {"hint"})


def test_a_plain_prompt_a_number_and_no_further_columns() -> None:
    row = read_row({"prompt": "How many?", "solution": 4, "video": ["x.mp4"]})
    assert (row.layout, row.question, row.solution, row.video) == ("trl", "How many?", "4", "x.mp4")
    assert (row.id, row.system_prompt, row.temporal_grounding, row.options, row.extra) == (None, None, None, None, {})


def test_verls_data_source_and_extra_info_are_kept_for_rewards() -> None:
    given = {**ROWS["verl"], "data_source": "mine", "ability": "time"}
    kept = ("data_source", "ability", "hint", "extra_info")
    assert read_row(given).extra == {key: given[key] for key in kept}


def test_a_part_may_bound_its_clip_and_name_a_file_address() -> None:
    part = {"type": "video", "video": "file:///clips/a%20b.mp4", "video_start": 2, "video_end": 8.5}
    row = read_row({"messages": [{"role": "user", "content": [part, TEXT_PART]}], "solution": "B"})
    assert (row.video, row.video_start_s, row.video_end_s) == ("/clips/a b.mp4", 2.0, 8.5)
    assert row.solution == "B"


def test_rows_of_one_parquet_file_keep_their_own_time_keys(tmp_path: Path) -> None:
    """Parquet gives a struct's fields to every row, with nulls."""
    rows = [{**ROWS["paper"], "id": key, "temporal_grounding": {key: "Something."}} for key in ("00:01", "00:02")]
    samples = load(tmp_path / "rows.parquet", rows)
    assert [sample.temporal_grounding for sample in samples] == [{"00:01": "Something."}, {"00:02": "Something."}]


@pytest.mark.parametrize("grounding", [json.dumps(GROUNDING), [[key, text] for key, text in GROUNDING.items()]])
def test_a_grounding_may_be_json_text_or_pairs(grounding: Any) -> None:
    assert read_row({**ROWS["paper"], "temporal_grounding": grounding}).temporal_grounding == GROUNDING


def test_columns_that_are_null_count_as_absent() -> None:
    row = read_row({**ROWS["paper"], "messages": None, "prompt": None, "images": None, "options": None})
    assert row.layout == "paper" and row.options is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"problem": "x", "answer": "y"}, ["has the keys answer, problem", "conversations", "messages", "TRL", "verl"]),
        ({}, ["has no keys"]),
        (3, ["is a number, expected an object"]),
        ({"prompt": "Who?", "video": "a.mp4"}, ["solution is None"]),
        ({"prompt": "Who?", "video": "a.mp4", "solution": ["B"]}, ["solution is ['B']"]),
        (
            {"prompt": "Who?", "video": "a.mp4", "reward_model": {"style": "rule"}},
            ["reward_model.ground_truth is None"],
        ),
        ({"prompt": [], "video": "a.mp4", "solution": "B"}, ["prompt is 0 turns", "expected one user turn, after"]),
        ({"prompt": [SYSTEM, USER, ASSISTANT], "solution": "B"}, ["prompt is 3 turns"]),
        (
            {"messages": [USER, ASSISTANT, USER, ASSISTANT]},
            ["messages is 4 turns, expected a user turn and at most one assistant turn, after at most one"],
        ),
        ({"messages": [ASSISTANT, USER]}, ['expected {"role": "user"']),
        ({"messages": [USER]}, ["solution is None"]),
        ({"messages": [{"role": "user", "content": [TEXT_PART]}, ASSISTANT]}, ["video is None"]),
        ({"messages": [{"role": "user", "content": [VIDEO_PART, VIDEO_PART]}, ASSISTANT]}, ["names 2 clips"]),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT]}, ["of type 'image'"]),
        ({"messages": [{"role": "user", "content": 3}, ASSISTANT]}, ["text or parts"]),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}, ASSISTANT]}, ["a text part holds None"]),
        ({"messages": [USER, ASSISTANT], "video": "other.mp4"}, ["names 2 clips, a/b.mp4 and other.mp4"]),
        ({"prompt": "Who?", "solution": "B", "video": "https://host/a.mp4"}, ["download the clip"]),
        ({"prompt": "Who?", "solution": "B", "video": {"bytes": b"x", "path": None}}, ["write the clips to files"]),
        ({"prompt": "Who?", "solution": "B", "videos": [{"video": ["1.png", "2.png"]}]}, ["a list of 2 pictures"]),
        ({"prompt": "Who?", "solution": "B", "images": ["a.png"]}, ["an image and no video"]),
        ({**ROWS["paper"], "temporal_grounding": "at five"}, ["temporal_grounding is 'at five'"]),
        # Each would make a map: of two letters, and not of one or three.
        ({**ROWS["paper"], "temporal_grounding": ["ab"]}, ["temporal_grounding is ['ab']"]),
        ({**ROWS["paper"], "temporal_grounding": [["00:05"]]}, ["temporal_grounding is [['00:05']]"]),
    ],
)
def test_what_cannot_be_read_is_said(row: Any, words: list[str]) -> None:
    with pytest.raises(RowError) as caught:
        read_row(row)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_layout_names_file_and_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows.jsonl: row 1: has the keys problem, which is no layout known here"):
        load(tmp_path / "rows.jsonl", [ROWS["paper"], {"problem": "x"}])


def test_a_json_file_of_lines_and_a_line_separator_in_a_text_are_read(tmp_path: Path) -> None:
    file = tmp_path / "lines.json"
    file.write_text('{"a": "one\u2028two"}\n{"a": 2}\n', encoding="utf-8")
    assert read_rows(file) == [{"a": "one\u2028two"}, {"a": 2}]
    file.rename(tmp_path / "lines.jsonl")
    assert read_rows(tmp_path / "lines.jsonl") == [{"a": "one\u2028two"}, {"a": 2}]


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    for name, data in (("a.parquet", b"not at all"), ("b.json", b"PAR1 cut off")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match=rf"{name}: is no readable Parquet file \(.*\); write or fetch it again"):
            read_rows(tmp_path / name)
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"name a \.json, \.jsonl or \.parquet file"):
        read_rows(tmp_path / "c.json")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_the_papers_layout_keeps_everything_but_the_layout(suffix: str, tmp_path: Path) -> None:
    rows = [read_row(row) for row in ROWS.values()]
    write_rows(tmp_path / f"out{suffix}", [row.as_paper("unused") for row in rows])
    again = [read_row(row) for row in read_rows(tmp_path / f"out{suffix}")]
    for row, back in zip(rows, again, strict=True):
        extra = {key: value for key, value in back.extra.items() if value is not None}
        if suffix == ".parquet" and "extra_info" in extra:
            # A struct; its map has become one too.
            extra["extra_info"] = row.extra["extra_info"]
        assert replace(back, extra=extra) == replace(row, layout="paper")


def test_what_json_cannot_hold_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 1: thumbnail: bytes is nothing that JSON holds; leave the column out"):
        write_rows(tmp_path / "out.jsonl", [{"id": "a"}, {"id": "b", "thumbnail": b"x"}])
    assert list(tmp_path.iterdir()) == []
