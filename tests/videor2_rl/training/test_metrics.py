from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rewards.types import Scored, Verdict
from videor2_rl.training.metrics import grpo_metrics, kl_to_reference, reward_metrics, rollout_metrics
from videor2_rl.types import FinishReason, Group, LogProbs, Rollout


def rollout(log_probs: list[float], *, finish_reason: FinishReason = "stop") -> Rollout:
    return Rollout(
        token_ids=np.arange(len(log_probs)),
        log_probs=np.array(log_probs, dtype=np.float32),
        text="",
        finish_reason=finish_reason,
        policy_version=0,
    )


def group(group_id: int, *rollouts: Rollout) -> Group:
    return Group(group_id=group_id, sample_id=f"sample-{group_id}", rollouts=rollouts)


def log_probs(group_id: int, *responses: list[float]) -> LogProbs:
    arrays = tuple(np.array(response, dtype=np.float32) for response in responses)
    return LogProbs(group_id=group_id, at_temperature=arrays, raw=arrays)


def verdict(value: float | None, *, status: str = "score") -> Verdict:
    return Verdict(status, value)  # type: ignore[arg-type]


def score(reward: float | None, accuracy: Verdict, *, tac: float | None = 1.0) -> Scored:
    return Scored(reward=reward, terms={"accuracy": accuracy}, metrics={"accuracy": accuracy.value, "tac": tac})


def test_lengths_and_finish_reasons_by_hand() -> None:
    groups = [
        group(0, rollout([0, 0]), rollout([0, 0, 0, 0], finish_reason="length")),
        group(1, rollout([0], finish_reason="abort"), rollout([0])),
    ]
    assert rollout_metrics(groups) == {
        "rollout/response_tokens_mean": 2.0,
        "rollout/response_tokens_max": 4.0,
        "rollout/truncated_frac": 0.25,
        "rollout/aborted_frac": 0.25,
    }


def test_failures_and_abstentions_leave_the_means_and_are_counted() -> None:
    scored = [
        [score(1.0, verdict(1.0)), score(0.5, verdict(0.5), tac=None)],
        [score(0.0, verdict(None, status="abstention")), score(None, verdict(None, status="failure"), tac=0.0)],
    ]
    metrics = reward_metrics(scored)
    assert metrics["reward/mean"] == pytest.approx(0.5)
    assert metrics["reward/std"] == pytest.approx(math.sqrt((0.25 + 0 + 0.25) / 3))
    assert metrics["reward/failure_frac"] == 0.25
    assert metrics["reward/accuracy"] == 0.75
    assert metrics["reward/accuracy_failure_frac"] == 0.25
    assert metrics["reward/accuracy_abstention_frac"] == 0.25
    assert metrics["reward/tac"] == pytest.approx(2 / 3)
    assert metrics["reward/tac_unscored_frac"] == 0.25


def test_zero_variance_groups_are_those_whose_valid_rewards_are_equal() -> None:
    scored = [
        [score(1.0, verdict(1.0)), score(1.0, verdict(1.0))],
        [score(1.0, verdict(1.0)), score(0.0, verdict(0.0))],
        [score(1.0, verdict(1.0)), score(None, verdict(None, status="failure"))],
        [score(None, verdict(None, status="failure")), score(None, verdict(None, status="failure"))],
    ]
    assert reward_metrics(scored)["reward/zero_variance_frac"] == 0.75


def test_accuracy_variance_is_counted_apart_from_the_rewards() -> None:
    scored = [
        [score(1.0, verdict(1.0)), score(2.0, verdict(1.0))],
        [score(1.0, verdict(1.0)), score(1.0, verdict(0.0))],
        [score(1.0, verdict(1.0)), score(None, verdict(0.0))],
    ]
    metrics = reward_metrics(scored)
    assert metrics["reward/zero_variance_frac"] == pytest.approx(2 / 3)
    assert metrics["reward/zero_accuracy_variance_frac"] == pytest.approx(2 / 3)


def test_a_mean_over_nothing_is_absent() -> None:
    metrics = reward_metrics([[score(None, verdict(None, status="failure"), tac=None)]])
    assert not {"reward/mean", "reward/std", "reward/accuracy", "reward/tac"} & metrics.keys()
    assert metrics["reward/failure_frac"] == 1
    assert grpo_metrics([], []) == {}


def test_kl_estimate_agrees_with_the_exact_kl_of_two_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    policy, reference = (
        torch.distributions.Categorical(logits=logits[0]),
        torch.distributions.Categorical(logits=logits[1]),
    )
    exact = float(torch.distributions.kl_divergence(policy, reference))
    torch.manual_seed(0)
    tokens = policy.sample((200_000,))
    estimate = kl_to_reference(
        [log_probs(0, policy.log_prob(tokens).tolist())], [log_probs(0, reference.log_prob(tokens).tolist())]
    )
    assert estimate == pytest.approx(exact, rel=0.03)


def test_mismatches_raise() -> None:
    groups = [group(0, rollout([-1.0]))]
    with pytest.raises(ValueError, match="do not correspond"):
        grpo_metrics(groups, [[]])
    with pytest.raises(ValueError, match="Group 0 has no log-probs from the reference"):
        kl_to_reference([log_probs(0, [-1.0])], [log_probs(1, [-1.0])])
    with pytest.raises(ValueError, match=r"\[1\] tokens are compared with those of \[2\]"):
        kl_to_reference([log_probs(0, [-1.0, -1.0])], [log_probs(0, [-1.0])])


def test_a_step_has_every_part() -> None:
    metrics = grpo_metrics(
        [group(0, rollout([-1.0]))],
        [[score(1.0, verdict(1.0))]],
        log_probs=[log_probs(0, [-1.0])],
        ref_log_probs=[log_probs(0, [-1.0])],
    )
    assert {"rollout/truncated_frac", "reward/mean", "rollout/log_prob_gap_max", "actor/kl"} <= metrics.keys()
    assert metrics["actor/kl"] == 0
    assert all(isinstance(value, float) for value in metrics.values())
