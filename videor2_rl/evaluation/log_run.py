"""`evaluate logs=DIR`: prediction logs -> TAC and VAS, without checkpoint, Ray or video.

Written into the output folder:

    summary.json       ours per benchmark and overall, the paper's fields beside them, and the evaluation card
    readings.jsonl     one line a row: what was read from both blocks, by whom, and what the judge said
    official/          the paper's scripts' files (`videor2_rl.evaluation.official.layout`)
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videor2_rl.config.sections import LogsRun
from videor2_rl.evaluation.judged import Judge, Replies, complete_replies, judge_prompt_versions, stored_replies
from videor2_rl.evaluation.log_results import LogResult, evaluate_row, result_row, summarise
from videor2_rl.evaluation.logs import OWN, LogFile, read_logs
from videor2_rl.evaluation.official.layout import OfficialLog, write_tac, write_vas
from videor2_rl.evaluation.summary import CONFIDENCE
from videor2_rl.judge.access import connected_judge
from videor2_rl.run.files import write_json_atomic, write_jsonl_atomic
from videor2_rl.run.folder import package_versions, sole_writer, write_config


@dataclass(frozen=True)
class EvaluatedLog:
    """A log with what came out for each of its rows."""

    log: LogFile
    replies: tuple[Replies, ...]
    results: tuple[LogResult, ...]


def run_logs(run: LogsRun) -> None:
    """Evaluate every log below `run.logs` and write the results into `run.output_dir`.

    Raises:
        ConfigError: no logs, one that cannot be read, or a judge that does not answer.
    """
    out = Path(run.output_dir)
    logs = read_logs(Path(run.logs).expanduser())
    with sole_writer(out), connected_judge(run.judge) as judge:
        write_config(out, run)
        evaluated = _evaluate(logs, judge)
        write_jsonl_atomic(
            out / "readings.jsonl",
            (
                result_row(str(item.log.path), number, row, result, replies)
                for item in evaluated
                for number, (row, result, replies) in enumerate(
                    zip(item.log.rows, item.results, item.replies, strict=True)
                )
            ),
        )
        official = [
            OfficialLog(
                path=item.log.path,
                stem=item.log.stem,
                benchmark=item.log.benchmark,
                rows=item.log.rows,
                cases=item.log.cases,
                lenses=[result.official for result in item.results],
                vas=[result.official_vas for result in item.results],
            )
            for item in evaluated
            if item.log.benchmark != OWN
        ]
        sections = {"tac": write_tac(out / "official", official), "vas": write_vas(out / "official", official)}
        write_json_atomic(out / "summary.json", summary_of(evaluated, run=run, official=sections))


def _evaluate(logs: Sequence[LogFile], judge: Judge | None) -> list[EvaluatedLog]:
    """Every row's results; with a judge all files' prompts go out together."""
    files = [log for log in logs for _ in log.rows]
    rows = [row for log in logs for row in log.rows]
    cases = [case for log in logs for case in log.cases]
    numbers = [number for log in logs for number in range(len(log.rows))]
    replies = [
        stored_replies(row, where=f"{log.path}, row {number}")
        for log, number, row in zip(files, numbers, rows, strict=True)
    ]
    if judge is not None:
        replies = complete_replies(replies, cases, rows, judge=judge)
    results = [evaluate_row(row, case, said) for row, case, said in zip(rows, cases, replies, strict=True)]
    evaluated = []
    start = 0
    for log in logs:
        stop = start + len(log.rows)
        evaluated.append(EvaluatedLog(log, tuple(replies[start:stop]), tuple(results[start:stop])))
        start = stop
    return evaluated


def summary_of(evaluated: Sequence[EvaluatedLog], *, run: LogsRun, official: dict[str, Any]) -> dict[str, Any]:
    """The content of summary.json."""
    by_benchmark: dict[str, list[LogResult]] = {}
    for item in evaluated:
        by_benchmark.setdefault(item.log.benchmark, []).extend(item.results)
    every = [result for results in by_benchmark.values() for result in results]
    replies = [reply for item in evaluated for reply in item.replies]
    by_judge = sum(reply.think is not None and reply.answer is not None for reply in replies)
    resamples = run.bootstrap_resamples
    return {
        "num_samples": len(every),
        "num_files": len(evaluated),
        "overall": summarise(every, resamples=resamples, seed=run.seed),
        "benchmarks": {
            name: summarise(results, resamples=resamples, seed=run.seed) for name, results in by_benchmark.items()
        },
        # Where our rules stand in for a judge, the paper's fields are what its scripts would make of their readings.
        "official": {"read_by": {"judge": by_judge, "rules": len(replies) - by_judge}, **official},
        "interval": {
            "method": "percentile bootstrap over samples",
            "confidence": CONFIDENCE,
            "resamples": resamples,
            "seed": run.seed,
        },
        "card": {
            "logs": str(Path(run.logs).resolve()),
            "files": [str(item.log.path) for item in evaluated],
            "judge": dataclasses.asdict(run.judge),
            "prompts": judge_prompt_versions(),
            "read_by": {"judge": by_judge, "rules": len(replies) - by_judge},
            "seed": run.seed,
            "versions": {"python": platform.python_version(), **package_versions()},
        },
    }
