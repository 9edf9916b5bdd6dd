"""TempCompass (arXiv:2403.00476): action, speed, direction, order, attribute change; its multiple-choice part."""

from __future__ import annotations

from pathlib import Path

from videor2_rl.dataset import parse_options
from videor2_rl.evaluation.benchmarks.common import (
    Benchmark,
    Question,
    Row,
    clip_files,
    listed_doc,
    logged_letters,
    true_letter,
    without_letters,
)


def question(row: Row, file: Path) -> Question:
    # The original release has the options in the question, its later copies beside it.
    options = without_letters(row["options"]) if "options" in row else parse_options(row["question"])
    text = row["question"] if "options" in row else row["question"].split("\nA. ")[0]
    return Question(
        row_id=str(row.get("uuid") or f"{row['video_id']}-{row['question']}"),
        videos=clip_files(f"videos/{row['video_id']}", "webm"),
        text=text,
        options=options,
        truth=true_letter(row["answer"], options),
        kind="choice",
    )


BENCHMARK = Benchmark(
    name="tempcompass",
    title="TempCompass",
    source="huggingface.co/datasets/lmms-lab/TempCompass (or mmaaz60/tempcompass)",
    layout="multi-choice/test-*.parquet or mcq/test-*.parquet, and videos/<video_id>.mp4",
    annotations=("multi-choice/*.parquet", "mcq/*.parquet", "*.parquet", "*.jsonl", "*.json"),
    question=question,
    score_key="tempcompass_perception_score",
    logged=logged_letters,
    doc=listed_doc,
)
