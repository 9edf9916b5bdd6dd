"""The page, and the table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
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
    failures,
    interval_of,
    stage_difference,
)
from videor2_rl.report.plots import Plot
from videor2_rl.report.rollouts import ShownSample
from videor2_rl.run.tracking import clock

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


@dataclass(frozen=True)
class TableRow:
    """One metric of one mode, its numbers already written out."""

    label: str
    cells: tuple[tuple[str, str, str], ...]
    """Mean, interval and how many samples are left out, by stage; empty strings where there is nothing to say."""
    changes: tuple[tuple[str, str, str], ...]
    """Change, its interval and a class for its sign (up, down, even), for each pair of stages."""


@dataclass(frozen=True)
class ModeTable:
    """The headline table of one mode."""

    mode: str
    num_samples: int
    stages: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    rows: tuple[TableRow, ...]


def mode_tables(data: ReportData) -> list[ModeTable]:
    """A table for every mode that at least one stage was evaluated in."""
    tables = []
    for mode in MODES:
        stages = tuple(stage for stage in STAGES if mode in data.evaluations.get(stage, {}))
        if not stages:
            continue
        wanted = (("base", "sft"), ("sft", "grpo"))
        pairs = tuple(pair for pair in wanted if pair[0] in stages and pair[1] in stages)
        tables.append(
            ModeTable(
                mode=mode,
                num_samples=max(data.evaluations[stage][mode].summary["num_samples"] for stage in stages),
                stages=stages,
                pairs=pairs,
                rows=tuple(_row(data, mode, metric, stages=stages, pairs=pairs) for metric in METRICS),
            )
        )
    return tables


def findings(data: ReportData) -> list[str]:
    """What the numbers say, one sentence for each statement, in the words that their intervals allow."""
    sentences = []
    for metric in ("accuracy", "tar_precision", "tac"):
        after = stage_difference(data, "sft", "grpo", mode="sampled", metric=metric)
        if after is None or after.mean is None or after.low is None or after.high is None:
            continue
        before_mean = interval_of(data.evaluations["sft"]["sampled"], metric).mean
        after_mean = interval_of(data.evaluations["grpo"]["sampled"], metric).mean
        verdict = "no change beyond sampling noise" if after.low <= 0 <= after.high else "beyond sampling noise"
        sentences.append(
            f"{METRIC_LABELS[metric]} at temperature 1 went from {before_mean:.3f} after SFT to {after_mean:.3f} "
            f"after GRPO ({after.mean:+.3f}, 95 % interval {after.low:+.3f} to {after.high:+.3f}: {verdict})."
        )
    for metric in ("accuracy", "tar_precision"):
        base = stage_difference(data, "base", "grpo", mode="sampled", metric=metric)
        if base is None or base.mean is None or base.low is None or base.high is None:
            continue
        place = "above" if base.low > 0 else "below" if base.high < 0 else "level with"
        sentences.append(
            f"Against the base, from which SFT started, the GRPO checkpoint is {place} it in "
            f"{METRIC_LABELS[metric][0].lower() if metric == 'accuracy' else METRIC_LABELS[metric][0]}"
            f"{METRIC_LABELS[metric][1:]} ({base.mean:+.3f}, {base.low:+.3f} to {base.high:+.3f})."
        )
    return sentences


def render(data: ReportData, *, plots: Sequence[Plot], samples: Sequence[ShownSample], selection: str) -> str:
    """The whole page. Everything that comes from a file is escaped; only the plots' own SVG is inserted as it is."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("videor2_rl.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title="Video-R2 RL: demo report" if data.is_demo else f"Video-R2 RL: {data.folder.name}",
        is_demo=data.is_demo,
        tables=mode_tables(data),
        findings=findings(data),
        failures=failures(data),
        missing=data.missing,
        plots=[(plot, Markup(plot.svg)) for plot in plots],
        samples=samples,
        selection=selection,
        stage_labels=STAGE_LABELS,
        mode_labels=MODE_LABELS,
        seconds=[(phase, seconds, clock(seconds)) for phase, seconds in data.seconds.items()],
        total_s=sum(data.seconds.values()),
        total=clock(sum(data.seconds.values())),
        skipped={
            **{STAGE_LABELS[stage]: len(run.skipped) for stage, run in data.runs.items()},
            **({"evaluation": len(data.evaluation_skipped)} if data.is_demo else {}),
        },
        configs={stage: run.config for stage, run in data.runs.items() if run.config},
        cards=_cards(data),
    )


