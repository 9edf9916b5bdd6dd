"""Runs side by side: one table, as page, Markdown, JSON and in the terminal.

`compare_runs` is for anybody who has the runs' folders, as the end of a sweep has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.report.compare import LOG_METRICS
from videor2_rl.report.data import METRIC_LABELS
from videor2_rl.report.drawing import Plot, draw, lines
from videor2_rl.report.page import Grid, fill, grid_markdown, plain_cells
from videor2_rl.report.runs import REWARD, Columns, Member, Training, against, differing, mean_of, read_members
from videor2_rl.report.tables import SAME_TAR, Cell, change_cell, digits_of, plain_table
from videor2_rl.run.files import write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MAX_KEYS = 4
"""Of what differs, as columns of the table; the rest stands below it."""
_NOT_IN_TERMINAL = ("Format", "Response tokens", "steps")
_NOT_GRADED = (REWARD, "response_tokens", "num_claims")
_CURVES = {
    "Reward": "reward/mean",
    "Accuracy": "reward/accuracy",
    "TAR precision": "reward/tar_precision",
    "TAC": "reward/tac",
    "KL to the reference": "actor/kl",
    "Loss": "sft/loss",
}


@dataclass(frozen=True)
class Compared:
    """What the table says."""

    grid: Grid
    differences: Grid
    """Every setting that differs."""
    notes: tuple[str, ...]
    numbers: dict[str, Any]


def compare_runs(
    folders: Sequence[Path], *, out: Path | None, console: Console, json_file: Path | None = None
) -> Path | None:
    """Print the table of some runs or evaluations, each against the first, and write it into a folder.

    Args:
        folders: of training runs (metrics.jsonl), or of evaluations.
        out: where comparison.html, comparison.md and comparison.json are written; None: nowhere.
        console: where the table is printed.
        json_file: the numbers are written here too.

    Returns:
        The page; None where none was written.

    Raises:
        ConfigError: no folder, folders of two kinds, or a file that is missing or broken.
    """
    if not folders:
        raise ConfigError("there is no run to compare; give the folders of some runs")
    members = read_members(folders)
    compared = compare(members)
    console.print(terminal_table(compared.grid))
    for note in compared.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    if json_file is not None:
        write_json_atomic(json_file, compared.numbers)
    if out is None:
        return None
    write_text_atomic(out / "comparison.md", as_markdown(compared))
    write_json_atomic(out / "comparison.json", compared.numbers)
    page = out / "comparison.html"
    write_text_atomic(
        page,
        fill(
            "runs.html.j2",
            title=f"Video-R2 RL: {len(members)} {'runs' if members[0].metrics else 'evaluations'} in "
            f"{out.resolve().name}",
            grid=compared.grid,
            differences=compared.differences,
            notes=compared.notes,
            plots=curves(members),
        ),
    )
    return page


def compare(members: Sequence[Member]) -> Compared:
    """The table, its notes and its numbers; the first member is what the others are set against."""
    first = members[0]
    keys = differing(members)
    shown = list(keys)[:MAX_KEYS]
    sections = _sections(members)
    header = ["Run", *(_short(key) for key in shown)]
    header += ["steps"] if any(member.metrics for member in members) else []
    header += [f"{title}{_label(metric)}" for title, metric, _ in sections]
    rows, numbers = [], {}
    for place, member in enumerate(members):
        cells = list(plain_cells([member.name, *(_plain(keys[key][place]) for key in shown)]))
        if any(other.metrics for other in members):
            cells.append(Cell(str(len(member.metrics)), ""))
        entries = {}
        for title, metric, columns in sections:
            # Held-out columns are by sample; training's are, where both runs have rollout logs.
            may_pair = bool(title) or _by_prompts(first, member)
            value, entry = _compared(columns[0], columns[place], metric, is_first=place == 0, may_pair=may_pair)
            cells.append(value)
            entries[f"{title}{metric}"] = entry
        rows.append(tuple(cells))
        numbers[member.name] = {"folder": str(member.folder), "steps": len(member.metrics), "metrics": entries}
    table = Grid(f"Against {first.name}", tuple(header), tuple(rows), num_settings=len(shown), is_against=True)
    every = Grid(
        "",
        ("Setting", *(member.name for member in members)),
        tuple(plain_cells([key, *map(_plain, values)]) for key, values in keys.items()),
    )
    notes = _notes(members, keys=list(keys), numbers=numbers)
    return Compared(table, every, notes, {"first": first.name, "runs": numbers, "notes": list(notes)})


def _sections(members: Sequence[Member]) -> list[tuple[str, str, list[Columns]]]:
    """Title, metric and each member's columns, of every column of numbers in the table."""
    sections: list[tuple[str, str, list[Columns]]] = []
    training = [member.training.columns if member.training is not None else {} for member in members]
    sections += [("", metric, training) for metric in _worth_showing(training)]
    titles = dict.fromkeys(title for member in members for title in member.evaluations)
    for title in titles:
        held_out = [member.evaluations.get(title, {}) for member in members]
        prefix = f"{title}: " if title else ""
        sections += [(prefix, metric, held_out) for metric in _worth_showing(held_out)]
    return sections


def _worth_showing(columns: Sequence[Columns]) -> list[str]:
    """Metrics that some member has a score in, but for TAR statistics that say the same as precision."""
    names = dict.fromkeys(name for column in columns for name in column)
    means = {name: [mean_of(column, name).mean for column in columns] for name in names}
    scored = [name for name in names if any(mean is not None for mean in means[name])]
    precision = means.get("tar_precision", [])

    def is_same(name: str) -> bool:
        pairs = zip(means[name], precision, strict=True)
        return all(a is not None and b is not None and abs(a - b) <= SAME_TAR for a, b in pairs)

    return [name for name in scored if name not in ("tar_recall", "tar_f1") or not precision or not is_same(name)]


