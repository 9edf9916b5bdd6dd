from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from videor2_rl.config.algorithm import AdvantageName
from videor2_rl.training.advantage import (
    Outcomes,
    advantages_of,
    bnpo_advantages,
    grpo_advantages,
    mapo_advantages,
    opo_advantages,
    rloo_advantages,
    zero_variance,
)


def advantages(rewards: ArrayLike, group_ids: ArrayLike, *, scale_by_std: bool = True) -> NDArray[np.float32]:
    return grpo_advantages(np.array(rewards, dtype=np.float32), np.array(group_ids), scale_by_std=scale_by_std)


def test_advantages_by_hand() -> None:
    # Group 7: mean 2, sample deviation sqrt(2); group 3: mean 1, deviation 1.
    found = advantages([1.0, 0.0, 3.0, 1.0, 2.0], [7, 3, 7, 3, 3])
    np.testing.assert_allclose(found, [-(0.5**0.5), -1.0, 0.5**0.5, 0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(advantages([1.0, 3.0], [7, 7], scale_by_std=False), [-1.0, 1.0])


def test_failed_members_leave_the_statistics() -> None:
    np.testing.assert_array_equal(
        advantages([1.0, np.nan, 3.0], [0] * 3)[[0, 2, 1]], [*advantages([1.0, 3.0], [0] * 2), 0]
    )


def test_groups_without_two_valid_members_get_zero() -> None:
    assert advantages([5.0, np.nan, 4.0, np.nan, np.nan], [0, 0, 1, 2, 2]).tolist() == [0.0] * 5


def test_equal_rewards_give_exactly_zero() -> None:
    assert advantages([0.1] * 7, [0] * 7).tolist() == [0.0] * 7


def test_zero_variance_groups() -> None:
    rewards = np.array([1.0, 1.0, 1.0, 2.0, 3.0, np.nan, np.nan], dtype=np.float32)
    groups = np.array([0, 0, 1, 1, 2, 2, 3])
    assert zero_variance(rewards, groups) == {0: True, 1: False, 2: True, 3: True}


def test_mismatched_or_infinite_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one group id per reward"):
        advantages([1.0], [0, 0])
    with pytest.raises(ValueError, match="infinite"):
        advantages([np.inf, 1.0], [0, 0])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10, width=32)), min_size=1, max_size=24), st.randoms())
def test_row_order_does_not_matter_and_groups_are_centred(rows: list[tuple[int, float]], random: Random) -> None:
    ids, rewards = [row[0] for row in rows], [row[1] for row in rows]
    found = advantages(rewards, ids, scale_by_std=False)
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = advantages([rewards[i] for i in order], [ids[i] for i in order], scale_by_std=False)
    np.testing.assert_allclose(shuffled, found[order], atol=1e-5)
    for group_id in set(ids):
        assert abs(found[np.array(ids) == group_id].sum()) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("scale_by_std", [True, False])
def test_advantages_equal_verls(scale_by_std: bool) -> None:
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rng = np.random.default_rng(0)
    rewards, ids = rng.normal(size=40).astype(np.float32), rng.integers(0, 5, 40)
    expected, _ = compute_grpo_outcome_advantage(
        torch.tensor(rewards)[:, None], torch.ones(40, 1), ids, norm_adv_by_std_in_grpo=scale_by_std
    )
    np.testing.assert_allclose(advantages(rewards, ids, scale_by_std=scale_by_std), expected[:, 0], atol=1e-5)


def outcomes(rng: np.random.Generator, *, groups: int = 5, size: int = 8) -> Outcomes:
    """Rewards in 0-3 with accuracies, rows of the groups mixed."""
    ids = rng.permutation(np.repeat(np.arange(groups), size))
    accuracies = (rng.random(len(ids)) < 0.2 + 0.15 * ids).astype(np.float32)
    rewards = (accuracies + 2 * rng.random(len(ids))).astype(np.float32)
    return Outcomes(rewards, ids, rng.integers(1, 40, len(ids)), accuracies, (0.0, 3.0))


def test_leave_one_out_by_hand() -> None:
    found = rloo_advantages(np.array([1, 0, 3, 1, 2], dtype=np.float32), np.array([7, 3, 7, 3, 3]))
    np.testing.assert_allclose(found, [-2, -1.5, 2, 0, 1.5])


