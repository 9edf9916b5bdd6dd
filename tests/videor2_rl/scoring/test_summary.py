"""What a scored file comes to, by hand."""

from __future__ import annotations

from typing import Any

from rewards.types import NO_EVIDENCE, Scored, Target, Verdict, abstained, failed, scored
from videor2_rl.scoring.batch import ScoredRow
from videor2_rl.scoring.rows import ScoreRow
from videor2_rl.scoring.summary import Summary


def result(reward: float | None, accuracy: Verdict, tac: Verdict, **passed_on: Any) -> ScoredRow:
    row = ScoreRow("f, row 1", "a", "", Target("", "A"), NO_EVIDENCE, {}, passed_on)
    return ScoredRow(row, Scored(reward, {"accuracy": accuracy, "consistency": tac}, {}))


def test_means_are_of_what_has_a_value_and_the_rest_is_counted() -> None:
    summary = Summary()
    summary.add(result(2.0, scored(1.0, {}), scored(1.0, {}), logged_reward=0.5))
    summary.add(result(1.0, scored(0.0, {}), abstained("unreadable"), logged_reward=1.0))
    summary.add(result(0.25, scored(0.25, {}), abstained("unreadable"), logged_reward=None))
    summary.add(result(None, scored(0.5, {}), failed("the judge is down")))
    assert summary.lines() == [
        # 3.25 / 3, and 1.5 / 2.
        "4 rows, mean reward 1.0833, logged by the run 0.7500",
        "  accuracy: mean 0.4375 of 4 scored",
        "  consistency: mean 1.0000 of 1 scored, 2 abstained, 1 failed, the first: the judge is down",
    ]


def test_without_values_there_is_no_mean_and_nothing_logged_is_not_mentioned() -> None:
    summary = Summary()
    assert summary.lines() == ["0 rows, mean reward -"]
    summary.add(result(None, failed("down"), abstained("unreadable")))
    assert summary.lines() == [
        "1 rows, mean reward -",
        "  accuracy: mean - of 0 scored, 1 failed, the first: down",
        "  consistency: mean - of 0 scored, 1 abstained",
    ]
