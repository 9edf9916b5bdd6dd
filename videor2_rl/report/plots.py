"""A run's curves: what is drawn of metrics.jsonl, in the order of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videor2_rl.report.bars import evaluation_plots, time_plot
from videor2_rl.report.data import METRIC_LABELS, STAGE_LABELS, ReportData, Run, failure_label, number_at
from videor2_rl.report.drawing import INK, Plot, band, draw, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REWARD_TERMS = {
    "reward/accuracy": "accuracy",
    "reward/format": "format",
    "reward/temporal_alignment": "gated TAR",
    "reward/tac": "TAC",
}
BUILT_IN_TERMS = ("accuracy", "format", "consistency", "temporal_alignment")
_EVALUATED = ("accuracy", "tac", "tar_precision", "tar_recall")
_SHARES = (0.0, 1.03)


@dataclass(frozen=True)
class _Curve:
    """A drawing of some metrics; left out where no row has any of them."""

    title: str
    caption: str
    names: Mapping[str, str]
    """Metric -> label."""
    limits: tuple[float, float] | None = None
    drawing: Callable[[Axes], None] | None = None
    """None: lines of the metrics."""


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
    plots = [_plot(curve, rows) for curve in (*_reward_curves(rows), *_policy_curves(run, rows)) if _is_in(curve, rows)]
    time = time_plot(rows)
    return plots if time is None else [*plots, time]


def _reward_curves(rows: Sequence[Mapping[str, Any]]) -> list[_Curve]:
    evaluated = {f"evaluation/{name}": METRIC_LABELS[name] for name in _EVALUATED}
    return [
        _Curve(
            "Reward",
            "Mean over the step's responses; the band is one standard deviation of them.",
            {"reward/mean": "mean"},
            drawing=lambda ax: band(ax, rows, "reward/mean", "reward/std"),
        ),
        _Curve(
            "Reward terms",
            "Each term before its weight, over the responses that it scored; a gap where it scored none. "
            "TAR counts only where the consistency gate is open.",
            _REWARD_TERMS,
            limits=_SHARES,
        ),
        _Curve(
            "Own reward terms",
            "The terms of reward.extra before their weights, over the responses that they scored.",
            {f"reward/{name}": name for name in own_terms(rows)},
        ),
        _Curve(
            "Failed verdicts",
            "Share of the responses, or of the judge's calls, on which judging went wrong. They leave the means; "
            "those without a reward also their group's statistics and the loss.",
            failed_shares(rows),
            limits=_SHARES,
        ),
        _Curve(
            "Held-out rows while training",
            "Means over the evaluated rows, before the step after so many and at the end.",
            evaluated,
            drawing=lambda ax: lines(ax, with_gaps(evaluation_rows(rows), "evaluation/"), evaluated, limits=_SHARES),
        ),
    ]


_GAPS = {
    "rollout/log_prob_gap_max": "largest",
    "rollout/log_prob_gap_tail": "99.9 % quantile",
    "rollout/log_prob_gap_mean": "mean",
}


def _policy_curves(run: Run, rows: Sequence[Mapping[str, Any]]) -> list[_Curve]:
    limit = number_at(run.settings, "algorithm.max_log_prob_gap_tail")
    said = f"The dashed line is the limit of the 99.9 % quantile, which stops the run ({limit:g})." if limit else ""
    return [
        _Curve("KL to the reference", "Estimate over the response tokens, in nats per token.", {"actor/kl": "KL"}),
        _Curve(
            "Log-prob gap",
            "Difference between vLLM's and the learner's log-probability of the sampled tokens, in nats. " + said,
            _GAPS,
            drawing=lambda ax: _gap(ax, rows, limit=limit),
        ),
        _Curve("Entropy", "Of the policy over the response tokens, in nats per token.", {"actor/entropy": "entropy"}),
        _Curve("Gradient norm", "Before clipping to learner.max_grad_norm.", {"actor/grad_norm": "norm"}),
        _Curve("Learning rate", "Of the step's update.", {"actor/lr": "learning rate"}),
        _Curve(
            "Clipped tokens",
            "Share of the response tokens whose ratio the loss clipped; 0 throughout where each batch is used for one "
            "update.",
            {"actor/clip_frac": "clipped", "actor/dual_clip_frac": "dual-clipped"},
        ),
        _Curve(
            "Response length", "Tokens per response, mean over the step.", {"rollout/response_tokens_mean": "tokens"}
        ),
        _Curve(
            "Groups without signal, truncated responses",
            "Share of the groups whose rewards are all equal, and of the responses cut at the token limit.",
            {"reward/zero_variance_frac": "zero-variance groups", "rollout/truncated_frac": "truncated"},
            limits=_SHARES,
        ),
    ]


def loss_plots(run: Run, *, stage: str) -> list[Plot]:
    """Training and validation loss, gradient norm and learning rate by step."""
    rows, label = run.metrics, STAGE_LABELS[stage]
    names = {"sft/loss": "training", "sft/validation_loss": "validation"}
    curves = [
        _Curve(
            f"{label}: loss",
            "Cross-entropy on the response tokens, in nats per token.",
            names,
            drawing=lambda ax: lines(ax, rows, names, marker_for="sft/validation_loss"),
        ),
        _Curve(f"{label}: gradient norm", "Before clipping to learner.max_grad_norm.", {"sft/grad_norm": "norm"}),
        _Curve(f"{label}: learning rate", "Of the step's update.", {"sft/lr": "learning rate"}),
    ]
    return [_plot(curve, rows) for curve in curves if _is_in(curve, rows)]


def _is_in(curve: _Curve, rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(name in row for name in curve.names for row in rows)


def _plot(curve: _Curve, rows: Sequence[Mapping[str, Any]]) -> Plot:
    drawing = curve.drawing or (lambda ax: lines(ax, rows, curve.names, limits=curve.limits))
    return Plot(curve.title, curve.caption, draw(curve.title, drawing))


def own_terms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the terms in metrics.jsonl that are not built in: those of `reward.extra`."""
    named = {match[1] for row in rows for name in row if (match := re.fullmatch(r"reward/(.+)_abstention_frac", name))}
    return sorted(named - set(BUILT_IN_TERMS))


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


def _gap(ax: Axes, rows: Sequence[Mapping[str, Any]], *, limit: float | None) -> None:
    ax.set_yscale("log", nonpositive="mask")
    if limit is not None:
        ax.axhline(limit, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    lines(ax, rows, _GAPS)
