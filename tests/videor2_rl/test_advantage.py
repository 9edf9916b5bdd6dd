from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.advantage import grpo_advantages, zero_variance


def advantages(rewards, group_ids, *, scale_by_std=True):
    return grpo_advantages(np.array(rewards, dtype=np.float32), np.array(group_ids), scale_by_std=scale_by_std)


def test_advantages_by_hand():
    # Group 7: mean 2, sample deviation sqrt(2); group 3: mean 1, deviation 1.
    found = advantages([1.0, 0.0, 3.0, 1.0, 2.0], [7, 3, 7, 3, 3])
    np.testing.assert_allclose(found, [-(0.5**0.5), -1.0, 0.5**0.5, 0.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(advantages([1.0, 3.0], [7, 7], scale_by_std=False), [-1.0, 1.0])


def test_failed_members_leave_the_statistics():
    np.testing.assert_array_equal(
        advantages([1.0, np.nan, 3.0], [0] * 3)[[0, 2, 1]], [*advantages([1.0, 3.0], [0] * 2), 0]
    )


def test_groups_without_two_valid_members_get_zero():
    assert advantages([5.0, np.nan, 4.0, np.nan, np.nan], [0, 0, 1, 2, 2]).tolist() == [0.0] * 5


def test_equal_rewards_give_exactly_zero():
    assert advantages([0.1] * 7, [0] * 7).tolist() == [0.0] * 7


def test_zero_variance_groups():
    rewards = np.array([1.0, 1.0, 1.0, 2.0, 3.0, np.nan, np.nan], dtype=np.float32)
    groups = np.array([0, 0, 1, 1, 2, 2, 3])
    assert zero_variance(rewards, groups) == {0: True, 1: False, 2: True, 3: True}


def test_mismatched_or_infinite_input_is_refused():
    with pytest.raises(ValueError, match="one group id per reward"):
        advantages([1.0], [0, 0])
    with pytest.raises(ValueError, match="infinite"):
        advantages([np.inf, 1.0], [0, 0])


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10, width=32)), min_size=1, max_size=24), st.randoms())
def test_row_order_does_not_matter_and_groups_are_centred(rows, random):
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
def test_advantages_equal_verls(scale_by_std):
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rng = np.random.default_rng(0)
    rewards, ids = rng.normal(size=40).astype(np.float32), rng.integers(0, 5, 40)
    expected, _ = compute_grpo_outcome_advantage(
        torch.tensor(rewards)[:, None], torch.ones(40, 1), ids, norm_adv_by_std_in_grpo=scale_by_std
    )
    np.testing.assert_allclose(advantages(rewards, ids, scale_by_std=scale_by_std), expected[:, 0], atol=1e-5)
