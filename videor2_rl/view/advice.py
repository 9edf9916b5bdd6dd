"""What a look at the last steps of a run would notice first, each with the groups behind it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from videor2_rl.report.data import number_at
from videor2_rl.view.queries import counts_of_filters

WINDOW = 10
"""Steps that are looked at: the last ones."""


@dataclass(frozen=True)
class Advice:
    """One thing to look at."""

    level: Literal["bad", "warn", "info"]
    text: str
    filter: str = ""
    """Of the rollouts page: shows the groups that are meant."""
    first_step: int = 0


@dataclass(frozen=True)
class _Rule:
    filter: str
    share: float
    """Of the window's groups, from which on it is a warning."""
    text: str


_RULES = (
    _Rule("failed", 0.0, "of {total} groups have a response without a reward: judging failed"),
    _Rule("all_equal", 0.5, "of {total} groups earned the same throughout and taught nothing"),
    _Rule("truncated", 0.2, "of {total} groups have a response that was cut at the token limit"),
    _Rule("inconsistent", 0.2, "of {total} groups have a right answer that its reasoning does not conclude"),
    _Rule("uncited", 0.2, "of {total} groups pay a response well that names no time"),
)


def advice(
    rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], index: sqlite3.Connection | None
) -> list[dict[str, Any]]:
    """What to look at in the last steps, the gravest first; nothing where there is no step yet."""
    found = _of_metrics(rows[-WINDOW:], settings)
    if index is not None and rows:
        found += _of_groups(index, first_step=int(rows[-WINDOW:][0]["step"]))
    order = ("bad", "warn", "info")
    return [asdict(one) for one in sorted(found, key=lambda one: order.index(one.level))]


def _of_groups(index: sqlite3.Connection, *, first_step: int) -> list[Advice]:
    counts = counts_of_filters(index, first_step=first_step)
    total = counts[""]
    found = []
    for rule in _RULES:
        count = counts[rule.filter]
        if count:
            level: Literal["warn", "info"] = "warn" if count > rule.share * total else "info"
            text = f"{count} {rule.text.format(total=total)} (from step {first_step} on)."
            found.append(Advice(level, text, rule.filter, first_step))
    return found


def _of_metrics(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[Advice]:
    found = []
    for key, metric, words in (
        ("algorithm.max_log_prob_gap_tail", "rollout/log_prob_gap_tail", "The 99.9 % quantile of the log-prob gap"),
        ("algorithm.max_log_prob_gap_mean", "rollout/log_prob_gap_mean", "The mean log-prob gap"),
    ):
        limit, most = number_at(settings, key), _most(rows, metric)
        if limit and most is not None and most > 0.5 * limit:
            level: Literal["bad", "warn"] = "bad" if most > limit else "warn"
            found.append(Advice(level, f"{words} is {most:.2g}; above {limit:g} the run stops ({key})."))
    sizes = [row["actor/effective_sample_frac"] for row in rows if row.get("actor/effective_sample_frac") is not None]
    if sizes and min(sizes) < 0.8:
        text = f"Importance weights leave {min(sizes):.0%} of the tokens: rollouts are too old for the learning rate."
        found.append(Advice("warn", text))
    if (replaced := _most(rows, "rollout/workers_replaced")) is not None and replaced > 0:
        found.append(Advice("info", f"{replaced:g} rollout workers were replaced so far."))
    if (skipped := _most(rows, "data/skipped")) is not None and skipped > 0:
        found.append(Advice("info", f"{skipped:g} samples were skipped so far (skipped.jsonl says why)."))
    if (broken := _most(rows, "perf/non_finite")) is not None and broken > 0:
        found.append(Advice("bad", "A step has values that are no numbers."))
    return found


def _most(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [float(row[name]) for row in rows if row.get(name) is not None]
    return max(values, default=None)
