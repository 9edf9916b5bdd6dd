"""Losses of packed micro-batches: hand-worked values, and independence of how a batch is split."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from videor2_rl.config import AlgorithmConfig
from videor2_rl.packing import MicroBatch
from videor2_rl.types import PromptHandle, TrainGroup

pytestmark = pytest.mark.slow

VOCABULARY = 12
ALGORITHM = AlgorithmConfig(
    num_steps=1,
    prompts_per_step=3,
    group_size=2,
    updates_per_batch=1,
    advantage="grpo",
    policy_loss="vanilla",
    clip_low=0.1,
    clip_high=0.2,
    loss_aggregation="token-mean",
    kl_coefficient=0.1,
    kl_estimator="low_var_kl",
    filter_zero_variance=False,
    mask_truncated=False,
    importance_cap=1.5,
    max_log_prob_gap=1.0,
)


def a_group(rng: np.random.Generator, group_id: int, lengths: tuple[int, ...]) -> TrainGroup:
    def log_probs() -> tuple[np.ndarray, ...]:
        return tuple(-rng.uniform(1.5, 3.5, n).astype(np.float32) for n in lengths)

    return TrainGroup(
        group_id=group_id,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=tuple(rng.integers(0, VOCABULARY, n) for n in lengths),
        advantages=rng.normal(size=len(lengths)).astype(np.float32),
        old_log_probs=log_probs(),
        ref_log_probs=log_probs(),
        rollout_log_probs=log_probs(),
    )


def run(ranks: list[list[MicroBatch]], logits: dict[int, torch.Tensor], algorithm: AlgorithmConfig) -> Any:
    """Metrics and the gradient with respect to the logits, averaged over ranks as FSDP does."""
    from workers import losses
    from workers.verl_config import UpdateSpec, actor_config

    counted = [g for batches in ranks for batch in batches if batch.counts for g in batch.groups]
    lengths = [len(ids) for group in counted for ids in group.response_ids]
    spec = UpdateSpec(algorithm, 0.7, sum(lengths), len(lengths), num_ranks=len(ranks), max_response_tokens=16)
    leaves = {group_id: values.clone().requires_grad_() for group_id, values in logits.items()}
    sums = []
    for batches in ranks:
        parts = []
        for batch in batches:
            ids = [ids for group in batch.groups for ids in group.response_ids]
            packed = SimpleNamespace(
                response_lengths=tuple(map(len, ids)), target_ids=torch.from_numpy(np.concatenate(ids))
            )
            rows = torch.cat([leaves[group.group_id] for group in batch.groups])
            loss, part = losses.policy_loss(rows, packed, batch, spec=spec, config=actor_config(spec))
            (loss / len(ranks)).backward()
            parts.append(part)
        sums.append(losses.to_sums(parts))
    return losses.update_metrics(sums), {group_id: leaf.grad for group_id, leaf in leaves.items()}


@pytest.fixture
def groups() -> list[TrainGroup]:
    rng = np.random.default_rng(0)
    return [a_group(rng, index, lengths) for index, lengths in enumerate([(3, 1), (7, 2), (4, 4)])]


@pytest.fixture
def logits(groups: list[TrainGroup]) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    return {g.group_id: torch.randn(sum(map(len, g.response_ids)), VOCABULARY) for g in groups}


AGGREGATIONS = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
VARIANTS = [("vanilla", aggregation) for aggregation in AGGREGATIONS]
VARIANTS += [(name, "token-mean") for name in ("gspo", "sapo", "gpg", "cispo", "dppo_tv", "dppo_kl", "geo_mean")]


@pytest.mark.parametrize(("policy_loss", "aggregation"), VARIANTS)
def test_splitting_a_batch_changes_neither_gradient_nor_metrics(groups, logits, policy_loss, aggregation):
    algorithm = replace(ALGORITHM, policy_loss=policy_loss, loss_aggregation=aggregation)
    whole = [[MicroBatch(tuple(groups))]]
    filler = MicroBatch((groups[0],), counts=False)
    split = [[MicroBatch((groups[1],)), MicroBatch((groups[0],))], [MicroBatch((groups[2],)), filler]]
    metrics, gradient = run(whole, logits, algorithm)
    split_metrics, split_gradient = run(split, logits, algorithm)
    assert split_metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        assert split_metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for group_id, expected in gradient.items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(split_gradient[group_id], expected, rtol=1e-5, atol=1e-7)


def test_every_supported_loss_is_covered():
    from workers.verl_config import GLOBALLY_NORMALISED_LOSSES

    assert {name for name, _ in VARIANTS} == set(GLOBALLY_NORMALISED_LOSSES)


def test_policy_loss_by_hand():
    """Two tokens of one response, old log-probs chosen to give the ratios 1.5 and 0.5, advantage 1, reference = old."""
    token = np.array([0, 1])
    rows = torch.zeros(2, VOCABULARY)
    log_prob = -np.log(VOCABULARY)
    old = np.array([log_prob - np.log(1.5), log_prob - np.log(0.5)], dtype=np.float32)
    group = TrainGroup(
        group_id=0,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=(token,),
        advantages=np.array([1.0], dtype=np.float32),
        old_log_probs=(old,),
        ref_log_probs=(old,),
    )
    metrics, _ = run([[MicroBatch((group,))]], {0: rows}, ALGORITHM)
    # The first ratio is clipped at 1.2, the second is not clipped from below for a positive advantage.
    assert metrics["actor/pg_loss"] == pytest.approx(-(1.2 + 0.5) / 2)
    # k3 of log(ref / policy) = -log(ratio): exp(x) - x - 1.
    kl = ((1 / 1.5 + np.log(1.5) - 1) + (1 / 0.5 + np.log(0.5) - 1)) / 2
    assert metrics["actor/kl"] == pytest.approx(kl, rel=1e-5)
    assert metrics["actor/loss"] == pytest.approx(-0.85 + 0.1 * kl, rel=1e-5)
    assert metrics["actor/clip_frac"] == pytest.approx(0.5)
    assert metrics["actor/ratio_mean"] == pytest.approx(1.0)
    assert metrics["actor/ratio_max"] == pytest.approx(1.5)
    assert metrics["actor/entropy"] == pytest.approx(np.log(VOCABULARY), rel=1e-5)
    assert metrics["actor/tokens"] == 2
    assert "actor/importance_weight" not in metrics
