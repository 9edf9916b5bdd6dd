"""Per-sample results -> means with bootstrap intervals, summary.json and samples.jsonl.

Both files lie in `evaluation/<stage>/<mode>/`. summary.json holds `num_samples`, `metrics.<name>` with `mean`, `low`,
`high`, `num_scored` and `num_unscored`, `num_failed.<name>` with how many of the unscored failed rather than abstained,
and `card` with everything that shaped the score. samples.jsonl has the layout of lmms-eval's `samples_*.jsonl`:
`doc_id`, `doc`, `target`, `resps`, `filtered_resps` and a score dict of the task.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import read_json, read_jsonl, write_json_atomic, write_jsonl_atomic
from videor2_rl.run.folder import package_versions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videor2_rl.config.runs import EvaluateRun, GrpoRun

Mode = Literal["sampled", "greedy"]

METRICS = ("accuracy", "tac", "tar_precision", "tar_recall", "tar_f1", "format", "response_tokens")
SCORE_KEY = "videor2_score"
"""Name of the score dict in a row of samples.jsonl."""
SUMMARY_FILE = "summary.json"
SAMPLES_FILE = "samples.jsonl"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class SampleResult:
    """One response of one held-out sample, scored. None in a metric: abstained or failed, and left out of its mean."""

    sample_id: str
    video: str
    question: str
    target: str
    """The reference answer."""
    response: str
    answer: str | None
    """What the reward read as the response's answer."""
    finish_reason: str
    response_tokens: int
    accuracy: float | None
    tac: float | None
    tar_precision: float | None
    tar_recall: float | None
    tar_f1: float | None
    format: float | None
    problem_type: str | None = None
    duration_s: float | None = None
    claims: tuple[Mapping[str, Any], ...] = ()
    """Claims read from the response, as `rollout_log.events_of` gives them."""
    references: tuple[Mapping[str, Any], ...] = ()
    """The reference events: `start_s`, `end_s`, `text`."""
    clip_start_s: float | None = None
    """Only this part of the file was shown; None: all of it."""
    clip_end_s: float | None = None
    subtitles: str | None = None
    """The clip's `.srt`."""
    subtitles_beside: bool = False
    failed: Mapping[str, str] = field(default_factory=dict)
    """Metric -> why its judging failed, for those that are None because of it; the other Nones abstained."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; all None where no sample has a score."""

    mean: float | None
    low: float | None
    high: float | None
    num_scored: int
    num_unscored: int
    """Samples left out: the metric abstained or failed on them."""


