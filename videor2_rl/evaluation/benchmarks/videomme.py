"""Video-MME (arXiv:2405.21075): short, medium and long clips, 4 options, subtitles."""

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
        videos=tuple(f"data/{row['videoID']}.{suffix}" for suffix in ("mp4", "MP4", "mkv")),
        text=row["question"],
        options=options,
        truth=true_letter(row["answer"], options),
        kind="choice",
        subtitles=f"subtitle/{row['videoID']}.srt",
    )


BENCHMARK = Benchmark(
    name="videomme",
    title="Video-MME",
    source="huggingface.co/datasets/lmms-lab/Video-MME",
    layout="videomme/test-*.parquet, data/<videoID>.mp4 and subtitle/<videoID>.srt",
    annotations=("videomme/*.parquet", "*.parquet", "*.jsonl", "*.json"),
    question=question,
    score_key="videomme_perception_score",
    logged=logged_letters,
)
