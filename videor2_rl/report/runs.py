"""Several runs, or several evaluations, read so that they can be set against the first of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.summary import (
    SUMMARY_FILE,
    Interval,
    bootstrap_interval,
    paired_difference,
    unpaired_difference,
)
from videor2_rl.report.compare import RESAMPLES, SEED, read_scores
from videor2_rl.report.curves import own_terms
from videor2_rl.report.data import CONFIG_FILE, read_settings, series
from videor2_rl.report.folders import evaluation_folders
from videor2_rl.report.headline import WINDOW
from videor2_rl.report.page import flat
from videor2_rl.run.rollout_log import read_rollouts
from videor2_rl.run.tracking import METRICS_FILE, read_metrics

Columns: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""Metric -> what it is a score of (a sample, a prompt of a step, a step) -> value."""

REWARD = "reward"
_TRAINING = ("accuracy", "tac", "tar_precision", "tar_recall", "tar_f1", "format")
_LENGTH = "response_tokens"
_NOT_COMPARED = ("output_dir", "logging.name", "made_by")
"""What differs between any two runs."""


@dataclass(frozen=True)
class Training:
    """The last steps of a run."""

    num_steps: int
    """Of the whole run."""
    first: int
    last: int
    """The window's steps."""
    by: str
    """prompts (from the rollout logs) or steps (from metrics.jsonl)."""
    columns: Columns


@dataclass(frozen=True)
class Member:
    """One run, or one evaluation."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    """Dotted key -> value, of config.yaml or of the card."""
    metrics: tuple[Mapping[str, Any], ...]
    """Rows of metrics.jsonl; empty for an evaluation."""
    training: Training | None
    evaluations: Mapping[str, Columns]
    """Held-out scores by what was asked."""


@dataclass(frozen=True)
class Difference:
    """One metric of a member against the first's."""

    interval: Interval
    is_paired: bool


def is_run(folder: Path) -> bool:
    """Whether it is a training run, and not an evaluation."""
    return (folder / METRICS_FILE).exists()


