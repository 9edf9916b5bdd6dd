"""The first screen: three tiles and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videor2_rl.report.data import (
    METRIC_LABELS,
    MODE_LABELS,
    MODES,
    STAGE_LABELS,
    STAGES,
    Evaluation,
    Interval,
    ReportData,
    Run,
    difference,
    interval_of,
    series,
)
from videor2_rl.report.tables import Cell, change_cell, paid_tar


@dataclass(frozen=True)
class Tile:
    """One number before and after."""

    title: str
    before: str
    """"" where there is only one number."""
    after: str
    before_label: str
    after_label: str
    change: Cell | None
    """None where no interval can be given."""


@dataclass(frozen=True)
class Headline:
    tiles: tuple[Tile, ...]
    sentence: str


WINDOW = 10
"""Steps at either end of a run that a tile averages, at most a third of them."""
_NOTHING = Headline((), "")


def headline(data: ReportData) -> Headline:
    """Of the last two evaluated stages, else of a run's first and last evaluation, else of its first and last steps."""
    for mode in MODES:
        stages = [stage for stage in STAGES if mode in data.evaluations.get(stage, {})]
        if stages:
            evaluations = [data.evaluations[stage][mode] for stage in stages]
            where = f"held-out clips {'at ' if mode == 'sampled' else 'with '}{MODE_LABELS[mode]}"
            where += "" if mode == "sampled" else " decoding"
            return of_evaluations([STAGE_LABELS[stage] for stage in stages], evaluations, where=where)
    if len(data.periodic) > 1:
        first, last = min(data.periodic), max(data.periodic)
        labels = [f"step {first}", f"step {last}"]
        return of_evaluations(labels, [data.periodic[first], data.periodic[last]], where="held-out rows")
    run = next(iter(data.runs.values()), None)
    if run is None or not run.metrics:
        return _NOTHING
    return _of_losses(run) if any("sft/loss" in row for row in run.metrics) else _of_training(run)


def of_evaluations(labels: Sequence[str], evaluations: Sequence[Evaluation], *, where: str) -> Headline:
    """The last against the one before, and in words against the one before that; `where` is what they were asked."""
    after = evaluations[-1]
    before = evaluations[-2] if len(evaluations) > 1 else None
    names = ("accuracy", paid_tar(evaluations), "tac")
    changes = {name: None if before is None else difference(before, after, name) for name in names}
    tiles = tuple(
        Tile(
            title=METRIC_LABELS[name],
            before="" if before is None else _short(interval_of(before, name)),
            after=_short(interval_of(after, name)),
            before_label="" if before is None else labels[-2],
            after_label=labels[-1],
            change=change_cell(changes[name], digits=2)
            if before is not None
            else Cell("", interval_text(interval_of(after, name)), "even"),
        )
        for name in names
    )
    count = after.summary["num_samples"]
    sentence = f"On {count} {where}"
    if before is None:
        return Headline(tiles, f"{sentence}; only {labels[-1]} was evaluated, so nothing is compared.")
    told = _told(changes, ("{} rose", "{} fell", "{} did not change beyond sampling noise"))
    sentence += f", from {labels[-2]} to {labels[-1]}, {told}"
    if len(evaluations) > 2:
        against = {name: difference(evaluations[-3], after, name) for name in names}
        told = _told(against, ("above in {}", "below in {}", "level in {}"))
        sentence += f"; against {labels[-3]} it is {told}"
    return Headline(tiles, sentence + ".")


def _told(changes: Mapping[str, Interval | None], forms: tuple[str, str, str]) -> str:
    """Each metric under the form of what its interval allows: above 0, below 0, or neither."""
    told: dict[str, list[str]] = {form: [] for form in (*forms, "{} cannot be compared")}
    for name, change in changes.items():
        label = "accuracy" if name == "accuracy" else METRIC_LABELS[name]
        if change is None or change.low is None or change.high is None:
            told["{} cannot be compared"].append(label)
        else:
            told[forms[0] if change.low > 0 else forms[1] if change.high < 0 else forms[2]].append(label)
    return ", ".join(form.format(_listed(labels)) for form, labels in told.items() if labels)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _of_training(run: Run) -> Headline:
    names = (("Accuracy", "reward/accuracy"), ("TAR precision", "reward/tar_precision"), ("TAC", "reward/tac"))
    tiles = _windows(run, names)
    window, count = _window(len(run.metrics)), len(run.metrics)
    ends = f"first and the last {window}" if window > 1 else "first and the last"
    sentence = (
        f"Means over the {ends} of {count} steps, of the training rollouts themselves: other prompts at either end, so "
        "no interval."
        if count > 1
        else "The run's only step, of the training rollouts themselves."
    )
    return Headline(tiles, sentence if tiles else "")


def _of_losses(run: Run) -> Headline:
    names = (("Training loss", "sft/loss"), ("Validation loss", "sft/validation_loss"))
    tiles = _windows(run, names)
    return Headline(tiles, "Cross-entropy on the response tokens, in nats, at either end of the run." if tiles else "")


def _windows(run: Run, names: Sequence[tuple[str, str]]) -> tuple[Tile, ...]:
    tiles = []
    for title, name in names:
        values = [value for value in series(run.metrics, name)[1] if value == value]
        if values:
            first, last = means_at_ends(values)
            is_single = len(values) == 1
            labels = ("", "only step") if is_single else ("first steps", "last steps")
            tiles.append(Tile(title, "" if is_single else f"{first:.2f}", f"{last:.2f}", *labels, change=None))
    return tuple(tiles)


def means_at_ends(values: Sequence[float]) -> tuple[float, float]:
    """The mean of a run's first values and of its last ones."""
    size = _window(len(values))
    return sum(values[:size]) / size, sum(values[-size:]) / size


def _window(count: int) -> int:
    return max(1, min(WINDOW, count // 3))


def _short(interval: Interval) -> str:
    return "n/a" if interval.mean is None else f"{interval.mean:.2f}"


def interval_text(interval: Interval, *, digits: int = 2) -> str:
    """`[0.10, 0.20]`, "" over nothing."""
    return (
        ""
        if interval.low is None or interval.high is None
        else f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    )
