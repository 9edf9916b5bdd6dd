"""Accuracy, TAC and TAR of checkpoints on held-out clips, or TAC and VAS of prediction logs.

python -m videor2_rl.evaluate experiment=demo_evaluate evaluation.checkpoints=[sft:outputs/demo/sft/hf]
python -m videor2_rl.evaluate evaluation.benchmark=mlvu evaluation.benchmark_dir=DIR model.path=FOLDER
python -m videor2_rl.evaluate logs=DIR
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.app import checked_inputs, finish, hydra_app, open_run
from videor2_rl.config.runs import EvaluateRun, LogsRun
from videor2_rl.run.resume import check_run_dir

if TYPE_CHECKING:
    from rich.table import Table

    from videor2_rl.evaluation.held_out import HeldOut
    from videor2_rl.evaluation.summary import Mode, SampleResult
    from videor2_rl.run.folder import SkipLedger
    from videor2_rl.types import PromptHandle, SamplingSpec, VideoSample
    from workers.reward import RewardPool
    from workers.rollout.pool import RolloutPool
    from workers.video import VideoPool

PROMPTS_PER_CALL = 64
"""Progress is shown, and prompts are held in the object store, in portions of this many."""


def run_evaluation(run: EvaluateRun) -> None:
    """Evaluate every checkpoint in every mode; writes evaluation/<name>/<mode>/ under `output_dir`."""
    run_dir = Path(run.output_dir)
    check_run_dir(run_dir, resume=True, overwrite=None)
    samples = checked_inputs(run)
    with open_run(run, run_dir, resume=True, overwrite=None):
        from videor2_rl.evaluation.held_out import held_out
        from videor2_rl.evaluation.summary import TABLE_COLUMNS, table_rows
        from videor2_rl.run.folder import SkipLedger
        from videor2_rl.run.tracked_tables import TableTracker
        from workers.build import evaluation_workers

        questions = held_out(run)
        ledger = SkipLedger(run_dir, num_samples=len(samples), max_frac=run.data.max_skipped_frac)
        folders = run.evaluation.folders
        first = next(iter(folders.values()))
        rows: list[list[Any]] = []
        # The trackers first: where they cannot start, no engine should have.
        with (
            TableTracker(run_dir, run.logging, config=dataclasses.asdict(run)) as tracker,
            evaluation_workers(run, model_path=first, prompts_per_call=PROMPTS_PER_CALL) as (videos, rollouts, rewards),
        ):
            for version, (name, folder) in enumerate(folders.items()):
                if version > 0:
                    rollouts.load_checkpoint(folder, version)
                for mode in run.evaluation.modes:
                    results = evaluate(
                        run, samples, stage=name, mode=mode, workers=(videos, rollouts, rewards), ledger=ledger
                    )
                    rows += table_rows(record(run, results, questions, stage=name, mode=mode))
            tracker.log("evaluation", TABLE_COLUMNS, rows)
        if run.evaluation.probes:
            from videor2_rl.probe import probe_all

            probe_all(run)
        finish(run_dir, export=None)
    from videor2_rl.report.evaluations import evaluation_tables

    print_tables(evaluation_tables(run_dir / "evaluation"))


def evaluate(
    run: EvaluateRun,
    samples: Sequence[VideoSample],
    *,
    stage: str,
    mode: Mode,
    workers: tuple[VideoPool, RolloutPool, RewardPool],
    ledger: SkipLedger,
) -> list[SampleResult]:
    """One response to every usable sample, scored."""
    from videor2_rl.evaluation.results import sample_result
    from videor2_rl.run.tracking import ProgressBar

    videos, rollouts, rewards = workers
    results: list[SampleResult] = []
    with ProgressBar(f"evaluating {stage}, {mode}", len(samples)) as progress:
        for start in range(0, len(samples), PROMPTS_PER_CALL):
            rows = samples[start : start + PROMPTS_PER_CALL]
            prompts: list[PromptHandle] = ledger.usable(videos.prepare(rows))
            by_id = {row.sample_id: row for row in rows}
            rows = [by_id[prompt.sample_id] for prompt in prompts]
            groups = rollouts.generate(
                prompts,
                group_ids=range(start, start + len(prompts)),
                sampling=sampling_of(run, mode),
                seed=run.seed,
            )
            scored = rewards.score(groups, rows)
            results += [
                sample_result(row, group.rollouts[0], scores[0])
                for row, group, scores in zip(rows, groups, scored, strict=True)
            ]
            progress.advance(len(samples[start : start + PROMPTS_PER_CALL]))
    return results


def record(
    run: EvaluateRun, results: Sequence[SampleResult], questions: HeldOut, *, stage: str, mode: Mode
) -> dict[str, Any]:
    """Write one evaluation's samples.jsonl and summary.json, and return the latter."""
    from videor2_rl.evaluation.summary import evaluation_card, evaluation_dir, summarise, write_evaluation

    scored = [questions.scored(result) for result in results]
    summary = summarise(
        scored,
        resamples=run.evaluation.bootstrap_resamples,
        seed=run.seed,
        card=evaluation_card(run, stage=stage, mode=mode, questions_sha256=questions.digest),
    )
    folder = evaluation_dir(Path(run.output_dir), stage=stage, mode=mode, benchmark=run.evaluation.benchmark)
    write_evaluation(folder, scored, summary=summary, log_fields=questions.log_fields)
    return summary


def sampling_of(run: EvaluateRun, mode: Mode) -> SamplingSpec:
    """sampled: the full softmax at temperature 1, whatever the training sampled with; greedy: temperature 0."""
    from videor2_rl.types import SamplingSpec

    return SamplingSpec(
        temperature=0.0 if mode == "greedy" else 1.0,
        top_p=1.0,
        top_k=0,
        max_tokens=run.rollout.max_response_tokens,
        group_size=1,
    )


def run_logs(run: LogsRun) -> None:
    """Evaluate prediction logs, and say what came out and where it is."""
    from videor2_rl.evaluation.log_run import run_logs as evaluate_logs
    from videor2_rl.report.logs import log_tables
    from videor2_rl.run.files import read_json

    evaluate_logs(run)
    summary = Path(run.output_dir) / "summary.json"
    print_tables(log_tables(read_json(summary)))
    print(f"wrote {summary}", file=sys.stderr)


def print_tables(tables: Sequence[Table]) -> None:
    """What an evaluation ends with on the terminal."""
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


def main() -> None:
    """`logs=DIR` needs neither model nor data and has a configuration of its own, conf/evaluate_logs.yaml."""
    reads_logs = any(argument.startswith("logs=") for argument in sys.argv[1:])
    app = (
        hydra_app("evaluate_logs", LogsRun, run_logs)
        if reads_logs
        else hydra_app("evaluate", EvaluateRun, run_evaluation)
    )
    app()


if __name__ == "__main__":
    main()
