"""Drawing for the page: inline SVG whose colours are the page's own, readable in its light and its dark form."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

from videor2_rl.report.data import series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders in the drawing -> what stands in the page. matplotlib takes no CSS variables, so that each colour is
# drawn as one that occurs nowhere else and replaced in the finished SVG.
INK = "#0a0b01"
_GRID = "#0a0b02"
SERIES = tuple(f"#0a0c{number:02d}" for number in range(1, 9))
STAGE = {"base": "#0a0d01", "sft": "#0a0d02", "grpo": "#0a0d03"}
_CSS = {
    INK: "var(--ink)",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
    **{colour: f"var(--stage-{stage})" for stage, colour in STAGE.items()},
}


MAX_POINTS = 1000
"""Of a drawn series: a run of 50,000 steps must not make a page of 30 MB."""


@dataclass(frozen=True)
class Plot:
    """A drawing with what a reader needs beside it."""

    title: str
    caption: str
    svg: str
    is_wide: bool = False


def lines(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    limits: tuple[float, float] | None = None,
    marker_for: str = "",
) -> None:
    shown = {name: label for name, label in names.items() if any(name in row for row in rows)}
    for (name, label), colour in zip(shown.items(), cycle(SERIES), strict=False):
        steps, values = thinned(*series(rows, name))
        # A line through a single point, as between two gaps, would not be seen.
        has_single = len(values) == 1 or any(map(math.isnan, values))
        marker = "o" if name == marker_for or has_single else None
        ax.plot(steps, values, color=colour, label=label, marker=marker, markersize=4)
    if limits is not None:
        ax.set_ylim(*limits)
    step_axis(ax)
    if len(shown) > 1:
        legend(ax)


def band(ax: Axes, rows: Sequence[Mapping[str, Any]], mean: str, spread: str) -> None:
    both = [row for row in rows if mean in row and spread in row]
    (steps, means), (_, spreads) = thinned(*series(both, mean)), thinned(*series(both, spread))
    low = [value - width for value, width in zip(means, spreads, strict=True)]
    high = [value + width for value, width in zip(means, spreads, strict=True)]
    ax.fill_between(steps, low, high, color=SERIES[0], alpha=0.16, linewidth=0)
    lines(ax, rows, {mean: "mean"})


def step_axis(ax: Axes) -> None:
    """Steps along x: whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most `MAX_POINTS` of a series: where there are more, means of as many consecutive ones as it takes."""
    width = -(-len(steps) // MAX_POINTS)
    if width <= 1:
        return [float(step) for step in steps], list(values)
    starts = range(0, len(steps), width)
    return [_mean(steps[start : start + width]) for start in starts], [
        _mean([value for value in values[start : start + width] if not math.isnan(value)]) for start in starts
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def legend(ax: Axes) -> None:
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
        labelcolor=INK,
    )


def _width(lengths: Sequence[int], columns: int) -> int:
    """Of a legend in characters; it fills its columns one after the other, the first ones with one more."""
    rows, longer = divmod(len(lengths), columns)
    starts = [column * rows + min(column, longer) for column in range(columns + 1)]
    return sum(max(lengths[start:stop]) + 4 for start, stop in pairwise(starts))


def _give_room(ax: Axes) -> None:
    """Axes around a series that never changes: a flat 0 is drawn on the floor of 0 to 1, not amid noise of its own."""
    if ax.get_yscale() == "log" or not ax.get_autoscaley_on():
        return
    low, high = (float(value) for value in ax.dataLim.intervaly)
    if not (math.isfinite(low) and math.isfinite(high)) or high - low > 1e-3 * max(abs(low), abs(high)):
        return
    if abs(high) < 1e-12:
        ax.set_ylim(-0.02, 1)
    else:
        ax.set_ylim(*sorted((-0.02 * high, 2 * high)))


def draw(title: str, drawing: Callable[[Axes], None], *, width: float = 4.6) -> str:
    """Run `drawing` on fresh axes and return the SVG element, 72 CSS pixels to the inch before scaling."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        # Ids of clip paths must differ between the drawings of one page, and not between two runs of the report.
        "svg.hashsalt": title,
        "font.size": 9.5,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.8,
        "xtick.color": _GRID,
        "ytick.color": _GRID,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "text.color": INK,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, 2.75), layout="constrained")
        axes = figure.add_subplot()
        axes.margins(x=0.02)
        drawing(axes)
        _give_room(axes)
        if axes.get_yscale() == "linear":
            # A common factor such as 1e-6 would stand where the legend is.
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
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
