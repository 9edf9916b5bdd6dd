"""How far the engine's and the learner's log-probs of the same tokens may lie apart before a run ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videor2_rl.types import Group, LogProbs


class LogProbGapError(RuntimeError):
    """vLLM and the learner give the same tokens different probabilities: they do not hold the same policy."""


def check_gap(groups: Sequence[Group], learner: Sequence[LogProbs], *, limit: float) -> None:
    """Compare what the engine and the learner say of the same tokens, at temperature 1.

    Raises:
        LogProbGapError: they differ by more than `limit` nats on some token.
    """
    gap = max(
        (
            float(np.abs(rollout.log_probs - raw).max())
            for group, log_probs in zip(groups, learner, strict=True)
            for rollout, raw in zip(group.rollouts, log_probs.raw, strict=True)
        ),
        default=0.0,
    )
    refuse_gap(gap, limit=limit)


def refuse_gap(gap: float, *, limit: float) -> None:
    """Raises LogProbGapError where the largest difference, in nats, is more than `limit` or not a number."""
    # Not `gap > limit`: NaN must stop the run too.
    if not gap <= limit:
        raise LogProbGapError(
            f"rollout workers and learner disagree by {gap:.2e} nats on a token, more than "
            f"algorithm.max_log_prob_gap={limit}: they do not hold the same policy or see the same input"
        )
