"""Video-MMMU (arXiv:2501.13826): lectures; perception, comprehension, adaptation; up to 10 options, some open.

The picture that belongs to an adaptation question is the last frame of its clip, as published.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from videor2_rl.evaluation.benchmarks.common import Benchmark, Question, Row, true_letter, without_letters

_FOLDERS = MappingProxyType(
    {
        subject: folder
        for folder, subjects in {
            "Art": "Art Art_Theory Design Music",
            "Business": "Accounting Economics Finance Manage Marketing",
            "Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power "
            "Materials Mechanical_Engineering",
            "Humanities": "History Literature Sociology Psychology",
            "Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy "
            "Public_Health",
            "Science": "Biology Chemistry Geography Math Physics",
        }.items()
        for subject in subjects.split()
    }
)
"""Subject, the middle of a row's id -> the folder of its clip."""


def question(row: Row, file: Path) -> Question:
    subject = "_".join(row["id"].split("_")[1:-1])
    options = without_letters(row["options"] or [])
    answer = str(row["answer"])
    part = next((name for name in ("Perception", "Comprehension", "Adaptation") if name in file.parts), "")
    return Question(
        # The three parts ask about the same clips.
        row_id=f"{part}-{row['id']}" if part else row["id"],
        videos=(f"{_FOLDERS[subject]}/{row['id']}.mp4", f"videos/{row['id']}.mp4"),
        text=row["question"],
        options=options,
        truth=true_letter(answer, options) if options else answer,
        kind="choice" if options else "open",
    )


def logged(row: Row, answer: str, truth: str) -> dict[str, Any]:
    kept = {key: row.get(key) for key in ("id", "question_type")}
    return {**kept, "answer": truth, "parsed_pred": answer}


BENCHMARK = Benchmark(
    name="video_mmmu",
    title="Video-MMMU",
    source="huggingface.co/datasets/lmms-lab/VideoMMMU",
    layout="{Perception,Comprehension,Adaptation}/test-*.parquet and the unpacked clips, <discipline>/<id>.mp4",
    annotations=("*/test-*.parquet", "*.jsonl", "*.json"),
    question=question,
    score_key="mmmu_acc",
    logged=logged,
)
