"""Which files of a folder are logs, of which benchmark, and what a row of our own holds."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.evaluation.logs import OWN, own_case, read_logs

MLVU_ROW = {
    "doc": {"question": "Which?", "candidates": ["red", "green"], "answer": "A"},
    "filtered_resps": ["<answer>A</answer>"],
    "mlvu_percetion_score": {"pred_answer": "A", "answer": "A"},
}
OWN_ROW = {
    "doc_id": 3,
    "doc": {"question": "Which? A. red B. green", "problem_type": None},
    "target": "<think>It is green.</think><answer>B</answer>",
    "resps": [["<think>So it is red (A).</think><answer>red</answer>"]],
    "filtered_resps": ["A"],
    "videor2_score": {"accuracy": 0.0},
}


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [
        ("samples_VideoMME.jsonl", "videomme"),
        ("SAMPLES_mlvu_dev.jsonl", "mlvu"),
        ("x_samples_video_mmmu_perception.jsonl", "video_mmmu"),
    ],
)
def test_the_name_of_a_file_tells_its_benchmark_in_any_case(name: str, benchmark: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    (log,) = read_logs(tmp_path).files
    assert (log.benchmark, log.stem) == (benchmark, name.removesuffix(".jsonl"))


def test_any_row_s_score_tells_the_benchmark_where_the_name_does_not(tmp_path: Path) -> None:
    unscored = {key: value for key, value in MLVU_ROW.items() if key != "mlvu_percetion_score"}
    write(tmp_path / "samples.jsonl", unscored, MLVU_ROW)
    (log,) = read_logs(tmp_path).files
    assert log.benchmark == "mlvu"
    assert (len(log.rows), [row.case.options for row in log.rows]) == (2, [("red", "green")] * 2)


def test_files_whose_name_says_nothing_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("b", "a/c", "."):
        write(tmp_path / folder / "samples.jsonl", MLVU_ROW)
    assert [log.stem for log in read_logs(tmp_path).files] == ["a_c_samples", "b_samples", "samples"]


def test_one_name_in_two_folders_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a/samples_mlvu.jsonl", MLVU_ROW)
    write(tmp_path / "b/samples_mmvu.jsonl")
    with caplog.at_level(logging.WARNING):
        read_logs(tmp_path)
        assert not caplog.records
        write(tmp_path / "b/samples_mlvu.jsonl", MLVU_ROW)
        assert len(read_logs(tmp_path).files) == 3
    assert len(caplog.records) == 1
    assert "samples_mlvu.jsonl lies in 2 sub-folders" in caplog.text


def test_a_row_of_ours_is_read_as_question_options_truth_blocks_and_logged_answer(tmp_path: Path) -> None:
    write(tmp_path / "samples.jsonl", OWN_ROW)
    (log,) = read_logs(tmp_path).files
    case = log.rows[0].case
    assert log.benchmark == OWN
    assert (case.kind, case.doc_id, case.options, case.truth) == ("letter", 3, ("red", "green"), "B")
    assert (case.think, case.answer) == ("So it is red (A).", "red")
    assert (case.logged, case.logged_prediction) == ("A", "A")


def test_options_beside_the_question_and_an_open_question_are_read_too() -> None:
    listed = own_case({**OWN_ROW, "doc": {"question": "Which?", "options": ["red", "green", "blue"]}})
    assert (listed.kind, listed.options, listed.truth) == ("letter", ("red", "green", "blue"), "B")
    counted = own_case({**OWN_ROW, "doc": {"question": "How many?"}, "target": "12"})
    assert (counted.kind, counted.options, float(counted.truth)) == ("open", (), 12.0)
    # The dataset's own word on the kind of answer goes before a guess.
    spelt = own_case({**OWN_ROW, "doc": {"question": "Which letter is on the sign?", "problem_type": "text"}})
    assert (spelt.kind, spelt.truth) == ("open", "B")
    unread = own_case({**OWN_ROW, "filtered_resps": [None]})
    assert unread.logged is None
