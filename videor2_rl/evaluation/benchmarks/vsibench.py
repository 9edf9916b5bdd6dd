"""VSI-Bench (arXiv:2412.14171): space in indoor scans; options, or numbers scored by mean relative accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videor2_rl.evaluation.benchmarks.common import Benchmark, Question, Row, true_letter, without_letters
from videor2_rl.evaluation.official.cases import VSI_CHOICE_TYPES, VSI_NUMBER_TYPES


def question(row: Row, file: Path) -> Question:
    kind = row["question_type"]
    if kind not in (*VSI_CHOICE_TYPES, *VSI_NUMBER_TYPES):
        raise ValueError(f"question_type {kind!r} is unknown")
    is_choice = kind in VSI_CHOICE_TYPES
    options = without_letters(row["options"]) if is_choice else ()
    answer = str(row["ground_truth"])
    return Question(
        row_id=str(row["id"]),
        videos=(f"{row['dataset']}/{row['scene_name']}.mp4",),
        text=row["question"],
        options=options,
        truth=true_letter(answer, options) if is_choice else str(float(answer)),
        kind="choice" if is_choice else "number",
    )


def logged(row: Row, answer: str, truth: str) -> dict[str, Any]:
    return {**row, "prediction": answer}


BENCHMARK = Benchmark(
    name="vsibench",
    title="VSI-Bench",
    source="huggingface.co/datasets/nyu-visionx/VSI-Bench",
    layout="test.jsonl (or test-*.parquet) and the unpacked clips, <dataset>/<scene_name>.mp4",
    annotations=("test.jsonl", "test-*.parquet", "*.jsonl", "*.json"),
    question=question,
    score_key="vsibench_score",
    logged=logged,
)