def bootstrap_interval(
    values: Sequence[float | None], *, resamples: int, seed: int, confidence: float = CONFIDENCE
) -> Interval:
    """Mean of the values that are not None, with the percentile bootstrap interval (Efron 1979).

    Args:
        values: one per sample; None is left out and counted.
        resamples: bootstrap resamples B; at least 1.
        seed: of the resampling; equal seeds give equal intervals.
        confidence: probability mass of the interval.
    """
    scored = np.asarray([value for value in values if value is not None], dtype=np.float64)
    num_unscored = len(values) - len(scored)
    if len(scored) == 0:
        return Interval(mean=None, low=None, high=None, num_scored=0, num_unscored=num_unscored)
    low, high = np.quantile(
        _resampled_means(scored, resamples=resamples, seed=seed), [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    return Interval(
        mean=float(scored.mean()),
        low=float(low),
        high=float(high),
        num_scored=len(scored),
        num_unscored=num_unscored,
    )


def paired_difference(
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
    *,
    resamples: int,
    seed: int,
) -> Interval:
    """Mean of after - before over the samples scored in both, with its paired bootstrap interval.

    Args:
        before: sample id -> value.
        after: sample id -> value; the same samples in any order.
        resamples: bootstrap resamples B.
        seed: of the resampling.

    Raises:
        ValueError: the two hold different samples.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise ValueError(f"{len(odd)} samples are in only one of the two evaluations, {odd[0]!r} among them.")
    differences = [_difference(before[sample_id], after[sample_id]) for sample_id in sorted(before)]
    return bootstrap_interval(differences, resamples=resamples, seed=seed)


def unpaired_difference(
    before: Sequence[float | None], after: Sequence[float | None], *, resamples: int, seed: int
) -> Interval:
    """Difference of two means over samples that do not correspond, both resampled on their own.

    Args:
        before, after: None is left out and counted.
        resamples: bootstrap resamples B.
        seed: of the resampling; the two draw from seeds of their own.
    """
    scored = [np.asarray([value for value in values if value is not None], np.float64) for values in (before, after)]
    num_unscored = len(before) + len(after) - len(scored[0]) - len(scored[1])
    if min(map(len, scored)) == 0:
        return Interval(mean=None, low=None, high=None, num_scored=0, num_unscored=num_unscored)
    one, other = (_resampled_means(values, resamples=resamples, seed=seed + i) for i, values in enumerate(scored))
    low, high = np.quantile(other - one, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(
        mean=float(scored[1].mean() - scored[0].mean()),
        low=float(low),
        high=float(high),
        num_scored=len(scored[0]) + len(scored[1]),
        num_unscored=num_unscored,
    )


def summarise(results: Sequence[SampleResult], *, resamples: int, seed: int, card: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json."""
    metrics = {
        name: dataclasses.asdict(
            bootstrap_interval([getattr(result, name) for result in results], resamples=resamples, seed=seed)
        )
        for name in METRICS
    }
    truncated = sum(result.finish_reason == "length" for result in results)
    return {
        "num_samples": len(results),
        "truncated_frac": truncated / len(results) if results else None,
        "metrics": metrics,
        # Of num_unscored: an abstention says something about the response or the sample, a failure says nothing.
        "num_failed": {name: sum(name in result.failed for result in results) for name in METRICS},
        "interval": {"method": "percentile bootstrap", "confidence": CONFIDENCE, "resamples": resamples, "seed": seed},
        "card": dict(card),
    }


TABLE_COLUMNS = ("checkpoint", "mode", "metric", "mean", "low", "high", "scored", "unscored", "failed")


def table_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    """A summary's metrics as rows of a table, in the order of `TABLE_COLUMNS`."""
    card = summary["card"]
    return [
        [
            card["stage"],
            card["mode"],
            name,
            *(found[key] for key in ("mean", "low", "high", "num_scored", "num_unscored")),
            summary["num_failed"][name],
        ]
        for name, found in summary["metrics"].items()
    ]


def evaluation_card(run: EvaluateRun, *, stage: str, mode: Mode, questions_sha256: str) -> dict[str, Any]:
    """Everything that shaped a score: model, frames, prompt, sampling, reward, seeds, questions and versions.

    Raises:
        ConfigError: the stage is not among `evaluation.checkpoints`.
    """
    checkpoints = run.evaluation.folders
    if stage not in checkpoints:
        raise ConfigError(f"evaluation.checkpoints has no {stage!r}; it names {', '.join(checkpoints)}.")
    return {
        "stage": stage,
        "mode": mode,
        **run_card(run, temperature=0.0 if mode == "greedy" else 1.0),
        "model": {**dataclasses.asdict(run.model), "path": checkpoints[stage]},
        "data": {
            "benchmark": run.evaluation.benchmark,
            "source": run.data.validation_file if run.evaluation.benchmark is None else run.evaluation.benchmark_dir,
            "questions_sha256": questions_sha256,
            "max_samples": run.evaluation.num_samples,
        },
    }


def run_card(run: EvaluateRun | GrpoRun, *, temperature: float) -> dict[str, Any]:
    """The part of a card that every evaluation of a run shares; prompt texts stand in its model section."""
    return {
        "model": dataclasses.asdict(run.model),
        "video": {
            **{k: v for k, v in dataclasses.asdict(run.video).items() if k not in ("cache_dir", "num_workers")},
            "decoder": "decord2",
            "times": "presentation timestamps",
        },
        "sampling": {
            "temperature": temperature,
            "top_p": 1.0,
            "top_k": 0,
            "max_response_tokens": run.rollout.max_response_tokens,
            "max_model_tokens": run.rollout.max_model_tokens,
        },
        "reward": dataclasses.asdict(run.reward),
        "judge": dataclasses.asdict(run.judge),
        "data": {"source": run.data.validation_file},
        "seed": run.seed,
        "device": run.cluster.device,
        "versions": {"python": platform.python_version(), **package_versions()},
    }


def sample_row(result: SampleResult, *, doc_id: int) -> dict[str, Any]:
    """One row of samples.jsonl, in lmms-eval's layout; `doc.id` is the sample's."""
    scores = {name: getattr(result, name) for name in METRICS}
    return {
        "doc_id": doc_id,
        "doc": {
            "id": result.sample_id,
            "video": result.video,
            "question": result.question,
            "problem_type": result.problem_type,
            "duration_s": result.duration_s,
            "clip_start_s": result.clip_start_s,
            "clip_end_s": result.clip_end_s,
            "subtitles": result.subtitles,
            "subtitles_beside": result.subtitles_beside,
        },
        "target": result.target,
        "input": result.question,
        "resps": [[result.response]],
        "filtered_resps": [result.answer],
        SCORE_KEY: {
            **scores,
            "finish_reason": result.finish_reason,
            "claims": [dict(claim) for claim in result.claims],
            "references": [dict(reference) for reference in result.references],
            "failed": dict(result.failed),
        },
    }


def evaluation_dir(output_dir: Path, *, stage: str, mode: Mode, benchmark: str | None = None) -> Path:
    """The folder of one evaluation, under the run's or the demo's `evaluation/`; a benchmark has one of its own."""
    return output_dir / "evaluation" / (benchmark or "") / stage / mode


def write_evaluation(
    folder: Path,
    results: Sequence[SampleResult],
    *,
    summary: Mapping[str, Any],
    log_fields: Callable[[SampleResult], Mapping[str, Any]] = lambda result: {},
) -> None:
    """Write samples.jsonl, then summary.json: a folder with a summary is complete.

    Args:
        log_fields: what a benchmark's rows have besides, or instead.
    """
    rows = ({**sample_row(result, doc_id=doc_id), **log_fields(result)} for doc_id, result in enumerate(results))
    write_jsonl_atomic(folder / SAMPLES_FILE, rows)
    write_json_atomic(folder / SUMMARY_FILE, dict(summary))


def read_evaluation(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and rows of a complete evaluation folder.

    Raises:
        ConfigError: one of the two files is missing or broken.
    """
    return read_json(folder / SUMMARY_FILE), read_jsonl(folder / SAMPLES_FILE)


def _resampled_means(values: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """[B] means of resamples drawn with replacement; at most about 4 million indices are in memory at once."""
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, 4_000_000 // len(values))
    means = []
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        means.append(values[rng.integers(0, len(values), size=(rows, len(values)))].mean(axis=1))
    return np.concatenate(means)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
