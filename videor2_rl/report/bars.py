"""Bars: an evaluation's metrics by stage, and where a step's time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from videor2_rl.report.data import METRIC_LABELS, STAGE_LABELS, ReportData, interval_of
from videor2_rl.report.drawing import INK, SERIES, STAGE, Plot, draw, legend, step_axis
from videor2_rl.report.tables import shown_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHASES: Mapping[str, tuple[str, ...]] = {
    "frames": ("prepare", "encode"),
    "generate": ("generate",),
    "reward": ("reward",),
    # In place of the three above where rollouts run ahead.
    "wait for groups": ("wait",),
    "log-probs": ("old_log_probs", "ref_log_probs"),
    "update": ("update",),
    "sync and save": ("snapshot", "sync_weights", "save"),
    "evaluate": ("evaluate", "evaluate_last"),
}
"""What is drawn as one colour -> the phases in metrics.jsonl that it sums."""
MAX_BARS = 25


def evaluation_plots(data: ReportData) -> list[Plot]:
    """One bar chart of the metrics in 0-1 for each mode, with the 95 % intervals."""
    titles = {"sampled": "Held-out clips, temperature 1", "greedy": "Held-out clips, greedy"}
    plots = []
    for mode, title in titles.items():
        stages = [stage for stage in data.evaluations if mode in data.evaluations[stage]]
        if not stages:
            continue
        caption = "Mean over the held-out clips; the lines are 95 % bootstrap intervals over clips."
        drawing = partial(_bars, data=data, stages=stages, mode=mode)
        plots.append(Plot(title, caption, draw(title, drawing, width=5.6)))
    return plots


def time_plot(rows: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Seconds a step by phase, several steps to a bar where there are many; None where no phase was timed."""
    bars = binned_seconds(rows)
    if not bars:
        return None
    width = bars[0][1] - bars[0][0] + 1
    per_bar = "" if width == 1 else f" A bar is the mean of {width} steps."
    title = "Time per step, by phase"
    caption = f"Wall-clock seconds; the bars stack to the phases' sum.{per_bar}"
    return Plot(title, caption, draw(title, partial(_stacked, bars=bars), width=9.6), is_wide=True)


def binned_seconds(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, dict[str, float]]]:
    """First and last step of each bar, and the mean seconds a step of each phase; at most `MAX_BARS` of them."""
    names = [
        label for label, phases in PHASES.items() if any(f"timing_s/{name}" in row for name in phases for row in rows)
    ]
    if not names:
        return []
    width = -(-len(rows) // MAX_BARS)
    bins = [rows[start : start + width] for start in range(0, len(rows), width)]
    return [
        (int(part[0]["step"]), int(part[-1]["step"]), {name: _seconds(part, name) for name in names}) for part in bins
    ]


def _seconds(rows: Sequence[Mapping[str, Any]], label: str) -> float:
    return sum(float(row.get(f"timing_s/{name}") or 0.0) for name in PHASES[label] for row in rows) / len(rows)


def _stacked(ax: Axes, *, bars: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
    middles = [(first + last) / 2 for first, last, _ in bars]
    width = 0.86 * (bars[0][1] - bars[0][0] + 1)
    bottom = [0.0] * len(bars)
    # One phase, one colour, in whichever run.
    for colour, label in zip(SERIES, PHASES, strict=False):
        if label not in bars[0][2]:
            continue
        heights = [seconds[label] for _, _, seconds in bars]
        ax.bar(middles, heights, width, bottom=bottom, color=colour, label=label, linewidth=0)
        bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
    step_axis(ax)
    ax.set_ylabel("seconds")
    legend(ax)


def _bars(ax: Axes, *, data: ReportData, stages: Sequence[str], mode: str) -> None:
    metrics = [name for name in shown_metrics(data, mode) if name != "response_tokens"]
    width = 0.8 / len(stages)
    for index, stage in enumerate(stages):
        for position, metric in enumerate(metrics):
            interval = interval_of(data.evaluations[stage][mode], metric)
            if interval.mean is None or interval.low is None or interval.high is None:
                continue
            x = position - 0.4 + (index + 0.5) * width
            label = STAGE_LABELS[stage] if position == 0 else None
            ax.bar(x, interval.mean, width * 0.92, color=STAGE[stage], label=label)
            ax.plot([x, x], [interval.low, interval.high], color=INK, linewidth=1.1)
    ax.set_xticks(range(len(metrics)), [METRIC_LABELS[name].replace(" ", "\n") for name in metrics])
    ax.set_ylim(0, 1.03)
    ax.grid(False, axis="x")
    ax.tick_params(axis="x", length=0)
    legend(ax)