def read_members(folders: Sequence[Path]) -> list[Member]:
    """All training runs, or all evaluations, their windows of training steps equally long.

    Raises:
        ConfigError: they are not of one kind, or a file is missing or broken.
    """
    runs = [folder for folder in folders if is_run(folder)]
    others = [folder for folder in folders if folder not in runs]
    if runs and others:
        raise ConfigError(f"{runs[0]} is a training run and {others[0]} is none; compare runs with runs")
    rows = {folder: read_metrics(folder) for folder in runs}
    window = max(1, min([WINDOW, *(len(found) // 3 for found in rows.values() if found)]))
    names = _names(folders)
    return [
        _run(folder, name, rows[folder], window=window) if folder in rows else _evaluation(folder, name)
        for folder, name in zip(folders, names, strict=True)
    ]


def differing(members: Sequence[Member]) -> dict[str, tuple[Any, ...]]:
    """Dotted key -> each member's value, of everything that is not the same in all of them; None where it is absent."""
    keys = dict.fromkeys(key for member in members for key in member.settings)
    values = {key: tuple(member.settings.get(key) for member in members) for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def against(base: Columns, other: Columns, metric: str, *, may_pair: bool = True) -> Difference | None:
    """Other - base, paired over what both have where that is at least half; None where one has no such metric.

    Args:
        may_pair: equal keys are the same sample; two runs' steps of one number are not.
    """
    if metric not in base or metric not in other:
        return None
    one, two = base[metric], other[metric]
    shared = sorted(one.keys() & two.keys())
    if may_pair and len(shared) > 1 and 2 * len(shared) >= min(len(one), len(two)):
        columns = [{key: column[key] for key in shared} for column in (one, two)]
        return Difference(paired_difference(*columns, resamples=RESAMPLES, seed=SEED), True)
    return Difference(
        unpaired_difference(list(one.values()), list(two.values()), resamples=RESAMPLES, seed=SEED), False
    )


def mean_of(columns: Columns, metric: str) -> Interval:
    """Mean and interval of a metric; over nothing where it is absent."""
    return bootstrap_interval(list(columns.get(metric, {}).values()), resamples=RESAMPLES, seed=SEED)


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of their paths as tells them apart, and no more of a sweep's overrides."""
    paths = [folder.resolve() for folder in folders]
    longest = max(len(path.parts) for path in paths)
    for parts in range(1, longest + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return _without_common(names)
    return [str(folder) for folder in folders]


def _without_common(names: list[str]) -> list[str]:
    """`seed=0,reward=a` and `seed=0,reward=b` -> `reward=a` and `reward=b`."""
    overrides = [re.split(r",(?=[\w.@+~/]+=)", name) for name in names]
    common = set.intersection(*map(set, overrides))
    short = [",".join(part for part in parts if part not in common) for parts in overrides]
    return short if all(short) and len(set(short)) == len(short) else names


def _run(folder: Path, name: str, rows: list[dict[str, Any]], *, window: int) -> Member:
    periodic = sorted(folder.glob(f"evaluation/step_*/*/{SUMMARY_FILE}"))
    others = [path for path in evaluation_folders(folder) if not path.parent.name.startswith("step_")]
    evaluations = {str(path.relative_to(folder / "evaluation")): read_scores(path).metrics for path in others}
    if periodic:
        last = periodic[-1].parent
        evaluations = {f"held-out, {last.name}": read_scores(last).metrics, **evaluations}
    return Member(
        name=name,
        folder=folder,
        settings=_settings(folder),
        metrics=tuple(rows),
        training=_training(folder, rows, window=window) if rows else None,
        evaluations=evaluations,
    )


def _evaluation(folder: Path, name: str) -> Member:
    if (folder / SUMMARY_FILE).exists():
        scores = read_scores(folder)
        return Member(name, folder, dict(flat(scores.card)), (), None, {"": scores.metrics})
    found = {str(path.relative_to(folder)): read_scores(path) for path in evaluation_folders(folder)}
    if not found:
        # The same sentence as of any folder without an evaluation.
        read_scores(folder)
    evaluations = {title.removeprefix("evaluation/"): scores.metrics for title, scores in found.items()}
    return Member(name, folder, _settings(folder), (), None, evaluations)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    tree = read_settings(path.read_text(encoding="utf-8"), path) if path.exists() else {}
    return {key: value for key, value in flat(tree) if not key.startswith(_NOT_COMPARED)}


def _training(folder: Path, rows: list[dict[str, Any]], *, window: int) -> Training:
    """From the rollout logs where every step of the window has one, else from the steps' means."""
    steps = [int(row["step"]) for row in rows[-window:]]
    files = {int(path.stem.removeprefix("step_")): path for path in (folder / "rollouts").glob("step_*.jsonl")}
    own = own_terms(rows)
    columns: Columns
    if all(step in files for step in steps):
        by, columns = "prompts", _of_prompts({step: read_rollouts(files[step]) for step in steps}, own)
    else:
        by, columns = "steps", _of_steps(rows[-window:], own)
    return Training(num_steps=len(rows), first=steps[0], last=steps[-1], by=by, columns=columns)


def _of_prompts(records: Mapping[int, Sequence[Mapping[str, Any]]], own: Sequence[str]) -> Columns:
    """Each prompt's mean over its responses that have a value."""
    columns: dict[str, dict[str, float | None]] = {}
    for step, groups in records.items():
        seen: dict[str, int] = {}
        for group in groups:
            # A prompt may come twice in a step, where an epoch ends.
            number = seen[group["sample_id"]] = seen.get(group["sample_id"], 0) + 1
            key = f"{step}:{group['sample_id']}:{number}"
            for metric in (REWARD, *_TRAINING, *own, _LENGTH):
                values = [_value(response, metric) for response in group["responses"]]
                scored = [value for value in values if value is not None]
                columns.setdefault(metric, {})[key] = sum(scored) / len(scored) if scored else None
    return columns


def _value(response: Mapping[str, Any], metric: str) -> float | None:
    if metric == REWARD:
        return response["reward"]
    if metric == _LENGTH:
        return float(len(response["token_ids"]))
    if metric in response["metrics"]:
        return response["metrics"][metric]
    return response["terms"].get(metric, {}).get("value")


def _of_steps(rows: Sequence[Mapping[str, Any]], own: Sequence[str]) -> Columns:
    names = {
        REWARD: "reward/mean",
        **{metric: f"reward/{metric}" for metric in (*_TRAINING, *own)},
        _LENGTH: "rollout/response_tokens_mean",
        "loss": "sft/loss",
        "validation loss": "sft/validation_loss",
    }
    columns = {}
    for metric, name in names.items():
        steps, values = series(rows, name)
        if steps:
            columns[metric] = {
                str(step): None if value != value else value for step, value in zip(steps, values, strict=True)
            }
    return columns
