"""The page of `evaluate logs=`: TAC and VAS of prediction logs, and rows to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.log_rows import whole_response
from videor2_rl.evaluation.logs import numbered_rows
from videor2_rl.evaluation.official.reading import response_text
from videor2_rl.evaluation.summary import SUMMARY_FILE, Interval
from videor2_rl.report.choose import Kind, choose
from videor2_rl.report.folders import READINGS_FILE
from videor2_rl.report.page import Grid, fill, flat, flat_texts
from videor2_rl.report.tables import Cell, cell, digits_of, plain_table
from videor2_rl.run.files import read_json, read_jsonl, write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = (
    ("logged_accuracy", "Accuracy, logged"),
    ("tac.consistency_accuracy", "TAC: think right where answer is"),
    ("tac.agreement", "TAC: both right or both wrong"),
    ("tac.same_answer_rate", "TAC: same answer"),
    ("vas", "VAS (0-10)"),
)
_SHORT = ("accuracy", "TAC", "agreement", "same answer", "VAS")
_REASONS = (
    "The judge failed",
    "The answer is right, the think block is not",
    "The think block is right, the answer is not",
    "Two different wrong answers",
    "The think block cannot be read",
    "The answer block cannot be read",
    "A block is empty",
    "Both wrong, the same answer",
    "Both right",
)
_MAX_TEXT = 4000
"""Characters of a response on the page."""


@dataclass(frozen=True)
class ShownReading:
    """One row of a log."""

    name: str
    think: str
    answer: str
    chips: tuple[tuple[str, str], ...]
    """Text and grade."""
    text: str
    """The response, or why it is not here."""


def log_tables(summary: Mapping[str, Any]) -> list[Table]:
    """A table for the terminal, a row for each benchmark, from the content of summary.json."""
    # Text, not str: rich would take the brackets for its own markup.
    from rich.text import Text

    table = plain_table(f"{_extent(summary)}, mean and 95 % interval")
    table.add_column("", no_wrap=True)
    table.add_column("rows", justify="right")
    names = [(key, name) for (key, _), name in zip(COLUMNS, _SHORT, strict=True) if _is_scored(summary, key)]
    for _, name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for benchmark, section in _sections(summary):
        # In brackets the bounds would not fit into 80 columns.
        cells = [cell(_interval(section, key), digits=2) for key, _ in names]
        texts = [
            Text("\n".join(filter(None, (value.mean or "n/a", value.interval[1:-1].replace(", ", "-")))))
            for value in cells
        ]
        table.add_row(benchmark, str(section["num_samples"]), *texts)
    return [table]


def write_log_report(folder: Path, out: Path, console: Console) -> Path:
    """Write report.html and report.json into `out` and print the table; returns the page.

    Raises:
        ConfigError: a file is missing or broken.
    """
    summary = read_json(folder / SUMMARY_FILE)
    if not isinstance(summary, dict) or not {"overall", "left_out"} <= summary.keys():
        raise ConfigError(f"{folder / SUMMARY_FILE} is not what evaluate logs= writes; write it again")
    readings = read_jsonl(folder / READINGS_FILE)
    shown, notes = shown_readings(readings)
    page = out / "report.html"
    write_text_atomic(
        page,
        fill(
            "logs.html.j2",
            title=f"Video-R2 RL: prediction logs in {folder.resolve().name}",
            about=f"{_extent(summary)}, below {summary['card']['logs']}.",
            read_by=summary["card"]["read_by"],
            scores=score_grid(summary),
            blocks=block_grid(summary),
            kinds=shown,
            total=len(readings),
            notes=notes,
            official=[(key, _number(value)) for key, value in flat(summary["official"]) if "source_path" not in key],
            card=flat_texts(summary["card"]),
        ),
    )
    write_json_atomic(out / "report.json", {key: summary[key] for key in ("num_samples", "overall", "benchmarks")})
    for table in log_tables(summary):
        console.print(table)
    return page


def _extent(summary: Mapping[str, Any]) -> str:
    """What the figures are of, and what is not in them."""
    left = summary["left_out"]
    without = f"; left out: {left['num_files']} logs and {left['num_rows']} rows" if left["which"] else ""
    return f"{summary['num_samples']} rows of {summary['num_files']} logs{without}"


def score_grid(summary: Mapping[str, Any]) -> Grid:
    """Scores by benchmark; a column that nobody has a score in is left out."""
    columns = [(key, name) for key, name in COLUMNS if _is_scored(summary, key)]
    rows = []
    for benchmark, section in _sections(summary):
        cells = []
        for key, _ in columns:
            interval = _interval(section, key)
            unread = f"{interval.num_unscored} left out" if interval.num_unscored else ""
            value = cell(interval, digits=digits_of(key), note=unread)
            cells.append(value if value.mean else Cell("n/a", "", unread))
        rows.append((Cell(benchmark, ""), Cell(str(section["num_samples"]), ""), *cells))
    return Grid("", ("", "Rows", *(name for _, name in columns)), tuple(rows))


def block_grid(summary: Mapping[str, Any]) -> Grid:
    """What was read of think and answer blocks."""
    statuses = ("read", "empty", "unreadable", "failed")
    rows = [
        (
            Cell(benchmark, ""),
            *(Cell(str(section["tac"][f"{block}_blocks"][s]), "") for block in ("think", "answer") for s in statuses),
        )
        for benchmark, section in _sections(summary)
    ]
    header = ("", *(f"{block}: {status}" for block in ("think", "answer") for status in statuses))
    return Grid("", header, tuple(rows))


def shown_readings(
    readings: list[dict[str, Any]], *, count: int = 12, seed: int = 0
) -> tuple[list[Kind[ShownReading]], list[str]]:
    """Rows chosen to be told apart, with their responses where the log is still there, and what is missing."""
    chosen = choose([(_reason(row), row) for row in readings], order=_REASONS, count=count, seed=seed)
    logs: dict[str, dict[int, dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    for kind in chosen:
        for row in kind.items:
            if row["file"] not in logs:
                try:
                    logs[row["file"]] = dict(numbered_rows(Path(row["file"]))[0])
                except ConfigError as error:
                    logs[row["file"]], missing[row["file"]] = {}, str(error)
    shown = [
        Kind(kind.reason, kind.total, tuple(_shown(row, logs[row["file"]]) for row in kind.items)) for kind in chosen
    ]
    return shown, [f"No responses: {sentence}" for sentence in missing.values()]


def _reason(row: Mapping[str, Any]) -> str:
    think, answer = row["think"]["status"], row["answer"]["status"]
    if "failed" in (think, answer) or row["vas_failed"]:
        return _REASONS[0]
    if "empty" in (think, answer):
        return _REASONS[6]
    if "unreadable" in (think, answer):
        return _REASONS[4 if think == "unreadable" else 5]
    if row["think_right"] and row["answer_right"]:
        return _REASONS[8]
    if row["think_right"] or row["answer_right"]:
        return _REASONS[1 if row["answer_right"] else 2]
    return _REASONS[7 if row["same_answer"] else 3]


def _shown(row: Mapping[str, Any], log: Mapping[int, dict[str, Any]]) -> ShownReading:
    logged = log.get(row["line"], {})
    text = whole_response(logged) or response_text(logged)
    right = {None: ("not judged", "none"), 1.0: ("right", "good"), 0.0: ("wrong", "bad")}
    chips = [
        (f"{name} {right[row[key]][0]}", right[row[key]][1])
        for name, key in (("think", "think_right"), ("answer", "answer_right"))
    ]
    if row["vas_failed"]:
        chips.append(("VAS failed", "failed"))
    elif row["vas"] is not None:
        chips.append((f"VAS {row['vas']:g}", "none"))
    return ShownReading(
        name=f"{Path(row['file']).name}, row {row['row']}",
        think=_read(row["think"]),
        answer=_read(row["answer"]),
        chips=tuple(chips),
        text=text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... ({len(text)} characters)",
    )


def _read(block: Mapping[str, Any]) -> str:
    return str(block["answer"]) if block["status"] == "read" else block["status"]


def _sections(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    sections = list(summary["benchmarks"].items())
    return [*sections, ("all", summary["overall"])] if len(sections) > 1 else sections


def _interval(section: Mapping[str, Any], key: str) -> Interval:
    node: Any = section
    for part in key.split("."):
        node = None if node is None else node.get(part)
    if node is None:
        return Interval(None, None, None, 0, 0)
    unscored = node.get("num_unscored", node.get("num_failed"))
    return Interval(node["mean"], node["low"], node["high"], node["num_scored"], unscored)


def _is_scored(summary: Mapping[str, Any], key: str) -> bool:
    return _interval(summary["overall"], key).mean is not None


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
