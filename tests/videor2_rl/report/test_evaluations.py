"""The pages and tables of `evaluate` and of `evaluate logs=`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import RulesJudge
from videor2_rl.config.runs import LogsRun
from videor2_rl.evaluation.log_run import run_logs
from videor2_rl.evaluation.summary import SampleResult, evaluation_dir, summarise, write_evaluation
from videor2_rl.report.__main__ import write_report
from videor2_rl.report.evaluations import evaluation_tables, read_asked, score_grid, type_grid
from videor2_rl.report.folders import kind_of
from videor2_rl.report.logs import log_tables, shown_readings

LOGS = Path(__file__).parents[1] / "evaluation" / "official_cases" / "logs"


def result(index: int, accuracy: float) -> SampleResult:
    return SampleResult(
        sample_id=f"q{index}",
        video="v.mp4",
        question="Which?",
        target="A",
        response=f"<answer>{'A' if accuracy else 'B'}</answer>",
        answer="A" if accuracy else "B",
        finish_reason="stop",
        response_tokens=10,
        accuracy=accuracy,
        tac=None,
        tar_precision=None,
        tar_recall=None,
        tar_f1=None,
        format=1.0,
    )


def benchmark_evaluation(folder: Path, stage: str, accuracies: list[float], *, name: str = "mlvu") -> Path:
    """As `evaluate evaluation.benchmark=` writes it: the rows' `doc` is the benchmark's own, which says no clip."""
    results = [result(index, accuracy) for index, accuracy in enumerate(accuracies)]
    data = {"benchmark": name, "source": str(folder / "no" / "benchmark"), "questions_sha256": "d"}
    card = {"stage": stage, "mode": "greedy", "data": data, "video": {"fps": 1.0}}

    def log_fields(item: SampleResult) -> dict[str, Any]:
        kind = "order" if int(item.sample_id[1:]) % 2 else "count"
        return {"doc": {"id": item.sample_id, "question_type": kind}, "filtered_resps": [item.response]}

    path = evaluation_dir(folder, stage=stage, mode="greedy", benchmark=name)
    write_evaluation(path, results, summary=summarise(results, resamples=200, seed=0, card=card), log_fields=log_fields)
    return path


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    benchmark_evaluation(out, "a", [1.0, 0.0] * 20)
    benchmark_evaluation(out, "b", [1.0, 1.0] * 10 + [1.0, 0.0] * 10)
    return out


def text_of(tables: list[Any]) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables:
        console.print(table)
    return console.export_text()


def test_an_evaluation_of_a_benchmark_has_a_page_with_its_scores_by_kind_of_question(evaluated: Path) -> None:
    assert kind_of(evaluated) == "evaluations"
    [asked] = read_asked(evaluated)
    assert (asked.title, list(asked.evaluations)) == ("mlvu, greedy", ["a", "b"])
    scores = score_grid(asked)
    assert scores.header == ("Metric", "a", "b", "a \N{RIGHTWARDS ARROW} b")
    accuracy = scores.rows[0]
    assert [cell.mean for cell in accuracy] == ["Accuracy", "0.500", "0.750", "+0.250"]
    assert accuracy[3].note == "up"
    # TAC abstained throughout: no row, for no number can be shown.
    kinds = type_grid(asked)
    assert kinds is not None
    assert [[cell.mean for cell in row] for row in kinds.rows] == [
        ["count (20)", "1.000", "1.000"],
        ["order (20)", "0.000", "0.500"],
    ]
    page = write_report(evaluated).read_text()
    assert page.index('class="tiles"') < page.index("Accuracy by question type")
    assert "accuracy rose" in page
    # The published rows say no clip, and the benchmark's folder is gone.
    assert "No frames: q" in page
    report = json.loads((evaluated / "report.json").read_text())
    assert report["evaluations"][0]["checkpoints"]["b"]["accuracy"]["mean"] == 0.75


def test_a_single_evaluation_is_reported_without_a_comparison(evaluated: Path, tmp_path: Path) -> None:
    folder = evaluated / "evaluation" / "mlvu" / "a" / "greedy"
    page = write_report(folder, tmp_path / "elsewhere")
    assert page == tmp_path / "elsewhere" / "report.html"
    assert not (folder / "report.html").exists()
    assert "only a was evaluated, so nothing is compared" in page.read_text()


def test_the_terminal_table_has_one_column_a_checkpoint(evaluated: Path) -> None:
    text = text_of(evaluation_tables(evaluated / "evaluation"))
    assert "mlvu, greedy, 40 samples" in text
    assert re.search(r"Accuracy +0\.500 \[0\.\d\d, 0\.\d\d\] +0\.750 \[", text)
    assert re.search(r"TAC +n/a +n/a", text)


def test_clips_of_a_benchmark_are_found_in_its_folder(demo_dir: Path, tmp_path: Path) -> None:
    """The synthetic benchmark's rows are ours and name the clip; the page has frames."""
    row = json.loads((demo_dir / "heldout.json").read_text())[0]
    claim = {"start_s": 3.0, "end_s": 3.0, "text": "A thing.", "reference": None, "outcome": "time"}
    one = replace(result(0, 1.0), video=str(demo_dir / row["video"]), claims=(claim,))
    video = {"fps": 1.0, "min_frames": 4, "max_frames": 16, "min_pixels": 784, "max_pixels": 784, "size_multiple": 14}
    card = {
        "stage": "m",
        "mode": "greedy",
        "data": {"benchmark": "synthetic", "source": str(demo_dir)},
        "video": {**video, "timestamps": False, "subtitles": False},
    }
    folder = evaluation_dir(tmp_path, stage="m", mode="greedy", benchmark="synthetic")
    write_evaluation(folder, [one], summary=summarise([one], resamples=10, seed=0, card=card))
    page = write_report(tmp_path).read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and "No frames" not in page


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("logs") / "out"
    judge = RulesJudge("rules", "rules")
    run_logs(
        LogsRun(
            logs=str(LOGS),
            seed=0,
            output_dir=str(out),
            bootstrap_resamples=50,
            vas_prompt="default",
            mixer_alpha=0.7,
            mixer_gamma=2.0,
            judge=judge,
        )
    )
    return out


