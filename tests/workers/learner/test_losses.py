"""Losses of packed micro-batches: the papers' formulas in plain loops, and independence of how a batch is split."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from loss_cases import AGGREGATIONS, ALGORITHM, NAMED, OTHER_LOSSES, VOCABULARY, algorithm_of, run, scores_of
from loss_formulas import by_formula
from torch import Tensor

from videor2_rl.model.packing import MicroBatch, PackedBatch, only_in_loss
from videor2_rl.training.gap import gap_metrics, measure_gap
from videor2_rl.types import Group, LogProbs, PromptHandle, Rollout, TrainGroup

pytestmark = pytest.mark.slow

# GSPO with weights is its token form, whose gradient is another one.
WEIGHTED = [name for name in (*NAMED, *OTHER_LOSSES) if name != "gspo"]


@pytest.mark.parametrize(
    ("name", "weighted"),
    [(name, False) for name in (*NAMED, *OTHER_LOSSES)] + [(name, True) for name in WEIGHTED],
)
def test_loss_and_gradient_are_those_of_the_papers_formula(
    near: list[TrainGroup], logits: dict[int, Tensor], name: str, weighted: bool
) -> None:
    algorithm = algorithm_of(name)
    if not weighted:
        near = [replace(group, rollout_log_probs=None) for group in near]
    metrics, gradient = run([[MicroBatch(tuple(near))]], logits, algorithm)
    pg_loss, loss, expected = by_formula(near, logits, algorithm)
    assert metrics["actor/pg_loss"] == pytest.approx(pg_loss, rel=1e-4, abs=1e-6)
    assert metrics["actor/loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    for group_id, values in expected.items():
        assert values.abs().max() > 0
        torch.testing.assert_close(gradient[group_id].double(), values, rtol=1e-3, atol=2e-7)
    if algorithm.policy_loss not in ("gpg", "sapo"):
        assert 0 < metrics["actor/clip_frac"] + metrics["actor/dual_clip_frac"] < 1


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES])
def test_without_old_log_probs_the_policy_is_its_own_old_one(
    near: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    """In two passes on each of two ranks: loss, gradient, importance weights, and the gap to the rollouts."""
    algorithm = algorithm_of(name)
    present, learner, engine = [], [], []
    for group in near:
        assert group.rollout_log_probs is not None
        lengths = [len(ids) for ids in group.response_ids]
        targets = torch.from_numpy(np.concatenate(group.response_ids))
        scores = scores_of(logits[group.group_id], targets, temperature=0.7)
        old, raw = (
            tuple(part.numpy() for part in values.split(lengths)) for values in (scores.log_probs, scores.raw_log_probs)
        )
        # GSPO's weighted form has another gradient than the formula below.
        sampled = group.rollout_log_probs if name in WEIGHTED else None
        present.append(replace(group, old_log_probs=old, rollout_log_probs=sampled))
        learner.append(LogProbs(group.group_id, old, raw))
        rollouts = zip(group.response_ids, group.rollout_log_probs, strict=True)
        engine.append(Group(group.group_id, "s", tuple(Rollout(ids, lps, "", "stop", 0) for ids, lps in rollouts)))
    ours = [replace(group, old_log_probs=None) for group in near]
    filler = MicroBatch((replace(ours[0], rollout_log_probs=nan_like(ours[0].rollout_log_probs)),), counts=False)
    ranks = [[MicroBatch((ours[2],)), MicroBatch((ours[0],))], [MicroBatch((ours[1],)), filler]]
    cap = algorithm.importance_cap if name in WEIGHTED else None
    metrics, gradient = run(ranks, logits, replace(algorithm, importance_cap=cap))

    pg_loss, loss, expected = by_formula(present, logits, algorithm)
    assert metrics["actor/pg_loss"] == pytest.approx(pg_loss, rel=1e-5, abs=1e-6)
    assert metrics["actor/loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert metrics["actor/ratio_mean"] == metrics["actor/ratio_max"] == 1
    assert metrics["actor/clip_frac"] == metrics["actor/dual_clip_frac"] == 0
    for group_id, values in expected.items():
        assert values.abs().max() > 0
        torch.testing.assert_close(gradient[group_id].double(), values, rtol=1e-4, atol=2e-7)
    gap = gap_metrics(measure_gap(engine, learner, is_tempered=False))
    assert gap["rollout/log_prob_gap_max"] > 0.1
    assert {key: metrics[key] for key in gap} == pytest.approx(gap, rel=1e-6)


def nan_like(values: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.full_like(value, np.nan) for value in values)


@pytest.mark.parametrize("place", [0, 2])
def test_a_gap_that_is_not_a_number_is_the_largest(
    near: list[TrainGroup], logits: dict[int, Tensor], place: int
) -> None:
    ours = [replace(group, old_log_probs=None) for group in near]
    ours[place] = replace(ours[place], rollout_log_probs=nan_like(ours[place].rollout_log_probs))
    metrics, _ = run([[MicroBatch((group,)) for group in ours]], logits, ALGORITHM)
    assert math.isnan(metrics["rollout/log_prob_gap_max"])
    assert metrics["rollout/log_prob_gap_max_group"] == ours[place].group_id


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_ratio_cap_bounds_the_loss_where_the_advantage_is_negative(advantage: float) -> None:
    """A token four times as probable as when it was sampled."""
    log_prob = -np.log(VOCABULARY)
    old = np.array([log_prob - np.log(4)], dtype=np.float32)
    group = TrainGroup(
        group_id=0,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=(np.array([0]),),
        advantages=np.array([advantage], dtype=np.float32),
        old_log_probs=(old,),
    )
    algorithm = replace(ALGORITHM, kl_coefficient=0.0, importance_cap=None)
    for cap, expected in ((None, 4.0), (3.0, 3.0)):
        metrics, _ = run([[MicroBatch((group,))]], {0: torch.zeros(1, VOCABULARY)}, replace(algorithm, ratio_cap=cap))
        assert metrics["actor/pg_loss"] == pytest.approx(expected if advantage < 0 else -1.2, rel=1e-5)


def reordered(group: TrainGroup, order: tuple[int, ...]) -> TrainGroup:
    assert group.advantages is not None

    def pick(values: Any) -> Any:
        return tuple(values[i] for i in order)

    return replace(
        group,
        response_ids=pick(group.response_ids),
        advantages=group.advantages[list(order)],
        old_log_probs=pick(group.old_log_probs),
        ref_log_probs=pick(group.ref_log_probs),
        rollout_log_probs=pick(group.rollout_log_probs),
    )


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES])
def test_order_of_groups_and_responses_does_not_matter(
    groups: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    metrics, gradient = run([[MicroBatch(tuple(groups))]], logits, algorithm_of(name))
    turned = [reordered(group, (1, 0)) for group in groups[::-1]]
    lengths = {group.group_id: [len(ids) for ids in group.response_ids] for group in groups}
    swapped = {i: torch.cat(rows.split(lengths[i])[::-1]) for i, rows in logits.items()}
    other_metrics, other_gradient = run([[MicroBatch(tuple(turned))]], swapped, algorithm_of(name))
    assert other_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    for i, rows in gradient.items():
        back = torch.cat(other_gradient[i].split(lengths[i][::-1])[::-1])
        torch.testing.assert_close(back, rows, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES])
def test_nan_out_of_the_loss_reaches_neither_metrics_nor_gradient(
    groups: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    """In a repeat that weighs nothing, and in a response that is kept out of the loss."""

    def spoilt(group: TrainGroup, *, kept: tuple[bool, ...]) -> TrainGroup:
        def fill(values: Any) -> Any:
            return tuple(v if keep else np.full_like(v, np.nan) for v, keep in zip(values, kept, strict=True))

        assert group.advantages is not None
        return replace(
            group,
            advantages=np.where(kept, group.advantages, np.float32(np.nan)),
            old_log_probs=fill(group.old_log_probs),
            ref_log_probs=fill(group.ref_log_probs),
            rollout_log_probs=fill(group.rollout_log_probs),
        )

    expected, gradient = run([[MicroBatch(tuple(groups))]], logits, algorithm_of(name))
    filler = MicroBatch((spoilt(groups[0], kept=(False, False)),), counts=False)
    found, other_gradient = run([[MicroBatch(tuple(groups)), filler]], logits, algorithm_of(name))
    assert found == pytest.approx(expected)
    torch.testing.assert_close(other_gradient, gradient)

    first = replace(spoilt(groups[0], kept=(True, False)), in_loss=np.array([True, False]))
    rows = {**logits, 0: logits[0][:3]}
    found, _ = run([[MicroBatch((only_in_loss(first), *groups[1:]))]], rows, algorithm_of(name))
    clean, _ = run([[MicroBatch((reordered(groups[0], (0,)), *groups[1:]))]], rows, algorithm_of(name))
    assert found == pytest.approx(clean)
    assert all(np.isfinite(value) for value in found.values())


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES, *AGGREGATIONS])
def test_splitting_a_batch_changes_neither_gradient_nor_metrics(
    groups: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    algorithm = algorithm_of(name)
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


def test_every_supported_loss_is_covered() -> None:
    from workers.learner.verl_config import GLOBALLY_NORMALISED_LOSSES

    assert {algorithm_of(name).policy_loss for name in (*NAMED, *OTHER_LOSSES)} == set(GLOBALLY_NORMALISED_LOSSES)


def test_policy_loss_by_hand() -> None:
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


def test_the_sft_loss_is_the_mean_over_all_tokens_of_the_batch_however_it_is_split() -> None:
    """One token of probability 3/4 on the first rank, two of 1/4 on the second; a repeat that weighs nothing."""
    from workers.learner import losses

    group = TrainGroup(0, PromptHandle("s", "c", 3, None), (np.array([0]),))

    def rank(targets: list[int], *, counts: bool = True) -> Any:
        rows = torch.tensor([[math.log(3), 0.0]] * len(targets), requires_grad=True)
        packed = cast(PackedBatch, SimpleNamespace(response_lengths=(len(targets),), target_ids=torch.tensor(targets)))
        scores = scores_of(rows, packed.target_ids, temperature=1.0)
        loss, part = losses.sft_loss(scores, packed, MicroBatch((group,), counts=counts), batch_tokens=3, num_ranks=2)
        loss.backward()
        return part, rows.grad

    (first, _), (second, gradient), (repeat, nothing) = rank([0]), rank([1, 1]), rank([0], counts=False)
    metrics = losses.sft_metrics([losses.to_sums([first, repeat]), losses.to_sums([second])])
    assert metrics == pytest.approx({"sft/loss": (math.log(4 / 3) + 2 * math.log(4)) / 3, "sft/tokens": 3})
    # Softmax less one-hot, over 3 tokens, times 2 ranks that are averaged.
    torch.testing.assert_close(gradient, torch.tensor([[0.75, -0.75]] * 2) / 3 * 2)
    assert not nothing.any()


def test_entropy_is_that_of_the_softmax_at_the_sampling_temperature() -> None:
    """At 0.7 the first row is (3/4, 1/4), the second (1/2, 1/2)."""
    rows = torch.tensor([[0.7 * math.log(3), 0.0], [1.0, 1.0]])
    zeros = np.zeros(2, dtype=np.float32)
    group = TrainGroup(
        group_id=0,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=(np.array([0, 1]),),
        advantages=np.array([1.0], dtype=np.float32),
        old_log_probs=(zeros,),
        ref_log_probs=(zeros,),
    )
    metrics, _ = run([[MicroBatch((group,))]], {0: rows}, ALGORITHM)
    first, second = math.log(4) - 0.75 * math.log(3), math.log(2)
    assert metrics["actor/entropy"] == pytest.approx((first + second) / 2, rel=1e-6)
