"""The headline tables: which metrics, written out for the page, and as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videor2_rl.report.data import (
    METRIC_LABELS,
    METRICS,
    MODE_LABELS,
    MODES,
    STAGE_LABELS,
    STAGES,
    Evaluation,
    Interval,
    ReportData,
    interval_of,
    stage_difference,
    value_at,
)

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_TAR = ("tar_precision", "tar_recall", "tar_f1")
_PAID = {"precision": "tar_precision", "recall": "tar_recall", "f_beta": "tar_f1"}
SAME_TAR = 0.02
"""TAR statistics that lie within this of each other in every cell say the same, and one of them is shown."""


@dataclass(frozen=True)
class Cell:
    """A number, written out; empty texts where there is nothing to say."""

    mean: str
    interval: str
    note: str = ""
    """How many samples are left out, or a class of the sign: up, down, even."""


@dataclass(frozen=True)
class TableRow:
    """One metric of one mode."""

    label: str
    cells: tuple[Cell, ...]
    """One for each stage; the note says how many samples failed or abstained."""
    changes: tuple[Cell, ...]
    """One for each pair of stages; the note is the class of its sign."""


@dataclass(frozen=True)
class ModeTable:
    """The headline table of one mode."""

    mode: str
    num_samples: int
    stages: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    rows: tuple[TableRow, ...]
    folded: str
    """Says which TAR statistics are left out, and why; "" where none is."""


def paid_tar(evaluations: Sequence[Evaluation]) -> str:
    """The TAR statistic that the evaluated reward pays, as a metric; precision where the card does not say."""
    statistics = [value_at(item.summary["card"], "reward.temporal_alignment.statistic") for item in evaluations]
    return _PAID.get(str(statistics[-1]) if statistics else "", "tar_precision")


def metrics_worth_a_row(evaluations: Sequence[Evaluation]) -> tuple[tuple[str, ...], str]:
    """The metrics that say something of their own, and a sentence about the TAR statistics that do not."""
    paid = paid_tar(evaluations)
    others = [name for name in _TAR if name != paid]
    gaps = []
    for item in evaluations:
        means = item.summary["metrics"]
        known = [means[name]["mean"] for name in _TAR if means[name]["mean"] is not None]
        gaps.append(max(known) - min(known) if known else 0.0)
    if not gaps or max(gaps) > SAME_TAR:
        return METRICS, ""
    names = " and ".join(METRIC_LABELS[name].removeprefix("TAR ") for name in others)
    how = "the same as" if max(gaps) < 0.0005 else f"within {max(gaps):.3f} of"
    sentence = f"TAR {names} are {how} {METRIC_LABELS[paid]} throughout."
    return tuple(name for name in METRICS if name not in others), sentence


def shown_metrics(data: ReportData, mode: str) -> tuple[str, ...]:
    """Of one mode's table and bars."""
    return metrics_worth_a_row([modes[mode] for modes in data.evaluations.values() if mode in modes])[0]


def mode_tables(data: ReportData) -> list[ModeTable]:
    """A table for every mode that at least one stage was evaluated in."""
    tables = []
    for mode in MODES:
        stages = tuple(stage for stage in STAGES if mode in data.evaluations.get(stage, {}))
        if not stages:
            continue
        wanted = (("base", "sft"), ("sft", "grpo"))
        pairs = tuple(pair for pair in wanted if pair[0] in stages and pair[1] in stages)
        metrics, folded = metrics_worth_a_row([data.evaluations[stage][mode] for stage in stages])
        tables.append(
            ModeTable(
                mode=mode,
                num_samples=max(data.evaluations[stage][mode].summary["num_samples"] for stage in stages),
                stages=stages,
                pairs=pairs,
                rows=tuple(_row(data, mode, metric, stages=stages, pairs=pairs) for metric in metrics),
                folded=folded,
            )
        )
    return tables


def terminal_tables(data: ReportData) -> list[Table]:
    """The headline tables for the terminal, one for each mode; 80 columns hold three stages."""
    tables = []
    for mode_table in mode_tables(data):
        evaluated = {STAGE_LABELS[stage]: data.evaluations[stage][mode_table.mode] for stage in mode_table.stages}
        title = f"{MODE_LABELS[mode_table.mode]}, {mode_table.num_samples} held-out clips, mean [95 % interval]"
        tables.append(metrics_table(title, {name: item.summary for name, item in evaluated.items()}))
    return tables


def metrics_table(title: str, summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Metrics by evaluation for the terminal, from the content of each one's summary.json."""
    table = plain_table(title)
    table.add_column("", no_wrap=True)
    for name in summaries:
        table.add_column(name, justify="right", no_wrap=True)
    evaluations = [Evaluation(summary=summary, rows=()) for summary in summaries.values()]
    for metric in metrics_worth_a_row(evaluations)[0]:
        cells = [terminal_cell(interval_of(item, metric), digits=digits_of(metric)) for item in evaluations]
        table.add_row(METRIC_LABELS[metric], *cells)
    return table


def plain_table(title: str) -> Table:
    """A table for the terminal as all of the report's are."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def digits_of(metric: str) -> int:
    """Decimals."""
    return 1 if metric in ("response_tokens", "vas") else 3


def cell(interval: Interval, *, digits: int, note: str = "") -> Cell:
    """A mean and its interval, written out."""
    if interval.mean is None or interval.low is None or interval.high is None:
        return Cell("", "", note)
    return Cell(f"{interval.mean:.{digits}f}", f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]", note)


def change_cell(interval: Interval | None, *, digits: int, is_graded: bool = True) -> Cell:
    """A difference and its interval; up or down where that leaves out 0 and more is better, else even."""
    if interval is None or interval.mean is None or interval.low is None or interval.high is None:
        return Cell("n/a", "", "even")
    sign = "even"
    if is_graded and not interval.low <= 0 <= interval.high:
        sign = "up" if interval.low > 0 else "down"
    low, high = f"{interval.low:+.{digits}f}", f"{interval.high:+.{digits}f}"
    return Cell(f"{interval.mean:+.{digits}f}", f"[{low}, {high}]", sign)


def terminal_cell(interval: Interval, *, digits: int) -> Text:
    """As `cell`, its bounds with two decimals at most."""
    # Text, not str: rich would take the brackets for its own markup.
    from rich.text import Text

    mean, bounds = cell(interval, digits=digits).mean, cell(interval, digits=min(digits, 2)).interval
    return Text(f"{mean} {bounds}".strip() or "n/a")


def left_out(evaluation: Evaluation, metric: str) -> str:
    """How many samples of a metric failed, and how many abstained."""
    failed = evaluation.summary["num_failed"][metric]
    abstained = interval_of(evaluation, metric).num_unscored - failed
    return ", ".join(f"{count} {what}" for count, what in ((failed, "failed"), (abstained, "abstained")) if count)


def _row(
    data: ReportData, mode: str, metric: str, *, stages: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> TableRow:
    digits = digits_of(metric)
    evaluations = [data.evaluations[stage][mode] for stage in stages]
    return TableRow(
        label=METRIC_LABELS[metric],
        cells=tuple(
            cell(interval_of(item, metric), digits=digits, note=left_out(item, metric)) for item in evaluations
        ),
        changes=tuple(
            change_cell(
                stage_difference(data, before, after, mode=mode, metric=metric),
                digits=digits,
                # Neither more nor fewer tokens are better by themselves.
                is_graded=metric != "response_tokens",
            )
            for before, after in pairs
        ),
    )
