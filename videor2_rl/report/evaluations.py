"""The page of `evaluate`: one evaluation's folder, or everything that one call has written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.benchmarks import BENCHMARKS
from videor2_rl.evaluation.benchmarks.common import load_items
from videor2_rl.evaluation.summary import METRICS, SCORE_KEY, bootstrap_interval
from videor2_rl.report.choose import Kind
from videor2_rl.report.data import (
    METRIC_LABELS,
    MODE_LABELS,
    STAGES,
    Evaluation,
    difference,
    interval_of,
    read_one_evaluation,
)
from videor2_rl.report.folders import evaluation_folders
from videor2_rl.report.frames import Frames
from videor2_rl.report.headline import Headline, of_evaluations
from videor2_rl.report.page import Grid, fill, flat_texts
from videor2_rl.report.rollouts import COUNT, ShownRollouts, held_out_rollouts
from videor2_rl.report.tables import Cell, cell, change_cell, digits_of, left_out, metrics_table, metrics_worth_a_row
from videor2_rl.run.files import write_json_atomic, write_text_atomic
from videor2_rl.types import VideoSample

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_TYPE_KEYS = ("problem_type", "question_type", "task_type", "question_category", "category", "subject", "type", "dim")
"""Where the rows of the benchmarks, and ours, say of what kind a question is."""
_MAX_TYPES = 24


@dataclass(frozen=True)
class Asked:
    """The evaluations of one set of questions in one mode, which can be compared."""

    benchmark: str
    """`held-out rows` where it is a dataset file."""
    mode: str
    evaluations: Mapping[str, Evaluation]
    """By checkpoint, in the order of their cards or folders."""

    @property
    def title(self) -> str:
        return f"{self.benchmark}, {MODE_LABELS.get(self.mode, self.mode)}"


def read_asked(folder: Path) -> list[Asked]:
    """Every complete evaluation at or below a folder, those of the same questions and mode together.

    Raises:
        ConfigError: there is none, or a file is broken.
    """
    groups: dict[tuple[str, str, str], dict[str, Evaluation]] = {}
    # At temperature 1 before greedy.
    for path in sorted(evaluation_folders(folder), key=lambda path: (path.parent.parent, path.name == "greedy")):
        evaluation = read_one_evaluation(path)
        card = evaluation.summary["card"]
        questions = card.get("data") or {}
        steps = "" if card.get("steps_done") is None else f"step {card['steps_done']}"
        name, mode = str(card.get("stage") or steps or path.parent.name), str(card.get("mode") or path.name)
        key = (str(questions.get("benchmark") or "held-out rows"), mode, str(questions.get("questions_sha256")))
        by_name = groups.setdefault(key, {})
        # Two runs' checkpoints of one name.
        by_name[name if name not in by_name else str(path.relative_to(folder))] = evaluation
    if not groups:
        raise ConfigError(f"{folder} holds no complete evaluation; give the output_dir of videor2_rl.evaluate")
    # The demo's stages in the order of training; others as their folders are named.
    rank = {stage: place for place, stage in enumerate(STAGES)}
    return [
        Asked(benchmark, mode, dict(sorted(by_name.items(), key=lambda item: rank.get(item[0], len(rank)))))
        for (benchmark, mode, _), by_name in groups.items()
    ]


def evaluation_tables(folder: Path) -> list[Table]:
    """The tables of every evaluation at or below a folder, for the terminal."""
    return [
        metrics_table(
            f"{asked.title}, {_count(asked)} samples, mean [95 % interval]",
            {name: item.summary for name, item in asked.evaluations.items()},
        )
        for asked in read_asked(folder)
    ]


def write_evaluation_report(folder: Path, out: Path, console: Console) -> Path:
    """Write report.html and report.json into `out` and print the tables; returns the page.

    Raises:
        ConfigError: a file is missing or broken.
    """
    every = read_asked(folder)
    first = headline_of(every[0])
    page = out / "report.html"
    html = fill(
        "evaluation.html.j2",
        title=f"Video-R2 RL: evaluation in {folder.resolve().name}",
        headline=first,
        about=every[0].title,
        failures=[sentence for asked in every for sentence in _failures(asked)],
        groups=[(asked.title, score_grid(asked), type_grid(asked)) for asked in every],
        rollouts=_rollouts(every, folder),
        cards=[
            (f"{asked.title}, {name}", flat_texts(item.summary["card"]))
            for asked in every
            for name, item in asked.evaluations.items()
        ],
    )
    write_text_atomic(page, html)
    write_json_atomic(out / "report.json", {"evaluations": [_numbers(asked) for asked in every]})
    for table in evaluation_tables(folder):
        console.print(table)
    console.print(first.sentence, soft_wrap=True, markup=False, highlight=False)
    return page


def headline_of(asked: Asked) -> Headline:
    """The page's first screen is about the first set of questions."""
    return of_evaluations(list(asked.evaluations), list(asked.evaluations.values()), where=f"samples of {asked.title}")


