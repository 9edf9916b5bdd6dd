"""What the report reads, under which names, and the numbers it derives. Pure but for reading the files.

A demo folder:

    base/ sft/ grpo/                         run folders: metrics.jsonl, config.yaml, skipped.jsonl, rollouts/
    evaluation/<stage>/<mode>/               summary.json, samples.jsonl; stages base, sft, grpo; modes sampled, greedy
    timing.json                              {phase: seconds}
    skipped.jsonl                            held-out rows that could not be used

A run folder holds metrics.jsonl itself, and its own evaluation/ or timing.json where it has them. Whatever is absent
is named in `ReportData.missing` and left out of the page: nothing is filled in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.summary import (
    METRICS,
    SCORE_KEY,
    SUMMARY_FILE,
    Interval,
    Mode,
    evaluation_dir,
    paired_difference,
    read_evaluation,
)
from videor2_rl.run.files import read_json, read_jsonl
from videor2_rl.run.tracking import METRICS_FILE, read_metrics

STAGES = ("base", "sft", "grpo")
MODES: tuple[Mode, ...] = ("sampled", "greedy")
STAGE_LABELS = {"base": "Base", "sft": "SFT", "grpo": "GRPO"}
METRIC_LABELS = {
    "accuracy": "Accuracy",
    "tac": "TAC",
    "tar_precision": "TAR precision",
    "tar_recall": "TAR recall",
    "tar_f1": "TAR F1",
    "format": "Format",
    "response_tokens": "Response tokens",
}
MODE_LABELS = {"sampled": "temperature 1", "greedy": "greedy"}
TIMING_FILE = "timing.json"
SKIPPED_FILE = "skipped.jsonl"
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Run:
    """A training run's records."""

    metrics: tuple[Mapping[str, Any], ...]
    """Rows of metrics.jsonl, in the order of the steps."""
    config: str
    """config.yaml as it is; empty where there is none."""
    settings: Mapping[str, Any]
    """The same, read."""
    skipped: tuple[Mapping[str, Any], ...]
    rollout_files: tuple[Path, ...]
    """rollouts/step_*.jsonl, by step."""


@dataclass(frozen=True)
class Evaluation:
    """One stage evaluated in one mode."""

    summary: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    """Rows of samples.jsonl."""


@dataclass(frozen=True)
class ReportData:
    """Everything that was found."""

    folder: Path
    is_demo: bool
    runs: Mapping[str, Run]
    """By stage; a single run is `sft` or `grpo`, by its metrics."""
    evaluations: Mapping[str, Mapping[str, Evaluation]]
    """Stage -> mode -> evaluation."""
    periodic: Mapping[int, Evaluation]
    """Of a single run: steps done -> the held-out evaluation of that policy."""
    seconds: Mapping[str, float]
    """Phase -> seconds, in the order of timing.json; without the total."""
    evaluation_skipped: tuple[Mapping[str, Any], ...]
    """Held-out rows that could not be used, from a demo's own skipped.jsonl."""
    missing: tuple[str, ...]
    """One sentence for each expected piece that is not there."""


