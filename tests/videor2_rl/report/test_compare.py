from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.summary import Interval, SampleResult, summarise, write_evaluation
from videor2_rl.report.compare import (
    ABSENT,
    Comparison,
    Scores,
    as_markdown,
    card_differences,
    compare,
    read_scores,
)


def result(index: int, accuracy: float) -> SampleResult:
    return SampleResult(
        sample_id=f"s{index}",
        video="v.mp4",
        question="?",
        target="A",
        response="r",
        answer="A",
        finish_reason="stop",
        response_tokens=10,
        accuracy=accuracy,
        tac=None,
        tar_precision=0.5,
        tar_recall=0.5,
        tar_f1=0.5,
        format=1.0,
    )


def write(folder: Path, accuracies: list[float], **card: Any) -> Path:
    results = [result(index, accuracy) for index, accuracy in enumerate(accuracies)]
    write_evaluation(folder, results, summary=summarise(results, resamples=10, seed=0, card=card))
    return folder


def test_cards_differ_by_dotted_key_and_absent_entries_are_named() -> None:
    a = {"model": {"path": "x", "dtype": "float32"}, "seed": 0, "video": {"fps": 1.0}}
    b = {"model": {"path": "y", "dtype": "float32"}, "seed": 0, "judge": None}
    differences = [("model.path", "x", "y"), ("video.fps", 1.0, ABSENT), ("judge", ABSENT, None)]
    assert list(card_differences(a, b)) == differences
    assert list(card_differences(a, a)) == []


def test_scores_are_paired_by_sample_and_what_only_one_has_is_counted(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [0.0] * 50 + [1.0] * 50 + [1.0, 1.0], seed=0)
    b = write(tmp_path / "b", [1.0] * 25 + [0.0] * 25 + [1.0] * 50, seed=1)
    comparison = compare(read_scores(a), read_scores(b))
    assert (comparison.num_shared, comparison.only_a, comparison.only_b) == (100, 2, 0)
    one, other, difference = comparison.metrics["accuracy"]
    assert (one.mean, other.mean, difference.mean, difference.num_scored) == (0.5, 0.75, 0.25, 100)
    # Of 100 differences 25 are 1: the normal approximation is 0.25 +- 1.96 * sqrt(0.25 * 0.75 / 100) = +- 0.085.
    assert difference.low == pytest.approx(0.165, abs=0.02) and difference.high == pytest.approx(0.335, abs=0.02)
    assert comparison.metrics["tac"][2].mean is None
    page = as_markdown(comparison, read_scores(a), read_scores(b))
    assert "| seed | 0 | 1 |" in page
    assert "| accuracy | 0.500" in page and "+0.250" in page


def test_evaluations_without_a_common_sample_or_card_are_refused_in_one_sentence(tmp_path: Path) -> None:
    a = read_scores(write(tmp_path / "a", [1.0]))
    b = replace(a, metrics={name: {"other": 1.0} for name in a.metrics})
    with pytest.raises(ConfigError, match="share no sample"):
        compare(a, b)
    with pytest.raises(ConfigError, match=r"holds no summary.json"):
        read_scores(tmp_path / "nothing")


def test_the_command_compares_two_folders(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", [0.0, 1.0], model="sft"), write(tmp_path / "b", [1.0, 1.0], model="grpo")
    command = [sys.executable, "-m", "videor2_rl.report", str(a), str(b), "--json", str(tmp_path / "c.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| model | sft | grpo |" in done.stdout and (tmp_path / "c.json").exists()
    wrong = subprocess.run([*command[:3], str(a), str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1


def interval(mean: float | None, low: float | None, high: float | None) -> Interval:
    return Interval(mean=mean, low=low, high=high, num_scored=4, num_unscored=0)


def test_only_a_difference_whose_interval_leaves_out_0_is_marked(tmp_path: Path) -> None:
    scores = read_scores(write(tmp_path / "a", [1.0]))
    ranges = {
        "below": (-0.3, -0.1),
        "above": (0.1, 0.3),
        "across": (-0.1, 0.3),
        "up to": (-0.3, 0.0),
        "from": (0.0, 0.3),
    }
    one, other = interval(0.25, 0.0, 0.5), interval(0.5, 0.25, 0.75)
    metrics = {name: (one, other, interval(sum(ends) / 2, *ends)) for name, ends in ranges.items()}
    metrics["none"] = (one, interval(None, None, None), interval(None, None, None))
    page = as_markdown(Comparison((), 4, 0, 0, metrics), scores, scores)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert [name for name in metrics if " *" in rows[name]] == ["below", "above"]
    assert rows["above"] == "| above | 0.250 [0.000, 0.500] | 0.500 [0.250, 0.750] | +0.200 [+0.100, +0.300] * | 4 |"
    assert rows["none"] == "| none | 0.250 [0.000, 0.500] | - | - | 4 |"
    assert "Nothing: the two cards are equal." in page


def test_readings_of_two_models_logs_are_paired_by_file_name_document_and_row(tmp_path: Path) -> None:
    def write_readings(folder: Path, agreements: list[float | None]) -> Scores:
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"card": {"logs": folder.name}}))
        lines = [
            {
                "file": f"/logs/{folder.name}/samples_mlvu_{place % 2}.jsonl",
                "row": place // 2,
                "doc_id": 7,
                "agreement": agreement,
                "same_answer": 1.0,
                "answer_right": 0.0,
                "think_right": None,
                "vas": 5.0,
            }
            for place, agreement in enumerate(agreements)
        ]
        (folder / "readings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_scores(folder)

    a = write_readings(tmp_path / "a", [0.0, 1.0, 0.0, None, 1.0])
    b = write_readings(tmp_path / "b", [1.0, 1.0, 1.0, 1.0])
    comparison = compare(a, b)
    assert (comparison.num_shared, comparison.only_a, comparison.only_b) == (4, 1, 0)
    one, other, difference = comparison.metrics["agreement"]
    # A: 0, 1 and 0 of the four that both have; B: all 1; two of the three pairs gain 1.
    assert (one.mean, other.mean, difference.mean) == (pytest.approx(1 / 3), 1.0, pytest.approx(2 / 3))
    assert (difference.num_scored, difference.num_unscored) == (3, 1)
    with pytest.raises(ConfigError, match="share no metric"):
        compare(a, read_scores(write(tmp_path / "c", [1.0])))
