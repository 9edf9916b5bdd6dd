"""LongVideoBench (arXiv:2407.15754): up to an hour with subtitles, up to 5 options; its validation part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videor2_rl.evaluation.benchmarks.common import LETTERS, Benchmark, Question, Row, true_letter


def question(row: Row, file: Path) -> Question:
    if "candidates" in row:
        options = tuple(str(option) for option in row["candidates"])
    else:
        options = tuple(text for index in range(5) if (text := str(row[f"option{index}"])) != "N/A")
    return Question(
        row_id=str(row["id"]),
        videos=(f"videos/{row['video_path']}", row["video_path"]),
        text=row["question"],
        options=options,
        truth=true_letter(row["correct_choice"], options),
        kind="choice",
    )


def logged(row: Row, answer: str, truth: str) -> dict[str, Any]:
    kept = {key: row.get(key) for key in ("id", "duration_group", "question_category")}
    return {**kept, "answer": truth, "parsed_pred": answer}


def doc(question: Question) -> dict[str, Any]:
    padded = [*question.options, "N/A", "N/A", "N/A", "N/A"][:5]
    options = {f"option{index}": text for index, text in enumerate(padded)}
    return {**options, "correct_choice": LETTERS.index(question.truth)}


BENCHMARK = Benchmark(
    name="longvideobench",
    title="LongVideoBench",
    source="huggingface.co/datasets/longvideobench/LongVideoBench",
    layout="lvb_val.json and videos/<video_path>",
    annotations=("lvb_val.json", "validation-*.parquet", "data/validation-*.parquet"),
    question=question,
    score_key="lvb_acc",
    logged=logged,
    doc=doc,
)
