"""`evaluate logs=DIR`: prediction logs -> TAC and VAS, without checkpoint, Ray or video.

Written into the output folder:

    summary.json       ours per benchmark and overall, the paper's fields beside them, and the evaluation card
    readings.jsonl     one line a row: what was read from both blocks, by whom, and what the judge said
    official/          the paper's scripts' files (`videor2_rl.evaluation.official.layout`)
"""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videor2_rl.config.runs import LogsRun, VasPrompt
from videor2_rl.evaluation.judged import Judge, Replies, complete_replies, judge_prompt_versions
from videor2_rl.evaluation.log_results import LogResult, evaluate_row, result_row, summarise
from videor2_rl.evaluation.logs import OWN, UNREADABLE, LeftOut, LogFile, LogRow, read_logs, told
from videor2_rl.evaluation.official.layout import OfficialLog, write_tac, write_vas
from videor2_rl.evaluation.official.tac import Mixer
from videor2_rl.evaluation.summary import CONFIDENCE
from videor2_rl.judge.access import connected_judge
from videor2_rl.run.files import write_json_atomic, write_jsonl_atomic
from videor2_rl.run.folder import package_versions, sole_writer, write_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatedLog:
    """A log with what came out for each of its rows."""

    log: LogFile
    replies: tuple[Replies, ...]
    results: tuple[LogResult, ...]


def run_logs(run: LogsRun) -> None:
    """Evaluate every log below `run.logs` and write the results into `run.output_dir`.

    Raises:
        ConfigError: no log that can be read, or a judge that does not answer.
    """
    out = Path(run.output_dir)
    mixer = Mixer(run.mixer_alpha, run.mixer_gamma)
    logs = read_logs(Path(run.logs).expanduser())
    with sole_writer(out), connected_judge(run.judge) as judge:
        write_config(out, run)
        evaluated, not_evaluated = _evaluate(logs.files, judge, vas_prompt=run.vas_prompt)
        left_out = [*logs.left_out, *not_evaluated]
        for sentence in told(left_out):
            logger.warning("%s", sentence)
        write_jsonl_atomic(
            out / "readings.jsonl",
            (
                result_row(str(item.log.path), number, row.line, row.content, result, replies)
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
                rows=[row.content for row in item.log.rows],
                cases=[row.case for row in item.log.rows],
                lenses=[result.official for result in item.results],
                vas=[result.official_vas for result in item.results],
            )
            for item in evaluated
            if item.log.benchmark != OWN
        ]
        sections = {
            "tac": write_tac(out / "official", official, mixer=mixer),
            "vas": write_vas(out / "official", official),
        }
        write_json_atomic(out / "summary.json", summary_of(evaluated, run=run, official=sections, left_out=left_out))


def _evaluate(
    logs: Sequence[LogFile], judge: Judge | None, *, vas_prompt: VasPrompt
) -> tuple[list[EvaluatedLog], list[LeftOut]]:
    """Every row's results, and the rows without; with a judge all files' prompts go out together."""
    rows = [row for log in logs for row in log.rows]
    replies = [row.stored for row in rows]
    if judge is not None:
        contents = [row.content for row in rows]
        replies = complete_replies(replies, [row.case for row in rows], contents, judge=judge, vas_form=vas_prompt)
    said = iter(replies)
    evaluated: list[EvaluatedLog] = []
    left_out: list[LeftOut] = []
    for log in logs:
        kept: list[tuple[LogRow, Replies, LogResult]] = []
        for row, reply in zip(log.rows, said, strict=False):
            try:
                kept.append((row, reply, evaluate_row(row.content, row.case, reply, has_score=row.has_score)))
            except UNREADABLE as error:
                left_out.append(LeftOut(log.path, row.line, "cannot be evaluated; mend the row", str(error)))
        evaluated.append(
            EvaluatedLog(
                replace(log, rows=tuple(row for row, _, _ in kept)),
                tuple(reply for _, reply, _ in kept),
                tuple(result for _, _, result in kept),
            )
        )
    return evaluated, left_out


def summary_of(
    evaluated: Sequence[EvaluatedLog], *, run: LogsRun, official: dict[str, Any], left_out: Sequence[LeftOut]
) -> dict[str, Any]:
    """The content of summary.json."""
    by_benchmark: dict[str, list[LogResult]] = {}
    for item in evaluated:
        by_benchmark.setdefault(item.log.benchmark, []).extend(item.results)
    every = [result for results in by_benchmark.values() for result in results]
    replies = [reply for item in evaluated for reply in item.replies]
    by_judge = sum(reply.think is not None and reply.answer is not None for reply in replies)
    resamples, mixer = run.bootstrap_resamples, Mixer(run.mixer_alpha, run.mixer_gamma)
    return {
        "num_samples": len(every),
        "num_files": len(evaluated),
        "left_out": {
            "num_files": sum(each.line is None for each in left_out),
            "num_rows": sum(each.line is not None for each in left_out),
            "reasons": dict(Counter(each.reason for each in left_out)),
            "which": [
                {"file": str(each.file), "line": each.line, "reason": each.reason, "detail": each.detail}
                for each in left_out
            ],
        },
        "overall": summarise(every, resamples=resamples, seed=run.seed, mixer=mixer),
        "benchmarks": {
            name: summarise(results, resamples=resamples, seed=run.seed, mixer=mixer)
            for name, results in by_benchmark.items()
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
            "prompts": judge_prompt_versions(run.vas_prompt),
            "mixer": dataclasses.asdict(mixer),
            "read_by": {"judge": by_judge, "rules": len(replies) - by_judge},
            "seed": run.seed,
            "versions": {"python": platform.python_version(), **package_versions()},
        },
    }
