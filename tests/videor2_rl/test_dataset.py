"""Rows become samples, faults become sentences, and the order needs nothing but the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import DataConfig
from videor2_rl.dataset import SampleOrder, load_samples, parse_options


def data_config(media_dir: Path, subtitles_dir: Path | None = None) -> DataConfig:
    return DataConfig(
        train_file=None,
        validation_file=None,
        media_dir=str(media_dir),
        subtitles_dir=str(subtitles_dir) if subtitles_dir else None,
        shuffle=True,
        max_skipped_frac=0.1,
        make_demo=None,
    )


def row(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "video": "a/b.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nWhat is it? A. red B. green"},
            {"from": "gpt", "value": "<think>x</think><answer>A</answer>"},
        ],
    }
    return {key: item for key, item in {**value, **changes}.items() if item is not ...}


def load(tmp_path: Path, rows: Any, **config: Any) -> list[Any]:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    return load_samples(str(file), data=data_config(tmp_path / "media", **config))


def test_a_row_becomes_a_sample_without_its_marker(tmp_path: Path) -> None:
    (sample,) = load(tmp_path, [row(temporal_grounding={"00:05": "A dog barks."}, video_start=1, video_end=2.5)])
    assert sample.sample_id == "rows-0"
    assert sample.video == str(tmp_path / "media/a/b.mp4")
    assert sample.question == "What is it? A. red B. green"
    assert sample.solution == "<think>x</think><answer>A</answer>"
    assert sample.options == ("red", "green")
    assert sample.temporal_grounding == {"00:05": "A dog barks."}
    assert (sample.clip_start_s, sample.clip_end_s) == (1.0, 2.5)
    assert sample.subtitles is None


def test_a_list_of_one_video_and_given_options_are_taken(tmp_path: Path) -> None:
    (sample,) = load(tmp_path, [row(id=7, video=["c.mp4"], options=["A. cat", "(B) dog", "C"], problem_type="mc")])
    assert (sample.sample_id, sample.options, sample.problem_type) == ("7", ("cat", "dog", "C"), "mc")


def test_json_lines_and_json_give_the_same_samples(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row(id=str(i))) for i in range(3)) + "\n\n")
    samples = load_samples(str(lines), data=data_config(tmp_path / "media"))
    assert samples == load(tmp_path, [row(id=str(i)) for i in range(3)])


def test_subtitles_lie_in_their_own_folder_or_beside_the_clip(tmp_path: Path) -> None:
    for folder in ("media", "subtitles"):
        (tmp_path / folder / "a").mkdir(parents=True)
    own, beside = tmp_path / "subtitles/a/b.srt", tmp_path / "media/a/b.srt"
    assert load(tmp_path, [row()], subtitles_dir=tmp_path / "subtitles")[0].subtitles is None
    beside.touch()
    assert load(tmp_path, [row()])[0].subtitles == str(beside)
    (found,) = load(tmp_path, [row()], subtitles_dir=tmp_path / "subtitles")
    assert found.subtitles == str(beside) and found.subtitles_beside
    own.touch()
    (within,) = load(tmp_path, [row()], subtitles_dir=tmp_path / "subtitles")
    assert within.subtitles == str(own) and not within.subtitles_beside
    # One folder for both, named as the one of subtitles.
    (within,) = load(tmp_path, [row()], subtitles_dir=tmp_path / "media")
    assert within.subtitles == str(beside) and not within.subtitles_beside
    assert load(tmp_path, [row()])[0].subtitles == str(beside)


def asked(question: str) -> dict[str, Any]:
    return row(conversations=[{"from": "human", "value": question}, row()["conversations"][1]])


@pytest.mark.parametrize(
    ("question", "read"),
    [
        ("<video>\nWhich HTML tag? A. <video> B. <audio>", "Which HTML tag? A. <video> B. <audio>"),
        ("<video> Is <video> or <audio> typed?", "Is <video> or <audio> typed?"),
        ("Which tag is typed?\n<video>\nA. <video> B. <audio>", "Which tag is typed?\n\nA. <video> B. <audio>"),
        ("Is it <video> or <video controls>? A. <video> B. no", "Is it <video> or <video controls>? A. <video> B. no"),
        ("Watch <video> and tell: what is it?", "Watch  and tell: what is it?"),
        ("What is it? <video>", "What is it?"),
        ("<video>\nWhich tag? A. <img> B. <image>", "Which tag? A. <img> B. <image>"),
        ("\n <video>\nWhat is it?\u2028A. red", "What is it?\u2028A. red"),
    ],
)
def test_a_marker_stands_where_markers_stand_and_elsewhere_is_the_word(
    tmp_path: Path, question: str, read: str
) -> None:
    (sample,) = load(tmp_path, [asked(question)])
    assert sample.question == read


def test_beside_a_video_part_the_word_is_text(tmp_path: Path) -> None:
    parts = [{"type": "video", "video": "a/b.mp4"}, {"type": "text", "text": "Where does <video> stand?"}]
    (sample,) = load(tmp_path, [{"messages": [{"role": "user", "content": parts}], "solution": "A"}])
    assert sample.question == "Where does <video> stand?"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_json_lines_end_at_line_feeds_alone(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [asked(f"<video>Which{separator}colour?"), row(id="last")]
    # Control characters below 0x20 must be escaped in JSON; the others stand as they are.
    file.write_bytes("\r\n".join(json.dumps(each, ensure_ascii=False) for each in rows).encode() + b"\r\n")
    first, second = load_samples(str(file), data=data_config(tmp_path / "media"))
    assert first.question == f"Which{separator}colour?" and second.sample_id == "last"


TURNS = row()["conversations"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("text", ["is a string", "expected an object"]),
        (row(video=...), ["video is None", "data.media_dir"]),
        (row(video=3), ["video is 3"]),
        (row(video=["a.mp4", "b.mp4"]), ["video lists 2 clips"]),
        (row(video=..., image="a.png"), ["image"]),
        (row(conversations=...), ["has the keys video", "no layout known here", "conversations", "messages", "verl"]),
        (row(conversations=TURNS[:1]), ["conversations is 1 turns"]),
        (row(conversations=TURNS[::-1]), ["conversations", '"human"']),
        (row(conversations=[TURNS[0], {"from": "gpt"}]), ["conversations", '"gpt"']),
        (row(conversations=[{"from": "human", "value": "<video>"}, TURNS[1]]), ["the question is empty"]),
        (row(conversations=[{"from": "human", "value": "<video><video>q"}, TURNS[1]]), ["more than one <video>"]),
        (asked("<video>\n<video>\nq"), ["more than one <video>"]),
        (asked("<image>\nq"), ["<image> marker"]),
        (asked("<|vision_start|><|video_pad|><|vision_end|>q"), ["the question holds <|vision_start|>", "<video>"]),
        (asked("<video>\nWhat does <|video_pad|> do?"), ["the question holds <|video_pad|>"]),
        (asked("<video>\nWhat does <|image_pad|> do?"), ["the question holds <|image_pad|>"]),
        (
            row(conversations=[TURNS[0], {"from": "gpt", "value": "<answer><|vision_end|></answer>"}]),
            ["the answer holds <|vision_end|>"],
        ),
        (
            row(conversations=[{"from": "system", "value": "Look at <|video_pad|>."}, *TURNS]),
            ["the system turn holds <|video_pad|>"],
        ),
        ({"prompt": "<video>q", "solution": "<|vision_pad|>", "video": "a.mp4"}, ["solution holds <|vision_pad|>"]),
        (row(conversations=[TURNS[0], {"from": "gpt", "value": " "}]), ["the answer is empty"]),
        (row(temporal_grounding=["00:05"]), ["temporal_grounding", "a map from time keys"]),
        (row(temporal_grounding={"00:05": 3}), ["temporal_grounding"]),
        (row(options="A"), ["options is 'A'", "a list of texts"]),
        (row(problem_type=3), ["problem_type is 3"]),
        (row(video_start=-1), ["video_start is -1"]),
        (row(video_end="5"), ["video_end is '5'"]),
        (row(video_start=4, video_end=3), ["video_end is 3.0", "more than video_start (4.0)"]),
        (row(video_start=3, video_end=3), ["video_end is 3.0", "more than video_start (3.0)"]),
        (row(video_end=0), ["video_end is 0.0", "more than video_start (0.0)"]),
        (row(video_start=float("nan")), ["video_start is nan"]),
        (row(video_start=True), ["video_start is True"]),
        (row(id=[1]), ["id is [1]"]),
        (row(id="good"), ["id 'good' is also that of row 0"]),
    ],
)
def test_a_malformed_row_is_named_with_file_row_key_and_mend(tmp_path: Path, bad: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, [row(id="good"), bad])
    for word in ["rows.json: row 1: ", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "[", "not valid JSON"),
        ("a.json", "{}", "holds a JSON object"),
        ("a.json", "[]", "no rows"),
        ("a.jsonl", "{}\n{", "line 2 is not valid JSON"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_samples(str(tmp_path / name), data=data_config(tmp_path))
    with pytest.raises(ConfigError, match="no such dataset file"):
        load_samples(str(tmp_path / "none.json"), data=data_config(tmp_path))


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which? A. red B. green C. blue D. yellow", ("red", "green", "blue", "yellow")),
        ("Which?\nA. a red car\nB. a van\nThink first.", ("a red car", "a van")),
        ("Which?\n(A) one\n(B) two\n(C) three", ("one", "two", "three")),
        ("Which?\nA) 1.5 m\nB) 2 m", ("1.5 m", "2 m")),
        ("Is it vitamin A. or B? A. yes B. no", ("yes", "no")),
        ("A. is before B. in part one. Which? A. yes B. no C. both", ("yes", "no", "both")),
        ("What happens?", ()),
        ("He read part A. Why?", ()),
    ],
)
def test_options_are_read_from_the_question(question: str, options: tuple[str, ...]) -> None:
    assert parse_options(question) == options


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 100), st.integers(0, 2**32))
def test_every_epoch_holds_every_sample_once(num: int, size: int, epoch: int, seed: int) -> None:
    order = SampleOrder(num, seed=seed, shuffle=True)
    steps = range(epoch * num // size, ((epoch + 1) * num - 1) // size + 1)
    drawn = [i for step in steps for i in order.batch(step, size)]
    skipped = epoch * num - steps[0] * size
    assert sorted(drawn[skipped : skipped + num]) == list(range(num))


def test_the_order_depends_on_seed_and_step_alone() -> None:
    first = SampleOrder(100, seed=1, shuffle=True)
    steps = [first.batch(step, 16) for step in range(20)]
    assert SampleOrder(100, seed=1, shuffle=True).batch(13, 16) == steps[13]
    assert SampleOrder(100, seed=2, shuffle=True).batch(13, 16) != steps[13]
    assert SampleOrder(5, seed=1, shuffle=False).batch(1, 4) == [4, 0, 1, 2]


def test_every_epoch_of_every_seed_has_an_order_of_its_own() -> None:
    epochs = [SampleOrder(50, seed=seed, shuffle=True).batch(epoch, 50) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len(set(map(tuple, epochs))) == 6


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([row()]), encoding="utf-8-sig")
    assert len(load_samples(str(tmp_path / "rows.json"), data=data_config(tmp_path))) == 1


def test_a_row_may_have_one_bound_alone(tmp_path: Path) -> None:
    first, second = load(tmp_path, [row(video_start=0), row(video_end=2)])
    assert (first.clip_start_s, first.clip_end_s) == (0.0, None)
    assert (second.clip_start_s, second.clip_end_s) == (None, 2.0)
