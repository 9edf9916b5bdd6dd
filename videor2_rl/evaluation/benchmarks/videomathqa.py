"""VideoMathQA (arXiv:2506.05349): mathematics in videos, 5 options."""

from __future__ import annotations

from pathlib import Path

from videor2_rl.evaluation.benchmarks.common import (
    Benchmark,
    Question,
    Row,
    logged_letters,
    true_letter,
    without_letters,
)


def question(row: Row, file: Path) -> Question:
    options = without_letters(row["options"])
    return Question(
        row_id=str(row["question_id"]),
        videos=tuple(f"videos/{row['videoID']}.{suffix}" for suffix in ("mp4", "MP4", "mkv")),
        text=row["question"],
        options=options,
        truth=true_letter(row["answer"], options),
        kind="choice",
        subtitles=f"subtitles/{row['videoID']}.srt",
    )


BENCHMARK = Benchmark(
    name="videomathqa",
    title="VideoMathQA",
    source="huggingface.co/datasets/MBZUAI/VideoMathQA",
    layout="mcq/test-*.parquet, videos/<videoID>.mp4 and subtitles/<videoID>.srt",
    annotations=("mcq/*.parquet", "*mcq*.parquet", "*.parquet", "*.jsonl", "*.json"),
    question=question,
    score_key="videomathqa_perception_score",
    logged=logged_letters,
)
