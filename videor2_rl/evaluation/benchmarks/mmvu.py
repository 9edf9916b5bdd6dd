"""MMVU (arXiv:2501.12380): expert knowledge, 5 options or open; its validation part."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from videor2_rl.evaluation.benchmarks.common import Benchmark, Question, Row, mapped_options, true_letter


def question(row: Row, file: Path) -> Question:
    choices = row["choices"] or {}
    is_choice = row["question_type"] == "multiple-choice"
    options = mapped_options(choices) if is_choice else ()
    # The original release names the clip by its address, .../videos/<subject>/<n>.mp4.
    name = row["video_path"] if "video_path" in row else urlparse(row["video"]).path
    inside = name.split("videos/")[-1]
    return Question(
        row_id=str(row["id"]),
        videos=(f"videos/{inside}", inside, name.lstrip("/")),
        text=row["question"],
        options=options,
        truth=true_letter(row["answer"], options) if is_choice else str(row["answer"]),
        kind="choice" if is_choice else "open",
    )


def logged(row: Row, answer: str, truth: str) -> dict[str, Any]:
    return {"question_id": row["id"], "pred_answer": answer, "answer": truth, "correct": answer == truth}


BENCHMARK = Benchmark(
    name="mmvu",
    title="MMVU",
    source="huggingface.co/datasets/yale-nlp/MMVU",
    layout="validation.json and videos/<subject>/<n>.mp4",
    annotations=("validation.json", "validation-*.parquet", "data/validation-*.parquet", "*.jsonl"),
    question=question,
    score_key="accuracy",
    logged=logged,
)