def test_length_weighted_baseline_by_hand() -> None:
    """Baseline (1 * 1 + 3 * 3) / 4 = 2.5."""
    found = opo_advantages(np.array([1, 3], dtype=np.float32), np.array([0, 0]), np.array([1, 3]))
    np.testing.assert_allclose(found, [-1.5, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rloo", "opo", "reinforce_plus_plus_baseline"])
def test_other_baselines_equal_verls(name: AdvantageName) -> None:
    import torch
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    batch = outcomes(np.random.default_rng(0))
    mask = (np.arange(40) < batch.lengths[:, None]).astype(np.float32)
    token_rewards = torch.zeros(len(mask), 40)
    token_rewards[:, 0] = torch.tensor(batch.rewards)
    expected, _ = get_adv_estimator_fn(name)(token_rewards, torch.tensor(mask), index=batch.group_ids)
    np.testing.assert_allclose(advantages_of(batch, name), expected[:, 0], rtol=1e-4, atol=1e-5)


def test_mapo_by_hand() -> None:
    """Three of four right: l = 1 - 4 * 3/4 * 1/4 = 1/4; rewards 0, 1, 1, 2: mean 1, population deviation sqrt(1/2)."""
    rewards = np.array([0, 1, 1, 2], dtype=np.float32)
    found = mapo_advantages(rewards, np.zeros(4, dtype=int), np.array([0, 1, 0.5, 1], dtype=np.float32))
    np.testing.assert_allclose(found, np.array([-1, 0, 0, 1]) * (0.75 * 2**0.5 + 0.25), rtol=1e-6)
    # All right: only the share of the mean. Half right: only the deviations.
    np.testing.assert_allclose(
        mapo_advantages(rewards, np.zeros(4, dtype=int), np.ones(4, dtype=np.float32)), [-1, 0, 0, 1], rtol=1e-6
    )
    half = mapo_advantages(rewards, np.zeros(4, dtype=int), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(half, np.array([-1, 0, 0, 1]) * 2**0.5, rtol=1e-6)
    with pytest.raises(ValueError, match="must not be negative"):
        mapo_advantages(-rewards, np.zeros(4, dtype=int), np.ones(4, dtype=np.float32))


def test_bnpo_divides_by_the_beta_density_of_the_paper() -> None:
    """The a and b that the paper finds best, by the method of moments, written with SciPy's distribution."""
    from scipy.stats import beta

    batch = outcomes(np.random.default_rng(1))
    scaled = batch.rewards.astype(np.float64) / 3
    means = np.array([scaled[batch.group_ids == group].mean() for group in range(5)])
    size = means.mean() * (1 - means.mean()) / means.var(ddof=1) - 1
    density = beta.pdf(means, 1 + size * means.mean() / 3, 1 + size * (1 - means.mean()) / 3)
    expected = (scaled - means[batch.group_ids]) / density[batch.group_ids]
    np.testing.assert_allclose(advantages_of(batch, "bnpo"), expected, rtol=1e-5)


def test_bnpo_scales_rewards_to_the_unit_interval_and_refuses_others() -> None:
    rewards, ids = np.array([-1, 3, 1, 1], dtype=np.float32), np.array([0, 0, 1, 1])
    # Two groups of mean 0.5: nothing to fit, density 1.
    found = bnpo_advantages(rewards, ids, reward_range=(-1.0, 3.0))
    np.testing.assert_allclose(found, [-0.5, 0.5, 0, 0], atol=1e-7)
    with pytest.raises(ValueError, match=r"rewards from 0.0 to 1.0, found -1.0 to 3.0"):
        bnpo_advantages(rewards, ids, reward_range=(0.0, 1.0))


@pytest.mark.parametrize("name", get_args(AdvantageName))
def test_rows_without_a_reward_change_nothing_and_order_does_not_matter(name: AdvantageName) -> None:
    batch = outcomes(np.random.default_rng(2))
    expected = advantages_of(batch, name)
    assert np.abs(expected).max() > 0.1
    order = np.random.default_rng(3).permutation(len(expected) + 2)
    # A failed member of a group, and a group of its own.
    failed = Outcomes(
        np.append(batch.rewards, [np.nan, np.nan]).astype(np.float32)[order],
        np.append(batch.group_ids, [0, 9])[order],
        np.append(batch.lengths, [7, 7])[order],
        np.append(batch.accuracies, [np.nan, 1]).astype(np.float32)[order],
        batch.reward_range,
    )
    np.testing.assert_allclose(advantages_of(failed, name), np.append(expected, [0, 0])[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", get_args(AdvantageName))
def test_equal_rewards_give_no_advantage_by_any_name(name: AdvantageName) -> None:
    batch = replace(outcomes(np.random.default_rng(2)), rewards=np.full(40, 0.1, dtype=np.float32))
    np.testing.assert_array_equal(advantages_of(batch, name), np.zeros(40))
