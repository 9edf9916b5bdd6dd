"""SciVideoBench (arXiv:2510.08559): experiments from scientific journals, 10 options, A to J."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videor2_rl.evaluation.benchmarks.common import Benchmark, Question, Row, clip_files, mapped_options, true_letter


def question(row: Row, file: Path) -> Question:
    options = mapped_options(row["options"])
    return Question(
        row_id=f"{row['video_id']}-{row.get('question_id', row['question'])}",
        videos=clip_files(f"videos/jove_{row['video_id']}"),
        text=row["question"],
        options=options,
        truth=true_letter(row["answer"].strip(), options),
        kind="choice",
    )


def logged(row: Row, answer: str, truth: str) -> dict[str, Any]:
    kept = {key: row.get(key) for key in ("question_type", "category")}
    return {"id": row["video_id"], **kept, "pred_answer": answer, "answer": truth, "correct": answer == truth}


BENCHMARK = Benchmark(
    name="scivideobench",
    title="SciVideoBench",
    source="huggingface.co/datasets/groundmore/scivideobench (or mmaaz60/scivideobench)",
    layout="test-*.parquet or a .jsonl file, and videos/jove_<video_id>.mp4",
    annotations=("**/test-*.parquet", "*.jsonl", "*.json"),
    question=question,
    score_key="scivideobench_acc",
    logged=logged,
)
