from __future__ import annotations

import math
from dataclasses import replace

import learner_configs
import numpy as np
import pytest

from videor2_rl.training.gap import LogProbGapError, check_gap, gap_metrics, measure_gap
from videor2_rl.types import Group, LogProbs, Rollout

# The defaults of conf/algorithm/grpo.yaml.
LIMITS = replace(learner_configs.algorithm_config(), max_log_prob_gap_mean=0.05, max_log_prob_gap_tail=1.0)


def group(group_id: int, *responses: list[float]) -> Group:
    rollouts = [
        Rollout(np.arange(len(values)) + 100, np.array(values, np.float32), "", "stop", 0) for values in responses
    ]
    return Group(group_id, f"sample-{group_id}", tuple(rollouts))


def log_probs(group_id: int, *responses: list[float]) -> LogProbs:
    arrays = tuple(np.array(response, dtype=np.float32) for response in responses)
    return LogProbs(group_id, at_temperature=tuple(values * 2 for values in arrays), raw=arrays)


def test_the_gap_by_hand_is_over_tokens_and_says_where_the_largest_is() -> None:
    groups = [group(3, [-1.0]), group(7, [-1.0, -2.0, -3.0], [-1.0])]
    gap = measure_gap(groups, [log_probs(7, [-1.0, -2.5, -3.0], [-0.75]), log_probs(3, [-1.0])], is_tempered=False)
    assert gap is not None
    assert gap.mean == pytest.approx(0.75 / 5) and gap.largest == gap.tail == 0.5
    assert (gap.group_id, gap.sample_id, gap.response, gap.position, gap.token_id) == (7, "sample-7", 0, 1, 101)
    by_hand = (math.exp(-0.5) - 1 + 0.5 + math.exp(0.25) - 1 - 0.25) / 5
    assert gap.kl == pytest.approx(by_hand)
    assert gap_metrics(gap) == pytest.approx(
        {
            "rollout/log_prob_gap_mean": 0.15,
            "rollout/log_prob_gap_tail": 0.5,
            "rollout/log_prob_gap_max": 0.5,
            "rollout/log_prob_gap_max_group": 7,
            "rollout/log_prob_gap_max_response": 0,
            "rollout/log_prob_gap_max_position": 1,
            "rollout/log_prob_gap_max_token": 101,
            "rollout/kl_to_learner": by_hand,
        }
    )


def test_tempered_log_probs_are_compared_with_tempered_ones() -> None:
    groups, learner = [group(0, [-2.0, -4.0])], [log_probs(0, [-1.0, -2.0])]
    tempered, raw = (measure_gap(groups, learner, is_tempered=value) for value in (True, False))
    assert tempered is not None and raw is not None
    assert tempered.largest == 0 and raw.largest == 2


def test_the_largest_is_found_in_the_last_response_and_the_first_token() -> None:
    gap = measure_gap([group(0, [-1.0], [], [-1.0, -1.0])], [log_probs(0, [-1.0], [], [-3.0, -1.0])], is_tempered=False)
    assert gap is not None and (gap.response, gap.position, gap.largest) == (2, 0, 2.0)


def test_no_tokens_have_no_gap() -> None:
    assert measure_gap([group(0, [])], [log_probs(0, [])], is_tempered=False) is None
    assert gap_metrics(None) == {}
    check_gap(None, LIMITS)


def test_log_probs_that_do_not_correspond_are_refused() -> None:
    with pytest.raises(ValueError, match="Group 0 has no log-probs"):
        measure_gap([group(0, [-1.0])], [log_probs(1, [-1.0])], is_tempered=False)
    with pytest.raises(ValueError, match=r"\[2\] tokens are compared with those of \[1\]"):
        measure_gap([group(0, [-1.0])], [log_probs(0, [-1.0, -1.0])], is_tempered=False)


@pytest.mark.parametrize("values", [[-1.0, math.nan, -5.0], [-1.0, -1.0, math.inf]])
def test_what_is_no_number_stops_the_run_and_is_named(values: list[float]) -> None:
    gap = measure_gap([group(0, [-1.0, -1.0, -1.0])], [log_probs(0, values)], is_tempered=False)
    assert gap is not None and not math.isfinite(values[gap.position])
    with pytest.raises(LogProbGapError, match=f"sample sample-0, response 0, token {gap.position}"):
        check_gap(gap, LIMITS)


def test_each_limit_stops_the_run_and_is_named() -> None:
    def error(values: list[float]) -> str:
        count = len(values)
        gap = measure_gap([group(0, [-1.0] * count)], [log_probs(0, values)], is_tempered=False)
        with pytest.raises(LogProbGapError) as caught:
            check_gap(gap, LIMITS)
        return str(caught.value)

    assert "mean 6.00e-02 nats, more than algorithm.max_log_prob_gap_mean=0.05" in error([-1.06] * 100)
    # Two in a thousand of more than a nat: the mean is small.
    tail = error([-3.0, -3.0] + [-1.0] * 998)
    assert "99.9% quantile 2.00e+00 nats, more than algorithm.max_log_prob_gap_tail=1" in tail


def heavy(random: np.random.Generator, count: int) -> np.ndarray:
    """Noise as published for Qwen2.5-7B in bfloat16: 0.039 nats root mean square, here with the tails of Student's t
    with three degrees of freedom, whose largest of 65,536 is near a nat."""
    return random.standard_t(3, count) * 0.039 / math.sqrt(3)


def learner_of(sampled: list[list[float]], difference: np.ndarray) -> list[LogProbs]:
    rows = np.array(sampled) + difference.reshape(len(sampled), -1)
    return [log_probs(0, *rows.tolist())]


def test_bfloat16s_noise_passes_and_what_is_hidden_in_it_does_not() -> None:
    """64 responses of 1,024 tokens, as a step of the 7B run has."""
    shape = (64, 1024)
    largest = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        noise = heavy(random, shape[0] * shape[1])
        # Token log-probs of a policy at work: mostly near 0, some far down.
        exact = -random.gamma(0.3, 1.0, shape)
        sampled = exact.tolist()
        groups = [group(0, *sampled)]
        gap = measure_gap(groups, learner_of(sampled, noise), is_tempered=False)
        check_gap(gap, LIMITS)
        assert gap is not None
        largest.append(gap.largest)
        # A policy that is a little elsewhere (0.1 nats, as after a lost update), one response at wrong positions, one
        # token in 200 of another token's probability.
        stale = noise + random.normal(0, 0.1, len(noise))
        shifted = np.where(np.arange(len(noise)) < shape[1], noise + random.normal(0, 2.0, len(noise)), noise)
        others = np.where(random.random(len(noise)) < 0.005, noise - random.gamma(2.0, 1.5, len(noise)), noise)
        for fault in (stale, shifted, others):
            with pytest.raises(LogProbGapError):
                check_gap(measure_gap(groups, learner_of(sampled, fault), is_tempered=False), LIMITS)
    # The maximum tells nothing: a limit on it, 0.5 once, would have ended most of these runs at their first step.
    assert np.mean(np.array(largest) > 0.5) > 0.5