def read_report_data(folder: Path) -> ReportData:
    """Read a demo folder or a run folder.

    Raises:
        ConfigError: the folder holds neither a run nor an evaluation, or one of its files is broken.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder of a demo or of a run.")
    is_demo = not (folder / METRICS_FILE).exists()
    if is_demo:
        runs = {stage: _read_run(folder / stage) for stage in STAGES if (folder / stage / METRICS_FILE).exists()}
    else:
        run = _read_run(folder)
        runs = {_stage_of(run): run}
    evaluations = _read_evaluations(folder)
    if not runs and not evaluations:
        raise ConfigError(
            f"{folder} holds neither {METRICS_FILE}, nor {'/, '.join(STAGES)}/ with one, nor evaluation/; "
            "give the folder of a demo or of a run."
        )
    seconds = _read_seconds(folder)
    return ReportData(
        folder=folder,
        is_demo=is_demo,
        runs=runs,
        evaluations=evaluations,
        periodic=read_periodic(folder),
        seconds=seconds,
        evaluation_skipped=_read_skipped(folder) if is_demo else (),
        missing=_missing(is_demo=is_demo, runs=runs, evaluations=evaluations, seconds=seconds),
    )


def report_numbers(data: ReportData) -> dict[str, Any]:
    """The content of report.json; a stage, mode or section that was not run is absent, and `missing` says so.

    evaluation.<stage>.<mode>.<metric>.{mean, low, high} and .num_samples; grpo.{log_prob_gap_max, decodes_per_clip,
    steps}; seconds.<phase> and seconds.total; missing; failures. A number that could not be computed is null.
    """
    numbers: dict[str, Any] = {
        "evaluation": {
            stage: {mode: _evaluation_numbers(evaluation) for mode, evaluation in modes.items()}
            for stage, modes in data.evaluations.items()
        }
    }
    if "grpo" in data.runs:
        metrics = data.runs["grpo"].metrics
        gaps = [row.get("rollout/log_prob_gap_max") for row in metrics]
        finite_gaps = [gap for gap in gaps if gap is not None]
        decodes = [row["data/decodes_per_clip"] for row in metrics if "data/decodes_per_clip" in row]
        numbers["grpo"] = {
            # A step without a finite gap must not hide behind the others' maximum.
            "log_prob_gap_max": max(finite_gaps) if gaps and len(finite_gaps) == len(gaps) else None,
            "decodes_per_clip": decodes[-1] if decodes else None,
            "steps": len(metrics),
        }
    if data.seconds:
        numbers["seconds"] = {**data.seconds, "total": sum(data.seconds.values())}
    return {**numbers, "missing": list(data.missing), "failures": failures(data)}


def failures(data: ReportData) -> list[str]:
    """One sentence for each term, and each evaluated metric, that failed anywhere: a failure is not a 0."""
    sentences = []
    for stage, run in data.runs.items():
        for name in sorted({name for row in run.metrics for name in row if failure_label(name)}):
            measured = [(row[name], int(row["step"])) for row in run.metrics if row.get(name) is not None]
            shares = [share for share in measured if share[0] > 0]
            if shares:
                most, step = max(shares)
                sentences.append(
                    f"{STAGE_LABELS[stage]} training, {failure_label(name)}: in {len(shares)} of {len(measured)} "
                    f"steps, at most {100 * most:.1f} % (step {step})."
                )
    for stage, modes in data.evaluations.items():
        for mode, evaluation in modes.items():
            for metric, count in evaluation.summary["num_failed"].items():
                if count:
                    sentences.append(
                        f"{STAGE_LABELS[stage]}, {MODE_LABELS[mode]}: {METRIC_LABELS[metric]} failed on {count} of "
                        f"{evaluation.summary['num_samples']} held-out clips."
                    )
    return sentences


def failure_label(name: str) -> str | None:
    """What a metric of metrics.jsonl is the failed share of; None for any other metric."""
    named = {
        "reward/failure_frac": "responses without a reward",
        "reward/judge_failure_frac": "judge calls failed",
        "evaluation/failure_frac": "held-out responses not fully judged",
        "final_evaluation/failure_frac": "held-out responses not fully judged at the end",
    }
    if name in named:
        return named[name]
    if name.startswith("reward/") and name.endswith("_failure_frac"):
        return f"{name.removeprefix('reward/').removesuffix('_failure_frac').replace('_', ' ')} failed"
    return None


def stage_difference(data: ReportData, before: str, after: str, *, mode: str, metric: str) -> Interval | None:
    """Paired difference after - before of one metric; None where a stage is missing or the samples differ."""
    evaluations = [data.evaluations.get(stage, {}).get(mode) for stage in (before, after)]
    if evaluations[0] is None or evaluations[1] is None:
        return None
    return difference(evaluations[0], evaluations[1], metric)


def difference(before: Evaluation, after: Evaluation, metric: str) -> Interval | None:
    """Paired difference of one metric; None where the samples differ."""
    values = [scores_by_sample(evaluation, metric) for evaluation in (before, after)]
    if values[0].keys() != values[1].keys():
        return None
    interval = after.summary["interval"]
    return paired_difference(*values, resamples=interval["resamples"], seed=interval["seed"])


def scores_by_sample(evaluation: Evaluation, metric: str) -> dict[str, float | None]:
    """Sample id -> score of one metric."""
    return {row["doc"]["id"]: row[SCORE_KEY][metric] for row in evaluation.rows}


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric; steps without it are left out, null is NaN (a gap in the line)."""
    present = [(int(row["step"]), row[name]) for row in rows if name in row]
    return [step for step, _ in present], [math.nan if value is None else float(value) for _, value in present]


