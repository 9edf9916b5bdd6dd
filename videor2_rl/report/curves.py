"""What is drawn of a GRPO run's metrics.jsonl, in the order of the page; how it is drawn is not said here.

The report draws these curves into its page (`plots.py`), the viewer in the browser (`videor2_rl.view`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.report.bars import PHASES
from videor2_rl.report.data import METRIC_LABELS, failure_label, number_at

BUILT_IN_TERMS = ("accuracy", "format", "consistency", "temporal_alignment")
EVALUATED = ("accuracy", "tac", "tar_precision", "tar_recall")
SHARES = (0.0, 1.03)
"""Limits of an axis of shares."""
_REWARD_TERMS = {
    "reward/accuracy": "accuracy",
    "reward/format": "format",
    "reward/temporal_alignment": "gated TAR",
    "reward/tac": "TAC",
}
_GAPS = {
    "rollout/log_prob_gap_max": "largest",
    "rollout/log_prob_gap_tail": "99.9 % quantile",
    "rollout/log_prob_gap_mean": "mean",
}


@dataclass(frozen=True)
class Curve:
    """A drawing of some metrics; left out where no row has any of them."""

    title: str
    caption: str
    names: Mapping[str, str]
    """Metric -> label."""
    limits: tuple[float, float] | None = None
    spread: str | None = None
    """The metric that is half the height of a band around the first one."""
    is_log: bool = False
    limit: float | None = None
    """A dashed line at this height."""


def reward_curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """What was paid, and for what; of the rows that `with_gaps` gives."""
    evaluated = {f"evaluation/{name}": METRIC_LABELS[name] for name in EVALUATED}
    return [
        Curve(
            "Reward",
            "Mean over the step's responses; the band is one standard deviation of them.",
            {"reward/mean": "mean"},
            spread="reward/std",
        ),
        Curve(
            "Reward terms",
            "Each term before its weight, over the responses that it scored; a gap where it scored none. "
            "TAR counts only where the consistency gate is open.",
            _REWARD_TERMS,
            limits=SHARES,
        ),
        Curve(
            "Timestamped claims",
            "TAR precision over the claims, recall over the reference events, whatever the gate says.",
            {"reward/tar_precision": "TAR precision", "reward/tar_recall": "TAR recall"},
            limits=SHARES,
        ),
        Curve(
            "Own reward terms",
            "The terms of reward.extra before their weights, over the responses that they scored.",
            {f"reward/{name}": name for name in own_terms(rows)},
        ),
        Curve(
            "Failed verdicts",
            "Share of the responses, or of the judge's calls, on which judging went wrong. They leave the means; "
            "those without a reward also their group's statistics and the loss.",
            failed_shares(rows),
            limits=SHARES,
        ),
        Curve(
            "Held-out rows while training",
            "Means over the evaluated rows, before the step after so many and at the end.",
            evaluated,
            limits=SHARES,
        ),
    ]


def policy_curves(settings: Mapping[str, Any]) -> list[Curve]:
    """What the optimiser did with it.

    Args:
        settings: the run's configuration, for the limit of the gap.
    """
    limit = number_at(settings, "algorithm.max_log_prob_gap_tail")
    said = f"The dashed line is the limit of the 99.9 % quantile, which stops the run ({limit:g})." if limit else ""
    return [
        Curve("KL to the reference", "Estimate over the response tokens, in nats per token.", {"actor/kl": "KL"}),
        Curve(
            "Log-prob gap",
            "Difference between vLLM's and the learner's log-probability of the sampled tokens, in nats. " + said,
            _GAPS,
            is_log=True,
            limit=limit,
        ),
        Curve("Entropy", "Of the policy over the response tokens, in nats per token.", {"actor/entropy": "entropy"}),
        Curve("Gradient norm", "Before clipping to learner.max_grad_norm.", {"actor/grad_norm": "norm"}),
        Curve("Learning rate", "Of the step's update.", {"actor/lr": "learning rate"}),
        Curve(
            "Clipped tokens",
            "Share of the response tokens whose ratio the loss clipped; 0 throughout where each batch is used for one "
            "update.",
            {"actor/clip_frac": "clipped", "actor/dual_clip_frac": "dual-clipped"},
        ),
        Curve(
            "Response length", "Tokens per response, mean over the step.", {"rollout/response_tokens_mean": "tokens"}
        ),
        Curve(
            "Groups without signal, truncated responses",
            "Share of the groups whose rewards are all equal, and of the responses cut at the token limit.",
            {"reward/zero_variance_frac": "zero-variance groups", "rollout/truncated_frac": "truncated"},
            limits=SHARES,
        ),
    ]


def worker_curves() -> list[Curve]:
    """What the workers did meanwhile; the viewer alone shows these, since they say little once a run is over."""
    return [
        Curve(
            "Staleness",
            "Optimiser steps between the policy of a response's first token and the one that trains on it.",
            {"rollout/staleness_mean": "mean", "rollout/staleness_max": "largest"},
        ),
        Curve(
            "Effective sample size",
            "Share of the tokens that the importance weights leave: (sum r)² / (n sum r²), 1 without staleness.",
            {"actor/effective_sample_frac": "share"},
            limits=SHARES,
        ),
        Curve(
            "Idle workers",
            "Share of the step without log-probs or update; share of the time in which a rollout worker had nothing "
            "to do.",
            {"perf/learner_idle_frac": "learner", "perf/rollout_idle_frac": "rollout workers"},
            limits=SHARES,
        ),
        Curve(
            "Tokens per second",
            "Sampled while groups were sampled; trained while updating, a prompt once for all its responses.",
            {"perf/rollout_tokens_per_s": "sampled", "perf/learner_tokens_per_s": "trained"},
        ),
        Curve(
            "Replaced and failed",
            "Rollout workers replaced and updates of weights that failed, so far; samples skipped, so far; groups "
            "that taught nothing.",
            {
                "rollout/workers_replaced": "workers replaced",
                "rollout/sync_failures": "failed weight updates",
                "data/skipped": "skipped samples",
                "data/filtered": "filtered groups",
            },
        ),
        Curve(
            "Memory",
            "The most that one process of each part takes, in MiB.",
            {f"perf/{part}_rss_mib": part for part in ("driver", "video", "rollout", "reward", "learner", "reference")},
        ),
    ]


def phase_curve(rows: Sequence[Mapping[str, Any]]) -> Curve:
    """Seconds of each phase of a step, under the names that `with_phases` adds."""
    names = {label: label for label, phases in PHASES.items() if _has_any(rows, [f"timing_s/{p}" for p in phases])}
    return Curve("Time per step, by phase", "Wall-clock seconds.", {f"phase/{name}": name for name in names})


def with_phases(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `phase/<label>`: the seconds of the phases that have one label."""
    return [
        {
            **row,
            **{
                f"phase/{label}": sum(float(row.get(f"timing_s/{name}") or 0.0) for name in phases)
                for label, phases in PHASES.items()
            },
        }
        for row in rows
    ]


def is_in(curve: Curve, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any row has something of it."""
    return _has_any(rows, list(curve.names))


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


def _has_any(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bool:
    return any(name in row for name in names for row in rows)
