"""What clients did, summed up, as metrics, and when it ends a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.judge.counts import CallCounts, check_failures, judge_metrics, total

ONE = CallCounts(
    replies=15,
    failures=5,
    unreadable=2,
    cached=4,
    requests=40,
    retries=7,
    hedges=3,
    latency_s=6.0,
    answered=12,
    pause_s=1.5,
    last_problem=None,
)


def test_work_side_by_side_adds_up_but_the_pause_is_the_longest() -> None:
    other = replace(ONE, replies=1, retries=0, pause_s=9.0, last_problem="status 500")
    assert total([ONE, other, replace(ONE, last_problem="later")]) == CallCounts(
        replies=31,
        failures=15,
        unreadable=6,
        cached=12,
        requests=120,
        retries=14,
        hedges=9,
        latency_s=18.0,
        answered=36,
        pause_s=9.0,
        last_problem="status 500",
    )
    assert total([]) == CallCounts()


def test_shares_are_of_the_prompts_and_the_latency_is_of_a_request_that_was_answered() -> None:
    assert judge_metrics(ONE) == {
        "reward/judge_calls": 20.0,
        "reward/judge_failure_frac": 0.25,
        "reward/judge_unreadable_frac": 0.1,
        "perf/judge_cached_frac": 0.2,
        "perf/judge_requests": 40.0,
        "perf/judge_retries": 7.0,
        "perf/judge_hedges": 3.0,
        "perf/judge_latency_s": 0.5,
        "timing_s/judge_pause": 1.5,
    }
    assert "perf/judge_latency_s" not in judge_metrics(replace(ONE, answered=0))
    assert judge_metrics(CallCounts(failures=2))["reward/judge_failure_frac"] == 1.0
    assert judge_metrics(CallCounts()) == {}


def test_the_limit_itself_is_allowed_and_unreadable_replies_count_as_failed() -> None:
    # 5 failures and 2 unreadable replies of 20.
    check_failures(ONE, address="http://x", max_failed_frac=0.35)
    with pytest.raises(JudgeDown, match=r"7 of 20 replies of http://x .*max_failed_frac=0.34 \(the last one: None\)"):
        check_failures(ONE, address="http://x", max_failed_frac=0.34)
    check_failures(CallCounts(), address="http://x", max_failed_frac=0.0)
    check_failures(CallCounts(replies=3), address="http://x", max_failed_frac=0.0)
    with pytest.raises(JudgeDown):
        check_failures(CallCounts(replies=3, failures=1), address="http://x", max_failed_frac=0.0)
