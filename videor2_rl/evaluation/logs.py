"""Prediction logs in lmms-eval's layout: which files there are, of which benchmark, and what their rows hold."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.judged import Replies, stored_replies
from videor2_rl.evaluation.log_rows import SCORE_NAMES, as_paper_row, logged_score
from videor2_rl.evaluation.official.cases import CASES, Case
from videor2_rl.evaluation.official.reading import PLAIN, last_blocks, response_text
from videor2_rl.evaluation.summary import SCORE_KEY
from videor2_rl.run.files import parse_json, read_lines

logger = logging.getLogger(__name__)

OWN = "videor2"
"""Rows that `videor2_rl.evaluate` wrote about a dataset in the paper's JSON layout."""
BENCHMARK_KEY = "benchmark"
"""In a row that `videor2_rl.evaluate` wrote about a benchmark: its name."""

UNREADABLE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What reading a row in another layout ends with."""
_SHARED_NAMES = ("accuracy", "mmmu_acc", "avg_accuracy")
"""Score dicts that other benchmarks have too."""
_OTHERS = re.compile(r"videomme_v2|minerva_math")
"""Benchmarks of their own whose names begin with one of these."""


@dataclass(frozen=True)
class LeftOut:
    """A file, or a row of one, that is not evaluated."""

    file: Path
    line: int | None
    """From 1; None: all of the file."""
    reason: str
    """Of how many it is true, is counted."""
    detail: str = ""

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}, line {self.line}"
        return f"{place}: {self.reason}{self.detail and f' ({self.detail})'}"


@dataclass(frozen=True)
class LogRow:
    """One row of a log, read."""

    line: int
    """Of its file, from 1."""
    content: Mapping[str, Any]
    """As it stands there."""
    case: Case
    has_score: bool
    """It holds lmms-eval's own prediction."""
    stored: Replies
    """A judge's replies beside it."""


@dataclass(frozen=True)
class LogFile:
    """One file of predictions."""

    path: Path
    stem: str
    """Names its folder in the official layout; unique for a benchmark unless the same file lies in several folders."""
    benchmark: str
    rows: tuple[LogRow, ...]


@dataclass(frozen=True)
class Logs:
    """The prediction logs of a folder."""

    files: tuple[LogFile, ...]
    left_out: tuple[LeftOut, ...]


def told(left_out: Sequence[LeftOut]) -> list[str]:
    """A sentence for each file and reason, with the first row of which it is true."""
    groups: dict[tuple[Path, str], list[LeftOut]] = {}
    for each in left_out:
        groups.setdefault((each.file, each.reason), []).append(each)
    return [
        f"left out: {group[0]}" + (f", and {len(group) - 1} further rows" if group[1:] else "")
        for group in groups.values()
    ]


def read_logs(folder: Path) -> Logs:
    """Every `*samples*.jsonl` in a folder and its sub-folders, in the order of their paths.

    Raises:
        ConfigError: there is none, or none with a row that can be read; the message names file, line and mend.
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
    files: list[LogFile] = []
    left_out: list[LeftOut] = []
    for path in paths:
        file, without = _read(path, folder)
        files += [] if file is None else [file]
        left_out += without
    if left_out and not any(file.rows for file in files):
        raise ConfigError(str(left_out[0]))
    return Logs(tuple(files), tuple(left_out))


def _read(path: Path, folder: Path) -> tuple[LogFile | None, list[LeftOut]]:
    """A log and what is left out of it; None where all of it is."""
    numbered, left_out = numbered_rows(path)
    benchmark = _named_benchmark(path.name)
    stem = path.stem
    if benchmark is None:
        benchmark = None if _is_other(path.name) else _benchmark_by_content([row for _, row in numbered])
        stem = "_".join((*path.relative_to(folder).parent.parts, path.stem))
    if benchmark is None:
        if left_out and not numbered:
            return None, left_out
        reason = (
            "neither its name nor a score in its rows tells one of the benchmarks; put one of "
            f"{', '.join(CASES)} into the file's name if it is one of them"
        )
        return None, [LeftOut(path, None, reason)]
    read: list[LogRow] = []
    for line, row in numbered:
        try:
            case, has_score = _case(row, benchmark)
            read.append(LogRow(line, row, case, has_score, stored_replies(row)))
        except UNREADABLE as error:
            detail = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            reason = f"is not in the layout of {benchmark}; mend the row, or rename the file after its benchmark"
            left_out.append(LeftOut(path, line, reason, detail))
    return LogFile(path, stem, benchmark, tuple(read)), left_out


def numbered_rows(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[LeftOut]]:
    """The rows of a log with the numbers of their lines, and the lines that hold none."""
    rows: list[tuple[int, dict[str, Any]]] = []
    left_out: list[LeftOut] = []
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.encode(errors="replace"))
        except (ValueError, RecursionError) as error:
            is_torn = number == len(lines)
            reason = "is cut off, as a stopped writer leaves it" if is_torn else "is not valid JSON; mend the line"
            left_out.append(LeftOut(path, number, reason, str(error)))
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            left_out.append(LeftOut(path, number, "holds no object; mend the line", type(row).__name__))
    return rows, left_out


def _task(file_name: str) -> str:
    """The part of a log's name that tells its task: `DATE_samples_TASK.jsonl`."""
    name = file_name.lower()
    task = name.rpartition("samples")[2].removesuffix(".jsonl")
    return task if task.strip("_-. ") else name


def _is_other(file_name: str) -> bool:
    return _OTHERS.search(_task(file_name)) is not None


def _named_benchmark(file_name: str) -> str | None:
    """The benchmark whose name stands in a file's name, as words of its own."""
    task = _task(file_name)
    if _is_other(file_name):
        return None
    return next((name for name in CASES if re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", task)), None)


def _benchmark_by_content(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The benchmark that any row's score dict tells; None: none does."""
    return next(filter(None, map(_benchmark_of_row, rows)), None)


def _benchmark_of_row(row: Mapping[str, Any]) -> str | None:
    own_word = row.get(BENCHMARK_KEY)
    if isinstance(own_word, str) and own_word in CASES:
        return own_word
    scores = {key: value for key, value in row.items() if isinstance(value, Mapping)}
    doc = scores.pop("doc", {})
    if SCORE_KEY in scores:
        return OWN
    # These names are no benchmark's own.
    if {"question_id", "pred_answer", "correct"} <= scores.get("accuracy", {}).keys() and "choices" in doc:
        return "mmvu"
    if "parsed_pred" in scores.get("mmmu_acc", {}) and "link_selected" in doc:
        return "video_mmmu"
    if {"gt-answer", "video-llm-prediction", "match_success", "dim"} <= scores.get("avg_accuracy", {}).keys():
        return "tempcompass"
    return next(
        (name for name, keys in SCORE_NAMES.items() for key in keys if key in scores and key not in _SHARED_NAMES), None
    )


def _case(row: Mapping[str, Any], benchmark: str) -> tuple[Case, bool]:
    """What a row holds, and whether lmms-eval's prediction is there."""
    doc = row.get("doc")
    if doc is not None and not isinstance(doc, Mapping):
        raise TypeError(f"doc is a {type(doc).__name__}, expected an object")
    if benchmark == OWN:
        return own_case(row), True
    return CASES[benchmark](as_paper_row(row, benchmark)), logged_score(row, benchmark) is not None


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