def test_logs_have_a_page_and_a_table_with_a_row_a_benchmark(log_folder: Path) -> None:
    assert kind_of(log_folder) == "logs"
    readings = [json.loads(line) for line in (log_folder / "readings.jsonl").read_text().splitlines()]
    mlvu = [row for row in readings if "mlvu" in row["file"]]
    both = [row["agreement"] for row in mlvu if row["agreement"] is not None]
    page = write_report(log_folder).read_text()
    row = re.search(r"<tr>\s*<td[^>]*>mlvu.*?</tr>", page, flags=re.DOTALL)
    assert row is not None
    assert f"{np.mean(both):.3f}" in row[0] and f"{len(mlvu) - len(both)} left out" in row[0]
    summary = json.loads((log_folder / "summary.json").read_text())
    text = text_of(log_tables(summary))
    assert all(name in text for name in summary["benchmarks"])
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert f"{summary['overall']['tac']['consistency_accuracy']['mean']:.2f}" in text


def test_rows_of_logs_are_told_apart_and_show_their_response(log_folder: Path, tmp_path: Path) -> None:
    readings = [json.loads(line) for line in (log_folder / "readings.jsonl").read_text().splitlines()]
    kinds, notes = shown_readings(readings)
    assert notes == [] and len(kinds) >= 6
    assert sum(kind.total for kind in kinds) == len(readings)
    assert any(row.text for kind in kinds for row in kind.items)
    moved = [{**row, "file": str(tmp_path / "gone.jsonl")} for row in readings]
    kinds, notes = shown_readings(moved)
    assert notes == [f"No responses: {tmp_path / 'gone.jsonl'} does not exist."]
    assert all(row.text == "" for kind in kinds for row in kind.items)


def test_the_command_that_reads_logs_ends_with_the_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "videor2_rl.evaluate", f"logs={LOGS}", f"output_dir={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "440 rows of 13 logs" in done.stdout and "videomathqa" in done.stdout


def test_a_folder_of_evaluations_alone_is_no_demo(pristine_demo_folder: Path, tmp_path: Path) -> None:
    assert kind_of(pristine_demo_folder) == "demo"
    assert kind_of(pristine_demo_folder / "grpo") == "run"
    shutil.copytree(pristine_demo_folder / "evaluation", tmp_path / "own" / "evaluation")
    assert kind_of(tmp_path / "own") == "evaluations"
    with pytest.raises(ConfigError, match="nor sub-folders with either"):
        kind_of(LOGS)
