"""Which logs the paper's scripts take together, and what their files are called."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.evaluation.official import tac, vas
from videor2_rl.evaluation.official.cases import Case
from videor2_rl.evaluation.official.layout import OfficialLog, dataset_name, write_tac, write_vas
from videor2_rl.evaluation.official.reading import BRACKETED


def log(
    path: str, benchmark: str, *, right: int, wrong: int = 0, score: vas.Score | None = None, **row: Any
) -> OfficialLog:
    """A log with so many rows that are right, and so many that are wrong, in all three readings."""
    case = Case("letter", BRACKETED, 0, "Which?", ("red", "green"), "A", "", "x", "y", "A", "A")
    lenses = [tac.read_case(case, think_reply="A", answer_reply="A")] * right
    lenses += [tac.read_case(case, think_reply="B", answer_reply="B")] * wrong
    rows = [row] * len(lenses)
    scores = [score] * len(rows)
    return OfficialLog(Path(path), Path(path).stem, benchmark, rows, [case] * len(rows), lenses, scores)


def totals(written: dict[str, Any]) -> dict[str, int]:
    return {name: summary["n_total"] for name, summary in written["summaries"].items()}


def test_of_two_logs_of_one_name_the_first_counts(tmp_path: Path) -> None:
    logs = [log("a/samples_mlvu.jsonl", "mlvu", right=2), log("b/samples_mlvu.jsonl", "mlvu", right=3)]
    assert totals(write_tac(tmp_path, logs)) == {"mlvu/samples_mlvu": 2}


def test_mvbench_is_one_run_of_the_files_named_as_lmms_eval_names_them(tmp_path: Path) -> None:
    named = [
        log(f"x/MVBench_think_samples_mvbench_{task}.jsonl", "mvbench", right=1, wrong=1) for task in ("count", "pose")
    ]
    other = log("x/samples_mvbench.jsonl", "mvbench", right=5)
    mixed = write_tac(tmp_path, [other, *named])
    assert totals(mixed) == {"mvbench": 4}
    assert mixed["summaries"]["mvbench"]["answer_parsed_accuracy"] == 0.5
    # Where no file is named so, all count.
    assert totals(write_tac(tmp_path, [other])) == {"mvbench": 5}


def test_benchmarks_come_in_the_order_of_the_scripts_with_mvbench_last(tmp_path: Path) -> None:
    logs = [log(f"samples_{name}.jsonl", name, right=1) for name in ("videomme", "mvbench", "longvideobench")]
    found = list(write_tac(tmp_path, logs)["summaries"])
    assert found[-1] == "mvbench" and set(found[:2]) == {
        "videomme/samples_videomme",
        "longvideobench/samples_longvideobench",
    }


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("mlvu_dev_think_samples_mlvu_dev_think", "mlvu_dev"),
        ("x_samples_minerva", "minerva"),
        ("samples_mmvu_val_think", "mmvu_val"),
        ("videomme_think", "videomme"),
        ("mvbench", "mvbench"),
    ],
)
def test_a_dataset_is_called_what_stands_behind_samples_or_before_think(folder: str, name: str) -> None:
    assert dataset_name(folder) == name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("video_mmmu_v2_think.jsonl", "video_mmmu_v2"),
        ("video_mmmu_think_samples.jsonl", "video_mmmu"),
        ("mlvu_dev_think_samples_mlvu_dev.jsonl", "mlvu"),
        ("samples_videomme_think.jsonl", "videomme"),
        ("samples_mlvu.jsonl", "samples"),  # Only three benchmarks are known by a word further back.
        ("odd.jsonl", "odd"),
    ],
)
def test_the_vas_script_guesses_the_benchmark_by_the_front_of_a_name(file: str, name: str) -> None:
    assert vas.benchmark_of(file) == name


def test_of_several_files_of_a_benchmark_the_first_is_named_and_numbers_that_json_lacks_are_texts(
    tmp_path: Path,
) -> None:
    score = vas.Score(7, "looks", "raw reply")
    files = ["a/videomme_1.jsonl", "b/videomme_2.jsonl"]
    logs = [log(path, "videomme", right=1, score=score, doc_id=4, value=math.nan) for path in files]
    unjudged = log("c/mlvu.jsonl", "mlvu", right=2)
    summary = write_vas(tmp_path, [*logs, unjudged])
    assert summary["overall"] == {"n": 2, "avg": 7.0, "min": 7, "max": 7}
    assert list(summary["per_benchmark"]) == ["videomme"]
    assert not (tmp_path / "vas/per_sample_mlvu.jsonl").exists()
    records = [json.loads(line) for line in (tmp_path / "vas/per_sample_videomme.jsonl").read_text().splitlines()]
    expected = {
        "doc_id": 4,
        "value": "nan",
        "__bench": "videomme",
        "__file": "a/videomme_1.jsonl",
        "__uid": "4",
        "__attention_to_video_score": 7,
        "__attention_to_video_rationale": "looks",
        "__llm_raw_response": "raw reply",
    }
    assert records == [expected, expected]


@pytest.mark.parametrize(
    ("score", "band"),
    [(0, "0-2"), (2, "0-2"), (3, "3-5"), (5, "3-5"), (6, "6-8"), (8, "6-8"), (9, "9-10"), (10, "9-10")],
)
def test_a_score_lies_in_one_band(score: int, band: str) -> None:
    (entry,) = vas.summarise({"mlvu": [score]})["per_benchmark"].values()
    assert {name for name, count in entry["distribution"].items() if count} == {band}


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 6.5}', 6),  # Half to even.
        ('{"score": 7.5}', 8),
        ('{"score": 11}', 10),
        ('{"score": -3}', 0),
        ('{"score": "7"}', None),
        ('{"rationale": "a }", "score": 7}', None),  # The object ends at the first closing brace.
        ("7", None),
    ],
)
def test_the_vas_script_reads_a_bare_number_in_the_first_object(reply: str, score: int | None) -> None:
    found = vas.read_score(reply)
    assert (None if found is None else found[0]) == score
