"""The plots, as inline SVG whose colours are the page's own: readable in its light and its dark form."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

from videor2_rl.report.data import (
    METRIC_LABELS,
    METRICS,
    STAGE_LABELS,
    ReportData,
    Run,
    failure_label,
    interval_of,
    series,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders in the drawing -> what stands in the page. matplotlib takes no CSS variables, so that each colour is
# drawn as one that occurs nowhere else and replaced in the finished SVG.
_INK = "#0a0b01"
_GRID = "#0a0b02"
_SERIES = tuple(f"#0a0c{number:02d}" for number in range(1, 12))
_STAGE = {"base": "#0a0d01", "sft": "#0a0d02", "grpo": "#0a0d03"}
_CSS = {
    _INK: "var(--ink)",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
    **{colour: f"var(--stage-{stage})" for stage, colour in _STAGE.items()},
}

_REWARD_TERMS = {
    "reward/accuracy": "accuracy",
    "reward/format": "format",
    "reward/temporal_alignment": "gated TAR",
    "reward/tac": "TAC",
}
_EVALUATED = ("accuracy", "tac", "tar_precision", "tar_recall")
_PHASES = (
    "prepare",
    "encode",
    "evaluate",
    "generate",
    "reward",
    "old_log_probs",
    "ref_log_probs",
    "update",
    "sync_weights",
    "save",
    "evaluate_last",
)


@dataclass(frozen=True)
class Plot:
    """A drawing with what a reader needs beside it."""

    title: str
    caption: str
    svg: str
    is_wide: bool = False


def all_plots(data: ReportData) -> list[Plot]:
    """Every plot that the data has numbers for, in the order of the page."""
    plots = evaluation_plots(data)
    if "grpo" in data.runs:
        plots += grpo_plots(data.runs["grpo"])
    # The base is trained like SFT: both show a loss.
    for stage in ("base", "sft"):
        if stage in data.runs:
            plots += loss_plots(data.runs[stage], stage=stage)
    return plots


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
        plots.append(Plot(title, caption, _draw(title, drawing, width=5.6)))
    return plots


def grpo_plots(run: Run) -> list[Plot]:
    """Reward, its terms, KL, log-prob gap, response length and time, by step."""
    rows = with_gaps(run.metrics)
    failed = failed_shares(rows)
    limit = _setting(run.config, "max_log_prob_gap")
    gap_caption = "Difference between vLLM's and the learner's log-probability of the sampled tokens, in nats. "
    gap_caption += f"The dashed line is the limit that stops the run ({limit:g})." if limit else ""
    candidates: list[tuple[str, str, tuple[str, ...], Callable[[Axes], None]]] = [
        (
            "Reward",
            "Mean over the step's responses; the band is one standard deviation of them.",
            ("reward/mean",),
            lambda ax: _band(ax, rows, "reward/mean", "reward/std"),
        ),
        (
            "Reward terms",
            "Each term before its weight, over the responses that it scored; a gap where it scored none. "
            "TAR counts only where the consistency gate is open.",
            tuple(_REWARD_TERMS),
            lambda ax: _lines(ax, rows, _REWARD_TERMS, limits=(0, 1.03)),
        ),
        (
            "Failed verdicts",
            "Share of the responses, or of the judge's calls, on which judging went wrong. They leave the means; "
            "those without a reward also their group's statistics and the loss.",
            tuple(failed),
            lambda ax: _lines(ax, rows, failed, limits=(0, 1.03)),
        ),
        (
            "Held-out rows while training",
            "Means over the evaluated rows, before the step after so many and at the end.",
            tuple(f"evaluation/{name}" for name in _EVALUATED),
            lambda ax: _lines(
                ax,
                with_gaps(evaluation_rows(rows), "evaluation/"),
                {f"evaluation/{name}": METRIC_LABELS[name] for name in _EVALUATED},
                limits=(0, 1.03),
            ),
        ),
        (
            "KL to the reference",
            "Estimate over the response tokens, in nats per token.",
            ("actor/kl",),
            lambda ax: _lines(ax, rows, {"actor/kl": "KL"}),
        ),
        (
            "Log-prob gap",
            gap_caption,
            ("rollout/log_prob_gap_max",),
            lambda ax: _gap(ax, rows, limit=limit),
        ),
        (
            "Response length",
            "Tokens per response, mean over the step.",
            ("rollout/response_tokens_mean",),
            lambda ax: _lines(ax, rows, {"rollout/response_tokens_mean": "tokens"}),
        ),
        (
            "Groups without signal, truncated responses",
            "Share of the groups whose rewards are all equal, and of the responses cut at the token limit.",
            ("reward/zero_variance_frac", "rollout/truncated_frac"),
            lambda ax: _lines(
                ax,
                rows,
                {"reward/zero_variance_frac": "zero-variance groups", "rollout/truncated_frac": "truncated"},
                limits=(0, 1.03),
            ),
        ),
    ]
    plots = [
        Plot(title, caption, _draw(title, drawing))
        for title, caption, names, drawing in candidates
        if any(name in row for name in names for row in rows)
    ]
    if any(f"timing_s/{phase}" in row for phase in _PHASES for row in rows):
        title = "Time per step, by phase"
        caption = "Wall-clock seconds; the bars stack to the phases' sum."
        plots.append(Plot(title, caption, _draw(title, lambda ax: _stacked(ax, rows), width=9.6), is_wide=True))
    return plots


def with_gaps(rows: Sequence[Mapping[str, Any]], prefix: str = "reward/") -> list[dict[str, Any]]:
    """The rows, with None for each mean that one has not but others have: all of it failed or abstained."""
    names = {name for row in rows for name in row if name.startswith(prefix)}
    return [{**dict.fromkeys(names), **row} for row in rows]


def failed_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metric -> label of every share of failed verdicts that is not 0 throughout."""
    shares = {name: label for row in rows for name in row if (label := failure_label(name))}
    return {name: label for name, label in sorted(shares.items()) if any(row.get(name) for row in rows)}


