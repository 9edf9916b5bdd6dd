"""MLVU (arXiv:2406.04264): minutes to hours, multiple choice."""

from __future__ import annotations

from pathlib import Path

from videor2_rl.evaluation.benchmarks.common import Benchmark, Question, Row, logged_letters, true_letter


def question(row: Row, file: Path) -> Question:
    options = tuple(str(option) for option in row["candidates"])
    name = row["video_name"] if "video_name" in row else row["video"]
    # Copies of the dataset list the options in the question too.
    text = row["question"].split("\n(A)")[0]
    return Question(
        row_id=f"{name}-{row.get('question_id', text)}",
        videos=(name, f"video/{name}", f"video/{file.stem}/{name}"),
        text=text,
        options=options,
        truth=true_letter(row["answer"], options),
        kind="choice",
    )


BENCHMARK = Benchmark(
    name="mlvu",
    title="MLVU",
    source="huggingface.co/datasets/MLVU/MVLU (or sy1998/MLVU_dev)",
    layout="json/<task>.json with video/<task>/<video>, or *.parquet with the clips beside it",
    annotations=("json/*.json", "**/*.parquet", "*.jsonl", "*.json"),
    question=question,
    score_key="mlvu_percetion_score",
    logged=logged_letters,
    doc=lambda question: {"answer": question.truth},
)