def score_grid(asked: Asked) -> Grid:
    """Metrics by checkpoint, and each checkpoint's change from the one before, paired by sample."""
    names, evaluations = list(asked.evaluations), list(asked.evaluations.values())
    metrics, folded = metrics_worth_a_row(evaluations)
    pairs = list(zip(range(len(names)), range(1, len(names)), strict=False))
    rows = []
    for metric in metrics:
        digits = digits_of(metric)
        values = [cell(interval_of(item, metric), digits=digits, note=left_out(item, metric)) for item in evaluations]
        changes = [
            change_cell(
                difference(evaluations[a], evaluations[b], metric), digits=digits, is_graded=metric != "response_tokens"
            )
            for a, b in pairs
        ]
        rows.append((Cell(METRIC_LABELS[metric], ""), *(_shown(value) for value in values), *changes))
    header = ("Metric", *names, *(f"{names[a]} \N{RIGHTWARDS ARROW} {names[b]}" for a, b in pairs))
    caption = f"{_count(asked)} samples, mean with 95 % bootstrap interval. {folded}".strip()
    last_two = range(max(1, len(names) - 1), len(names) + 1)
    return Grid(caption, header, tuple(rows), main=(0, *last_two, *([len(header) - 1] if pairs else [])))


def type_grid(asked: Asked) -> Grid | None:
    """Accuracy by kind of question; None where the rows do not tell kinds apart."""
    evaluations = list(asked.evaluations.values())
    docs = [row["doc"] for row in evaluations[0].rows]
    key = next((name for name in _TYPE_KEYS if 1 < len({str(doc.get(name)) for doc in docs}) <= _MAX_TYPES), None)
    if key is None:
        return None
    kinds = sorted({str(doc.get(key)) for doc in docs})
    rows = []
    for kind in kinds:
        values = [
            [row[SCORE_KEY]["accuracy"] for row in item.rows if str(row["doc"].get(key)) == kind]
            for item in evaluations
        ]
        intervals = [
            bootstrap_interval(column, resamples=int(item.summary["interval"]["resamples"]), seed=0)
            for column, item in zip(values, evaluations, strict=True)
        ]
        rows.append(
            (Cell(f"{kind} ({len(values[0])})", ""), *(_shown(cell(interval, digits=3)) for interval in intervals))
        )
    return Grid(f"Accuracy by {key.replace('_', ' ')} (samples)", ("", *asked.evaluations), tuple(rows))


def _shown(value: Cell) -> Cell:
    return value if value.mean else Cell("n/a", "", value.note)


def _count(asked: Asked) -> int:
    return max(int(item.summary["num_samples"]) for item in asked.evaluations.values())


def _failures(asked: Asked) -> list[str]:
    return [
        f"{name}, {asked.title}: {METRIC_LABELS[metric]} failed on {count} of {item.summary['num_samples']} samples."
        for name, item in asked.evaluations.items()
        for metric, count in item.summary["num_failed"].items()
        if count
    ]


def _numbers(asked: Asked) -> dict[str, Any]:
    return {
        "benchmark": asked.benchmark,
        "mode": asked.mode,
        "checkpoints": {
            name: {
                "num_samples": item.summary["num_samples"],
                **{metric: item.summary["metrics"][metric] for metric in METRICS},
            }
            for name, item in asked.evaluations.items()
        },
    }


def _rollouts(every: Sequence[Asked], folder: Path) -> ShownRollouts:
    """Rollouts of each set of questions, as many as its share of the page."""
    frames = Frames()
    parts = [
        held_out_rollouts(
            asked.evaluations,
            frames,
            folder=folder,
            mode=asked.mode,
            count=max(2, COUNT // len(every)),
            clips=_clips(asked),
        )
        for asked in every
    ]
    kinds = tuple(
        Kind(
            kind.reason if len(every) == 1 else f"{asked.title}: {kind.reason[0].lower()}{kind.reason[1:]}",
            kind.total,
            kind.items,
        )
        for asked, part in zip(every, parts, strict=True)
        for kind in part.kinds
    )
    return ShownRollouts(kinds, " ".join(part.selection for part in parts), tuple(frames.notes()))


def _clips(asked: Asked) -> Callable[[str], VideoSample | None]:
    """Where a published benchmark's clips lie: its rows of samples.jsonl are the published ones and do not say it."""
    data = list(asked.evaluations.values())[-1].summary["card"].get("data") or {}

    @cache
    def by_id() -> Mapping[str, VideoSample]:
        if asked.benchmark not in BENCHMARKS or data.get("source") is None:
            return {}
        try:
            items = load_items(BENCHMARKS[asked.benchmark], Path(str(data["source"])).expanduser())
        except ConfigError:
            # The folder is gone, or elsewhere: the page then says which clips it could not show.
            return {}
        return {item.sample.sample_id: item.sample for item in items}

    return lambda sample_id: by_id().get(sample_id)
