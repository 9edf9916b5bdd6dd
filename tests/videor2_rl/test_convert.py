"""`python -m videor2_rl.convert`: what comes out trains as what went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.config.sections import DataConfig
from videor2_rl.convert import main
from videor2_rl.dataset import load_samples

QUESTION = "Who enters?\nA. a man\nB. a dog"
ROWS: list[dict[str, Any]] = [
    {
        "video": "a.mp4",
        "conversations": [{"from": "human", "value": f"<video>{QUESTION}"}, {"from": "gpt", "value": "A"}],
        "options": ["A. a man", "B. a dog"],
    },
    {
        "id": 7,
        "messages": [
            {"role": "system", "content": "Look."},
            {
                "role": "user",
                "content": [{"type": "video", "video": "b.mp4", "video_end": 9}, {"type": "text", "text": "?"}],
            },
            {"role": "assistant", "content": "<think>At 00:05.</think><answer>B</answer>"},
        ],
        "temporal_grounding": {"00:05": "A dog enters."},
    },
    {"prompt": QUESTION, "solution": "B", "video": "c.mp4", "weight": 0.5, "tags": ["x", "y"]},
    {
        "data_source": "mine",
        "prompt": [{"role": "user", "content": f"<video>{QUESTION}"}],
        "videos": [{"video": "file:///clips/d.mp4"}],
        "reward_model": {"style": "rule", "ground_truth": "B"},
        "extra_info": {"index": 3, "problem_type": "multiple choice"},
    },
]


def data_config() -> DataConfig:
    return DataConfig(
        train_file=None,
        validation_file=None,
        media_dir="/clips",
        subtitles_dir=None,
        shuffle=True,
        max_skipped_frac=0.1,
        make_demo=None,
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_what_comes_out_gives_the_same_samples(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "new" / f"out{suffix}"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main([str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: 4 of 4 rows, of layout 1 paper, 1 messages, 1 trl, 1 verl\n"
    before, after = (load_samples(str(file), data=data_config()) for file in (source, target))
    for old, new in zip(before, after, strict=True):
        kept = {key: value for key, value in new.extra.items() if value is not None}
        assert kept == old.extra
        assert {**vars(new), "extra": None} == {**vars(old), "extra": None}
    assert [sample.sample_id for sample in after] == ["in-0", "7", "in-2", "in-3"]


def test_rows_that_cannot_be_read_are_named_and_the_others_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps([ROWS[0], {"problem": "x"}, {**ROWS[2], "video": "https://host/c.mp4"}, *ROWS[3:]]))
    assert main([str(source), str(target)]) == 2
    said = capsys.readouterr()
    assert "2 of 4 rows, of layout 1 paper, 1 verl" in said.out
    assert f"{source}: row 1: has the keys problem, which is no layout known here" in said.err
    assert f"{source}: row 2: video is 'https://host/c.mp4', expected a path; download the clip" in said.err
    assert "error: 2 rows could not be read, all others are written" in said.err
    assert len(target.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        ("[]", "out.jsonl", "the file has no rows"),
        ("[3]", "out.jsonl", "none of 1 rows can be read"),
        ("[{}]", "out.csv", "expected a name that ends in .jsonl, .json or .parquet"),
        ("[{}]", "in.json", "is the input too"),
        (None, "out.jsonl", "no such dataset file"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(
    text: str | None, target: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "in.json").write_text(text)
    assert main([str(tmp_path / "in.json"), str(tmp_path / target)]) == 2
    assert words in capsys.readouterr().err
    assert target == "in.json" or not (tmp_path / target).exists()