def terminal_tables(data: ReportData) -> list[Table]:
    """The headline tables for the terminal, one for each mode; 80 columns hold three stages."""
    from rich import box
    from rich.table import Table

    tables = []
    for mode_table in mode_tables(data):
        title = f"{MODE_LABELS[mode_table.mode]}, {mode_table.num_samples} held-out clips, mean [95 % interval]"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True)
        for stage in mode_table.stages:
            table.add_column(STAGE_LABELS[stage], justify="right", no_wrap=True)
        for metric in METRICS:
            intervals = [interval_of(data.evaluations[stage][mode_table.mode], metric) for stage in mode_table.stages]
            table.add_row(
                METRIC_LABELS[metric], *(_terminal_cell(interval, digits=_digits(metric)) for interval in intervals)
            )
        tables.append(table)
    return tables


def _row(
    data: ReportData, mode: str, metric: str, *, stages: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> TableRow:
    digits = _digits(metric)
    evaluations = [data.evaluations[stage][mode] for stage in stages]
    cells = tuple((*_cell(interval_of(item, metric), digits=digits), _left_out(item, metric)) for item in evaluations)
    changes = tuple(
        _change(
            stage_difference(data, before, after, mode=mode, metric=metric),
            digits=digits,
            # Neither more nor fewer tokens are better by themselves.
            is_graded=metric != "response_tokens",
        )
        for before, after in pairs
    )
    return TableRow(label=METRIC_LABELS[metric], cells=cells, changes=changes)


def _digits(metric: str) -> int:
    return 1 if metric == "response_tokens" else 3


def _cell(interval: Interval, *, digits: int) -> tuple[str, str]:
    if interval.mean is None:
        return "", ""
    return f"{interval.mean:.{digits}f}", f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _left_out(evaluation: Evaluation, metric: str) -> str:
    failed = evaluation.summary["num_failed"][metric]
    abstained = interval_of(evaluation, metric).num_unscored - failed
    return ", ".join(f"{count} {what}" for count, what in ((failed, "failed"), (abstained, "abstained")) if count)


def _terminal_cell(interval: Interval, *, digits: int) -> Text:
    # Text, not str: rich would take the brackets for its own markup.
    from rich.text import Text

    mean, bounds = _cell(interval, digits=digits)[0], _cell(interval, digits=min(digits, 2))[1]
    return Text(f"{mean} {bounds}".strip() or "n/a")


def _change(interval: Interval | None, *, digits: int, is_graded: bool) -> tuple[str, str, str]:
    if interval is None or interval.mean is None or interval.low is None or interval.high is None:
        return "n/a", "", "even"
    sign = "even"
    if is_graded and not interval.low <= 0 <= interval.high:
        sign = "up" if interval.low > 0 else "down"
    return (
        f"{interval.mean:+.{digits}f}",
        f"[{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]",
        sign,
    )


def _cards(data: ReportData) -> list[tuple[str, list[tuple[str, str]]]]:
    """What shaped each score: heading and flat key-value pairs of each evaluation's card."""
    return [
        (f"{STAGE_LABELS[stage]}, {MODE_LABELS[mode]}", _flatten(evaluation.summary["card"]))
        for stage, modes in data.evaluations.items()
        for mode, evaluation in modes.items()
    ]


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, value in tree.items():
        if isinstance(value, dict):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", str(value)))
    return pairs