def evaluation_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The periodic evaluations in metrics.jsonl, each under the steps that its policy had done."""
    found = []
    for row in rows:
        for prefix in ("evaluation/", "final_evaluation/"):
            if f"{prefix}steps_done" in row:
                values = {f"evaluation/{k.removeprefix(prefix)}": v for k, v in row.items() if k.startswith(prefix)}
                found.append({"step": int(row[f"{prefix}steps_done"]), **values})
    return found


def loss_plots(run: Run, *, stage: str) -> list[Plot]:
    """Training and validation loss by step."""
    if not any("sft/loss" in row for row in run.metrics):
        return []
    title = f"{STAGE_LABELS[stage]}: loss"
    names = {"sft/loss": "training", "sft/validation_loss": "validation"}
    drawing = _draw(title, lambda ax: _lines(ax, run.metrics, names, marker_for="sft/validation_loss"))
    return [Plot(title, "Cross-entropy on the response tokens, in nats per token.", drawing)]


def _bars(ax: Axes, *, data: ReportData, stages: Sequence[str], mode: str) -> None:
    metrics = [name for name in METRICS if name != "response_tokens"]
    width = 0.8 / len(stages)
    for index, stage in enumerate(stages):
        for position, metric in enumerate(metrics):
            interval = interval_of(data.evaluations[stage][mode], metric)
            if interval.mean is None or interval.low is None or interval.high is None:
                continue
            x = position - 0.4 + (index + 0.5) * width
            label = STAGE_LABELS[stage] if position == 0 else None
            ax.bar(x, interval.mean, width * 0.92, color=_STAGE[stage], label=label)
            ax.plot([x, x], [interval.low, interval.high], color=_INK, linewidth=1.1)
    ax.set_xticks(range(len(metrics)), [METRIC_LABELS[name].replace(" ", "\n") for name in metrics])
    ax.set_ylim(0, 1.03)
    ax.grid(False, axis="x")
    ax.tick_params(axis="x", length=0)
    _legend(ax)


def _band(ax: Axes, rows: Sequence[Mapping[str, Any]], mean: str, spread: str) -> None:
    both = [row for row in rows if mean in row and spread in row]
    (steps, means), (_, spreads) = series(both, mean), series(both, spread)
    low = [value - width for value, width in zip(means, spreads, strict=True)]
    high = [value + width for value, width in zip(means, spreads, strict=True)]
    ax.fill_between(steps, low, high, color=_SERIES[0], alpha=0.16, linewidth=0)
    _lines(ax, rows, {mean: "mean"})


def _lines(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    limits: tuple[float, float] | None = None,
    marker_for: str = "",
) -> None:
    shown = {name: label for name, label in names.items() if any(name in row for row in rows)}
    for (name, label), colour in zip(shown.items(), cycle(_SERIES), strict=False):
        steps, values = series(rows, name)
        # A line through a single point, as between two gaps, would not be seen.
        has_single = len(values) == 1 or any(map(math.isnan, values))
        marker = "o" if name == marker_for or has_single else None
        ax.plot(steps, values, color=colour, label=label, marker=marker, markersize=4)
    if limits is not None:
        ax.set_ylim(*limits)
    ax.set_xlabel("step")
    if len(shown) > 1:
        _legend(ax)


def _gap(ax: Axes, rows: Sequence[Mapping[str, Any]], *, limit: float | None) -> None:
    ax.set_yscale("log", nonpositive="mask")
    names = {"rollout/log_prob_gap_max": "largest", "rollout/log_prob_gap_mean": "mean"}
    if limit is not None:
        ax.axhline(limit, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
    _lines(ax, rows, names)


def _stacked(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    phases = [phase for phase in _PHASES if any(f"timing_s/{phase}" in row for row in rows)]
    steps = [row["step"] for row in rows]
    bottom = [0.0] * len(rows)
    for phase, colour in zip(phases, cycle(_SERIES), strict=False):
        seconds = [float(row.get(f"timing_s/{phase}") or 0.0) for row in rows]
        ax.bar(steps, seconds, 0.86, bottom=bottom, color=colour, label=phase.replace("_", " "), linewidth=0)
        bottom = [below + height for below, height in zip(bottom, seconds, strict=True)]
    ax.set_xlabel("step")
    ax.set_ylabel("seconds")
    _legend(ax)


def _legend(ax: Axes) -> None:
    """Above the axes, in as few rows as the drawing is wide for: a wider legend would squeeze the axes."""
    lengths = [len(label) for label in ax.get_legend_handles_labels()[1]]
    # About 11 characters to the inch of a drawing; 4 are the key and the space beside a label.
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes are drawn on a figure"
    room = 11 * figure.get_figwidth()
    columns = next(count for count in range(len(lengths), 0, -1) if count == 1 or _width(lengths, count) <= room)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.1,
        handletextpad=0.5,
        columnspacing=1.3,
        labelcolor=_INK,
    )


def _width(lengths: Sequence[int], columns: int) -> int:
    """Of a legend in characters; it fills its columns one after the other, the first ones with one more."""
    rows, longer = divmod(len(lengths), columns)
    starts = [column * rows + min(column, longer) for column in range(columns + 1)]
    return sum(max(lengths[start:stop]) + 4 for start, stop in pairwise(starts))


def _draw(title: str, drawing: Callable[[Axes], None], *, width: float = 4.6) -> str:
    """Run `drawing` on fresh axes and return the SVG element, 72 CSS pixels to the inch before scaling."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        # Ids of clip paths must differ between the drawings of one page, and not between two runs of the report.
        "svg.hashsalt": title,
        "font.size": 9.5,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.8,
        "xtick.color": _GRID,
        "ytick.color": _GRID,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "text.color": _INK,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, 2.75), layout="constrained")
        axes = figure.add_subplot()
        axes.margins(x=0.02)
        drawing(axes)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _inline(buffer.getvalue(), title=title)


def _inline(svg: str, *, title: str) -> str:
    """An SVG file -> an element for an HTML page: no prologue, no namespace addresses, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    # This style sheet would apply to the whole page, not to its drawing alone.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\sxmlns(:\w+)?=\"[^\"]*\"", "", svg)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _setting(config: str, key: str) -> float | None:
    """A number of config.yaml by its key, None where it is absent; the report needs no YAML parser for one number."""
    match = re.search(rf"^\s*{key}:\s*([-+.\deE]+)\s*$", config, flags=re.MULTILINE)
    return float(match.group(1)) if match else None
