"""Two evaluations side by side: what differs in how they were made, and by how much their scores differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.summary import (
    METRICS,
    SAMPLES_FILE,
    SCORE_KEY,
    SUMMARY_FILE,
    Interval,
    bootstrap_interval,
    paired_difference,
)
from videor2_rl.run.files import read_json, read_jsonl

READINGS_FILE = "readings.jsonl"
LOG_METRICS = ("agreement", "same_answer", "answer_right", "think_right", "vas")
ABSENT = "(absent)"
RESAMPLES, SEED = 10_000, 0


@dataclass(frozen=True)
class Scores:
    """An evaluation's folder, read."""

    folder: Path
    card: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float | None]]
    """Metric -> sample -> value."""


@dataclass(frozen=True)
class Comparison:
    """Two evaluations, B against A."""

    card: tuple[tuple[str, Any, Any], ...]
    """Dotted key, A's value, B's value, of every entry that differs."""
    num_shared: int
    only_a: int
    only_b: int
    metrics: Mapping[str, tuple[Interval, Interval, Interval]]
    """Metric -> A, B and B - A, over the samples that both have, paired by sample."""


def read_scores(folder: Path) -> Scores:
    """A folder that videor2_rl.evaluate wrote, about a checkpoint or about prediction logs.

    Raises:
        ConfigError: it is neither.
    """
    if not (folder / SUMMARY_FILE).exists():
        raise ConfigError(f"{folder} holds no {SUMMARY_FILE}; give the folder of one evaluation, with its card in it")
    card = read_json(folder / SUMMARY_FILE)["card"]
    if (folder / SAMPLES_FILE).exists():
        rows = {str(row["doc"]["id"]): row[SCORE_KEY] for row in read_jsonl(folder / SAMPLES_FILE)}
        return Scores(folder, card, _columns(rows, METRICS))
    if (folder / READINGS_FILE).exists():
        # Two models' logs of one benchmark have the same names and document ids.
        readings = read_jsonl(folder / READINGS_FILE)
        rows = {f"{Path(row['file']).name}:{row['doc_id']}:{row['row']}": row for row in readings}
        return Scores(folder, card, _columns(rows, LOG_METRICS))
    raise ConfigError(f"{folder} holds neither {SAMPLES_FILE} nor {READINGS_FILE}; give the folder of one evaluation")


def _columns(rows: Mapping[str, Mapping[str, Any]], metrics: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    return {name: {sample: row[name] for sample, row in rows.items()} for name in metrics}


def compare(a: Scores, b: Scores) -> Comparison:
    """B against A on the samples that both have.

    Raises:
        ConfigError: they share no sample, or no metric.
    """
    names = [name for name in a.metrics if name in b.metrics]
    if not names:
        raise ConfigError(f"{a.folder} and {b.folder} share no metric; compare two evaluations of the same kind")
    samples_a, samples_b = (set(scores.metrics[names[0]]) for scores in (a, b))
    shared = sorted(samples_a & samples_b)
    if not shared:
        raise ConfigError(f"{a.folder} and {b.folder} share no sample; compare two evaluations of the same questions")
    metrics = {}
    for name in names:
        columns = [{sample: scores.metrics[name][sample] for sample in shared} for scores in (a, b)]
        difference = paired_difference(*columns, resamples=RESAMPLES, seed=SEED)
        one, other = (bootstrap_interval(list(c.values()), resamples=RESAMPLES, seed=SEED) for c in columns)
        metrics[name] = (one, other, difference)
    return Comparison(
        card=tuple(card_differences(a.card, b.card)),
        num_shared=len(shared),
        only_a=len(samples_a - samples_b),
        only_b=len(samples_b - samples_a),
        metrics=metrics,
    )


def card_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Dotted key and both values of every entry that is not the same in both cards."""
    one, other = dict(_flat(a)), dict(_flat(b))
    for key in dict.fromkeys([*one, *other]):
        if one.get(key, ABSENT) != other.get(key, ABSENT):
            yield key, one.get(key, ABSENT), other.get(key, ABSENT)


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_markdown(comparison: Comparison, a: Scores, b: Scores) -> str:
    """The comparison as a page of Markdown tables."""
    lines = [f"A: {a.folder}", f"B: {b.folder}", "", "## What differs", ""]
    if comparison.card:
        lines += ["| | A | B |", "|---|---|---|"]
        lines += [f"| {key} | {_cell(one)} | {_cell(other)} |" for key, one, other in comparison.card]
    else:
        lines.append("Nothing: the two cards are equal.")
    lines += ["", "## Scores", ""]
    lines.append(
        f"{comparison.num_shared} samples in both, {comparison.only_a} only in A, {comparison.only_b} only in B. Means "
        "with 95 % bootstrap intervals; B - A is paired by sample, over the samples that have a score in both."
    )
    lines += ["", "| | A | B | B - A | pairs |", "|---|---|---|---|---|"]
    for name, (one, other, difference) in comparison.metrics.items():
        mark = "" if _holds_zero(difference) else " *"
        cells = [
            _interval(one),
            _interval(other),
            _interval(difference, signed=True) + mark,
            str(difference.num_scored),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "\\* the interval of the difference leaves out 0."]
    return "\n".join(lines) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "card": {key: [one, other] for key, one, other in comparison.card},
        "num_shared": comparison.num_shared,
        "only_a": comparison.only_a,
        "only_b": comparison.only_b,
        "metrics": {
            name: dict(zip(("a", "b", "difference"), map(dataclasses.asdict, intervals), strict=True))
            for name, intervals in comparison.metrics.items()
        },
    }


def _holds_zero(interval: Interval) -> bool:
    return interval.low is None or interval.high is None or interval.low <= 0 <= interval.high


def _interval(interval: Interval, *, signed: bool = False) -> str:
    if interval.mean is None:
        return "-"
    style = "+.3f" if signed else ".3f"
    return f"{interval.mean:{style}} [{interval.low:{style}}, {interval.high:{style}}]"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
