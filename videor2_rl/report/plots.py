"""A run's curves as drawings for the page, in its order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from videor2_rl.report.bars import evaluation_plots, time_plot
from videor2_rl.report.curves import Curve, evaluation_rows, is_in, policy_curves, reward_curves, with_gaps
from videor2_rl.report.data import STAGE_LABELS, ReportData, Run
from videor2_rl.report.drawing import INK, Plot, band, draw, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def grpo_plots(run: Run) -> list[Plot]:
    """What was paid and for what, what the optimiser did, and where the time went, by step."""
    rows = with_gaps(run.metrics)
    curves = [*reward_curves(rows), *policy_curves(run.settings)]
    plots = [_plot(curve, rows) for curve in curves if is_in(curve, rows)]
    time = time_plot(rows)
    return plots if time is None else [*plots, time]


def loss_plots(run: Run, *, stage: str) -> list[Plot]:
    """Training and validation loss, gradient norm and learning rate by step."""
    rows, label = run.metrics, STAGE_LABELS[stage]
    loss = Curve(
        f"{label}: loss",
        "Cross-entropy on the response tokens, in nats per token.",
        {"sft/loss": "training", "sft/validation_loss": "validation"},
    )
    others = [
        Curve(f"{label}: gradient norm", "Before clipping to learner.max_grad_norm.", {"sft/grad_norm": "norm"}),
        Curve(f"{label}: learning rate", "Of the step's update.", {"sft/lr": "learning rate"}),
    ]
    drawings = [
        (loss, partial(lines, rows=rows, names=loss.names, marker_for="sft/validation_loss")),
        *((curve, partial(_draw, curve=curve, rows=rows)) for curve in others),
    ]
    return [_drawn(curve, drawing) for curve, drawing in drawings if is_in(curve, rows)]


def _plot(curve: Curve, rows: Sequence[Mapping[str, Any]]) -> Plot:
    return _drawn(curve, partial(_draw, curve=curve, rows=rows))


def _drawn(curve: Curve, drawing: Callable[[Axes], None]) -> Plot:
    return Plot(curve.title, curve.caption, draw(curve.title, drawing))


def _draw(ax: Axes, *, curve: Curve, rows: Sequence[Mapping[str, Any]]) -> None:
    if curve.is_log:
        ax.set_yscale("log", nonpositive="mask")
    if curve.limit is not None:
        ax.axhline(curve.limit, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    if curve.spread is not None:
        band(ax, rows, next(iter(curve.names)), curve.spread)
        return
    if any(name.startswith("evaluation/") for name in curve.names):
        rows = with_gaps(evaluation_rows(rows), "evaluation/")
    lines(ax, rows, curve.names, limits=curve.limits)
