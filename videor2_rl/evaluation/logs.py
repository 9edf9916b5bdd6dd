"""Prediction logs in lmms-eval's layout: which files there are, of which benchmark, and what their rows hold."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.official.cases import CASES, Case
from videor2_rl.evaluation.official.reading import PLAIN, last_blocks, response_text
from videor2_rl.evaluation.summary import SCORE_KEY
from videor2_rl.run.files import read_jsonl

logger = logging.getLogger(__name__)

OWN = "videor2"
"""Rows that `videor2_rl.evaluate` wrote about a dataset in the paper's JSON layout."""

SCORE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "lvb_acc": "longvideobench",
        "minerva_perception_score": "minerva",
        "mlvu_percetion_score": "mlvu",
        "accuracy": "mmvu",
        "mvbench_accuracy": "mvbench",
        "scivideobench_acc": "scivideobench",
        "tempcompass_perception_score": "tempcompass",
        "mmmu_acc": "video_mmmu",
        "videomathqa_perception_score": "videomathqa",
        "vsibench_score": "vsibench",
        "videomme_perception_score": "videomme",
        SCORE_KEY: OWN,
    }
)
"""lmms-eval's score dict in a row -> benchmark, for files whose name does not say it. Misspelt there as here."""


@dataclass(frozen=True)
class LogFile:
    """One file of predictions."""

    path: Path
    stem: str
    """Names its folder in the official layout; unique for a benchmark unless the same file lies in several folders."""
    benchmark: str
    rows: tuple[Mapping[str, Any], ...]
    cases: tuple[Case, ...]
    """One for each row."""


def read_logs(folder: Path) -> list[LogFile]:
    """Every `*samples*.jsonl` in a folder and its sub-folders, in the order of their paths.

    Raises:
        ConfigError: there is none, or one cannot be read; the message names file, row and mend.
    """
    if not folder.is_dir():
        raise ConfigError(f"logs: there is no folder {folder}; give the one that lmms-eval wrote with --log_samples")
    paths = sorted(path for path in folder.rglob("*.jsonl") if "samples" in path.name.lower())
    if not paths:
        raise ConfigError(
            f"logs: {folder} and its sub-folders hold no samples_*.jsonl; give the folder that lmms-eval wrote with "
            "--log_samples"
        )
    for name, count in Counter(path.name for path in paths).items():
        if count > 1 and _named_benchmark(name) is not None:
            logger.warning("%s lies in %d sub-folders of %s, which are averaged together", name, count, folder)
    return [_read(path, folder) for path in paths]


def _read(path: Path, folder: Path) -> LogFile:
    rows = read_jsonl(path)
    benchmark = _named_benchmark(path.name)
    stem = path.stem
    if benchmark is None:
        benchmark = _benchmark_by_content(rows, path)
        stem = "_".join((*path.relative_to(folder).parent.parts, path.stem))
    return LogFile(
        path=path,
        stem=stem,
        benchmark=benchmark,
        rows=tuple(rows),
        cases=tuple(_case(row, number, path, benchmark) for number, row in enumerate(rows)),
    )


def _named_benchmark(file_name: str) -> str | None:
    """The benchmark whose name stands in a file's name."""
    return next((name for name in CASES if name in file_name.lower()), None)


def _benchmark_by_content(rows: Sequence[Mapping[str, Any]], path: Path) -> str:
    keys = {key for row in rows for key in row if isinstance(row[key], Mapping)}
    found = next((benchmark for key, benchmark in SCORE_KEYS.items() if key in keys), None)
    if found is None:
        raise ConfigError(
            f"{path}: neither its name nor a score in its rows tells the benchmark; put one of {', '.join(CASES)} into "
            "the file's name"
        )
    return found


def _case(row: Mapping[str, Any], number: int, path: Path, benchmark: str) -> Case:
    doc = row.get("doc")
    if doc is not None and not isinstance(doc, Mapping):
        raise ConfigError(f"{path}, row {number}: doc is a {type(doc).__name__}, expected an object; mend the row")
    try:
        return own_case(row) if benchmark == OWN else CASES[benchmark](row)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}, row {number}: is not in the layout of {benchmark} ({error}); mend the row, or rename the file "
            "after its benchmark"
        ) from None


def own_case(row: Mapping[str, Any]) -> Case:
    """A row of our own samples.jsonl.

    Raises:
        ValueError: its target is no answer to its question.
    """
    from rewards.terms.accuracy import answer_kind, reference_answer, target_options
    from rewards.types import Target

    doc = row["doc"]
    target = Target(
        question=doc["question"],
        solution=row["target"],
        options=tuple(doc.get("options") or ()),
        problem_type=doc.get("problem_type"),
    )
    response = response_text({"filtered_resps": row.get("resps")})
    think, answer = last_blocks(response)
    logged = (row.get("filtered_resps") or [None])[0]
    return Case(
        kind="letter" if answer_kind(target) == "choice" else "open",
        letters=PLAIN,
        doc_id=row.get("doc_id"),
        question=target.question,
        options=target_options(target),
        truth=str(reference_answer(target)),
        response=response,
        think=think,
        answer=answer,
        logged=logged,
        logged_prediction=logged,
    )