def _by_prompts(first: Member, member: Member) -> bool:
    return all(item.training is None or item.training.by == "prompts" for item in (first, member))


def _compared(
    base: Columns, other: Columns, metric: str, *, is_first: bool, may_pair: bool
) -> tuple[Cell, dict[str, Any]]:
    mean, digits = mean_of(other, metric), digits_of(metric)
    entry: dict[str, Any] = {"mean": dataclasses.asdict(mean), "difference": None}
    if mean.mean is None:
        return Cell("n/a", ""), entry
    text = f"{mean.mean:.{digits}f}"
    digits = min(digits, 2)
    difference = None if is_first else against(base, other, metric, may_pair=may_pair)
    if difference is None:
        return Cell(text, ""), entry
    change = change_cell(
        difference.interval, digits=digits, is_graded=metric not in _NOT_GRADED and "loss" not in metric
    )
    entry["difference"] = {**dataclasses.asdict(difference.interval), "is_paired": difference.is_paired}
    return Cell(text, f"{change.mean} {change.interval}".strip(), change.note), entry


def _notes(members: Sequence[Member], *, keys: Sequence[str], numbers: dict[str, Any]) -> tuple[str, ...]:
    notes = ["Below each mean: the difference from the first with its 95 % bootstrap interval."]
    first = members[0]
    if first.training is not None:
        notes.append(f"Training: means over the last steps, of {first.name} {_steps(first.training)}.")
    for member in members[1:]:
        if member.training is None:
            if member.metrics or first.training is not None:
                notes.append(f"{member.name}: no step yet.")
            continue
        if first.training is not None:
            notes.append(f"{member.name}: {_how(first, member)}.")
    if any(key.startswith("reward.") for key in keys):
        notes.append("The rewards differ in what they pay: their means are not on one scale.")
    for member in members:
        entries = numbers[member.name]["metrics"]
        unpaired = [
            name
            for name, entry in entries.items()
            if ": " in name and entry["difference"] is not None and not entry["difference"]["is_paired"]
        ]
        if unpaired or (not first.metrics and any(_is_unpaired(entry) for entry in entries.values())):
            notes.append(f"{member.name}: its held-out samples are others than the first's, so unpaired.")
    return tuple(notes)


def _is_unpaired(entry: dict[str, Any]) -> bool:
    return entry["difference"] is not None and not entry["difference"]["is_paired"]


def _how(first: Member, member: Member) -> str:
    """How the training columns of a run were set against the first's."""
    assert first.training is not None and member.training is not None, "both have steps"
    one, two = first.training, member.training
    metric = next((name for name in one.columns if name in two.columns), None)
    if metric is None:
        return "shares no training metric with the first"
    shared = len(one.columns[metric].keys() & two.columns[metric].keys())
    found = against(one.columns, two.columns, metric, may_pair=_by_prompts(first, member))
    if found is not None and found.is_paired:
        return f"paired over the {shared} prompts that both saw in {_steps(two)}"
    if two.by == "steps":
        return f"unpaired, over the means of {_steps(two)}: without rollout logs nothing tells whether prompts agree"
    return f"unpaired, over the prompts of {_steps(two)}: the two saw different ones"


def _steps(training: Training) -> str:
    return f"step {training.last}" if training.first == training.last else f"steps {training.first} to {training.last}"


def terminal_table(grid: Grid) -> Table:
    """For the terminal, whose width is scarce: everything is on the page.

    Two settings, none where the runs' names tell them; not every metric; a difference below its mean.
    """
    from rich.text import Text

    keys = 0 if all("=" in row[0].mean for row in grid.rows) else 2
    shown = [
        place
        for place, name in enumerate(grid.header)
        if (place not in range(1, 1 + grid.num_settings) or place <= keys) and not name.endswith(_NOT_IN_TERMINAL)
    ]
    table = plain_table(grid.caption)
    for place in shown:
        table.add_column(grid.header[place], justify="left" if place == 0 else "right", overflow="fold")
    styles = {"up": "green", "down": "red"}
    for row in grid.rows:
        texts = [
            Text(
                "\n".join(filter(None, (row[p].mean, row[p].interval.replace(" [", "\n[")))),
                style=styles.get(row[p].note, ""),
            )
            for p in shown
        ]
        table.add_row(*texts)
    return table


def as_markdown(compared: Compared) -> str:
    """The table, what differs, and the notes."""
    text = ["# Runs", "", *grid_markdown(compared.grid), "", *(f"- {note}" for note in compared.notes)]
    text += ["- \\* the interval of the difference leaves out 0.", "", "## What differs", ""]
    text += grid_markdown(compared.differences) if compared.differences.rows else ["Nothing."]
    return "\n".join(text) + "\n"


def curves(members: Sequence[Member]) -> list[Plot]:
    """One drawing for each metric, a line for each run."""
    plots = []
    for title, name in _CURVES.items():
        found = [member for member in members if any(row.get(name) is not None for row in member.metrics)]
        if not found:
            continue
        rows = [
            {"step": row["step"], member.name: row[name]} for member in found for row in member.metrics if name in row
        ]
        # A longer name would take the drawing's whole width; its end is where the runs of a sweep differ.
        names = {member.name: member.name if len(member.name) <= 36 else f"...{member.name[-33:]}" for member in found}
        plots.append(Plot(title, f"{name} by step.", draw(title, partial(lines, rows=rows, names=names))))
    return plots


def _label(metric: str) -> str:
    known = {**METRIC_LABELS, REWARD: "Reward", **{name: name.replace("_", " ") for name in LOG_METRICS}}
    return known.get(metric, metric)


def _short(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)
