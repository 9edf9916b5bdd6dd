"""What judge clients did, as numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from videor2_rl.judge.breaker import JudgeDown


@dataclass
class CallCounts:
    """What a client did since it was last asked."""

    replies: int = 0
    """Prompts that got a reply, cached ones included."""
    failures: int = 0
    """Prompts that got none."""
    unreadable: int = 0
    """Replies that say nothing their reader understands."""
    cached: int = 0
    requests: int = 0
    retries: int = 0
    hedges: int = 0
    latency_s: float = 0.0
    """Sum over the requests that brought a reply."""
    answered: int = 0
    """Requests that brought a reply."""
    pause_s: float = 0.0
    """Waited for a server that was away."""
    last_problem: str | None = None
    """Of a failure or an unreadable reply."""


def total(parts: Iterable[CallCounts]) -> CallCounts:
    """Of clients that worked side by side: sums, and the longest pause."""
    parts = list(parts)
    return CallCounts(
        replies=sum([part.replies for part in parts]),
        failures=sum([part.failures for part in parts]),
        unreadable=sum([part.unreadable for part in parts]),
        cached=sum([part.cached for part in parts]),
        requests=sum([part.requests for part in parts]),
        retries=sum([part.retries for part in parts]),
        hedges=sum([part.hedges for part in parts]),
        latency_s=sum([part.latency_s for part in parts]),
        answered=sum([part.answered for part in parts]),
        pause_s=max([part.pause_s for part in parts], default=0.0),
        last_problem=next((part.last_problem for part in parts if part.last_problem), None),
    )


def judge_metrics(counts: CallCounts) -> dict[str, float]:
    """A step's metrics; empty where nothing was asked."""
    asked = counts.replies + counts.failures
    if asked == 0:
        return {}
    metrics = {
        "reward/judge_calls": float(asked),
        "reward/judge_failure_frac": counts.failures / asked,
        "reward/judge_unreadable_frac": counts.unreadable / asked,
        "perf/judge_cached_frac": counts.cached / asked,
        "perf/judge_requests": float(counts.requests),
        "perf/judge_retries": float(counts.retries),
        "perf/judge_hedges": float(counts.hedges),
        "timing_s/judge_pause": counts.pause_s,
    }
    if counts.answered:
        metrics["perf/judge_latency_s"] = counts.latency_s / counts.answered
    return metrics


def check_failures(counts: CallCounts, *, address: str, max_failed_frac: float) -> None:
    """Stop where too few verdicts could be had to learn or report anything.

    Raises:
        JudgeDown: more than `max_failed_frac` of the replies failed or were unreadable.
    """
    asked, failed = counts.replies + counts.failures, counts.failures + counts.unreadable
    if failed > max_failed_frac * asked:
        raise JudgeDown(
            f"judge: {failed} of {asked} replies of {address} could not be had or read, more than "
            f"judge.calls.max_failed_frac={max_failed_frac} (the last one: {counts.last_problem}); use a model that "
            "keeps to the format, or raise the limit, then go on with the same command and output_dir"
        )