def _read_run(folder: Path) -> Run:
    config = folder / CONFIG_FILE
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    return Run(
        metrics=tuple(read_metrics(folder)),
        config=text,
        settings=read_settings(text, config),
        skipped=_read_skipped(folder),
        rollout_files=tuple(sorted((folder / "rollouts").glob("step_*.jsonl"))),
    )


def read_settings(text: str, path: Path) -> dict[str, Any]:
    """The tree of a config.yaml.

    Raises:
        ConfigError: it is no YAML, or not a mapping.
    """
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML ({' '.join(str(error).split())}); mend it.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}, not a mapping; mend it.")
    return tree


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None where it is absent."""
    node: Any = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def number_at(tree: Mapping[str, Any], key: str) -> float | None:
    """The same of a number; YAML reads `1e-4` as a text, which is one too."""
    try:
        return float(value_at(tree, key))
    except (TypeError, ValueError):
        return None


def _read_skipped(folder: Path) -> tuple[Mapping[str, Any], ...]:
    path = folder / SKIPPED_FILE
    return tuple(read_jsonl(path, torn_last_line=True)) if path.exists() else ()


def _stage_of(run: Run) -> str:
    return "sft" if any("sft/loss" in row for row in run.metrics) else "grpo"


def _read_evaluations(folder: Path) -> dict[str, dict[str, Evaluation]]:
    evaluations: dict[str, dict[str, Evaluation]] = {}
    for stage in STAGES:
        for mode in MODES:
            path = evaluation_dir(folder, stage=stage, mode=mode)
            # summary.json is written last: without it the evaluation was not finished.
            if (path / SUMMARY_FILE).exists():
                evaluations.setdefault(stage, {})[mode] = read_one_evaluation(path)
    return evaluations


def read_periodic(folder: Path) -> dict[int, Evaluation]:
    """Steps done -> the evaluation in evaluation/step_000010/<mode>/, of those that are complete."""
    found = sorted(folder.glob(f"evaluation/step_*/*/{SUMMARY_FILE}"))
    return {int(path.parent.parent.name.removeprefix("step_")): read_one_evaluation(path.parent) for path in found}


def read_one_evaluation(path: Path) -> Evaluation:
    """A complete evaluation's folder.

    Raises:
        ConfigError: one of its files is missing, broken or of an earlier version.
    """
    summary, rows = read_evaluation(path)
    if "num_failed" not in summary:
        raise ConfigError(
            f"{path / SUMMARY_FILE} has no num_failed: an earlier version wrote it, which did not tell "
            "failures from abstentions; evaluate again"
        )
    return Evaluation(summary=summary, rows=tuple(rows))


def _read_seconds(folder: Path) -> dict[str, float]:
    path = folder / TIMING_FILE
    if not path.exists():
        return {}
    return {phase: float(seconds) for phase, seconds in read_json(path).items() if phase != "total"}


def _missing(
    *,
    is_demo: bool,
    runs: Mapping[str, Run],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    seconds: Mapping[str, float],
) -> tuple[str, ...]:
    sentences = []
    if is_demo:
        sentences += [f"No training metrics of stage {stage}." for stage in STAGES if stage not in runs]
    for stage in STAGES:
        modes = [mode for mode in MODES if mode not in evaluations.get(stage, {})]
        if (is_demo or evaluations) and modes:
            sentences.append(f"No {' or '.join(modes)} evaluation of stage {stage}.")
    while_training = any("evaluation/steps_done" in row for run in runs.values() for row in run.metrics)
    if not is_demo and not evaluations and not while_training:
        sentences.append("No evaluation in this run's folder.")
    if is_demo and not seconds:
        sentences.append(f"No {TIMING_FILE}, so no seconds per phase.")
    return tuple(sentences)


def _evaluation_numbers(evaluation: Evaluation) -> dict[str, Any]:
    metrics = evaluation.summary["metrics"]
    return {
        "num_samples": evaluation.summary["num_samples"],
        **{name: {key: metrics[name][key] for key in ("mean", "low", "high")} for name in METRICS},
    }


def interval_of(evaluation: Evaluation, metric: str) -> Interval:
    """A summary's interval of one metric, as a record."""
    return Interval(**evaluation.summary["metrics"][metric])
