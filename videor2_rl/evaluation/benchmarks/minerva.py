"""MINERVA (arXiv:2505.00681): questions with reasoning traces, 5 options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videor2_rl.evaluation.benchmarks.common import (
    Benchmark,
    Question,
    Row,
    clip_files,
    listed_doc,
    true_letter,
    without_letters,
)


def question(row: Row, file: Path) -> Question:
    if "options" in row:
        video, row_id = row["videoID"], f"{row['videoID']}-{row['question_id']}"
        options = without_letters(row["options"])
        truth = true_letter(row["answer"], options)
    else:
        video, row_id = row["video_id"], str(row["key"])
        options = tuple(str(row[f"answer_choice_{index}"]) for index in range(5))
        truth = true_letter(int(row["answer_id"]), options)
    return Question(
        row_id=row_id,
        videos=clip_files(f"videos/{video}", "webm"),
        text=row["question"],
        options=options,
        truth=truth,
        kind="choice",
    )


def logged(row: Row, answer: str, truth: str) -> dict[str, Any]:
    return {"question_id": row.get("question_id", row.get("key")), "pred_answer": answer, "answer": truth}


BENCHMARK = Benchmark(
    name="minerva",
    title="MINERVA",
    source="minerva.json of github.com/google-deepmind/neptune and the clips from YouTube",
    layout="minerva.json and videos/<video_id>.mp4",
    annotations=("minerva.json", "mcq/*.parquet", "*.parquet", "*.jsonl"),
    question=question,
    score_key="minerva_perception_score",
    logged=logged,
    doc=listed_doc,
)
