"""What the learner makes of log-probs of other weights: importance weights, and the gap to the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from loss_cases import ALGORITHM, run
from torch import Tensor

from videor2_rl.model.packing import MicroBatch
from videor2_rl.types import TrainGroup

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beyond", ["truncate", "mask"])
def test_importance_weights_of_every_kind_are_those_of_the_definition(
    near: list[TrainGroup], logits: dict[int, Tensor], level: Any, beyond: Any
) -> None:
    cap = 1.25
    algorithm = replace(
        ALGORITHM,
        importance_cap=cap,
        importance_level=level,
        importance_beyond=beyond,
        kl_coefficient=0.0,
        clip_low=1.0,
        clip_high=1e6,
    )
    metrics, _ = run([[MicroBatch(tuple(near[:2]))], [MicroBatch(tuple(near[2:]))]], logits, algorithm)
    ratios, terms = [], []
    for group in near:
        rows = (logits[group.group_id].double() / 0.7).log_softmax(-1).numpy()
        start = 0
        assert group.old_log_probs is not None and group.rollout_log_probs is not None and group.advantages is not None
        for index, ids in enumerate(group.response_ids):
            old, rollout = (
                values[index].astype(np.float64) for values in (group.old_log_probs, group.rollout_log_probs)
            )
            r = np.exp(old - rollout) if level == "token" else np.full(len(ids), np.exp((old - rollout).sum()))
            new = rows[np.arange(start, start + len(ids)), ids]
            weights = np.minimum(r, cap) if beyond == "truncate" else np.where((r <= cap) & (r >= 1 / cap), r, 0)
            ratios.append(r)
            terms.append(-np.exp(new - old) * group.advantages[index] * weights)
            start += len(ids)
    flat = np.concatenate(ratios)
    assert 0 < np.mean(flat > cap) < 1
    assert metrics["actor/pg_loss"] == pytest.approx(np.concatenate(terms).mean(), rel=1e-5)
    assert metrics["actor/importance_ratio"] == pytest.approx(flat.mean(), rel=1e-5)
    assert metrics["actor/effective_sample_frac"] == pytest.approx(flat.sum() ** 2 / (len(flat) * (flat**2).sum()))
    masked = np.mean((flat > cap) | (flat < 1 / cap)) if beyond == "mask" else 0.0
    assert metrics["actor/importance_masked_frac"] == pytest.approx(masked)
    if beyond == "truncate":
        assert metrics["actor/importance_weight"] == pytest.approx(np.minimum(flat, cap).mean(), rel=1e-5)


def test_a_batch_whose_tokens_are_all_masked_teaches_nothing(near: list[TrainGroup], logits: dict[int, Tensor]) -> None:
    far = [replace(g, rollout_log_probs=tuple(values - 5 for values in g.rollout_log_probs or ())) for g in near]
    algorithm = replace(ALGORITHM, importance_beyond="mask")
    metrics, gradient = run([[MicroBatch(tuple(far))]], logits, algorithm)
    assert metrics["actor/loss"] == 0 and metrics["actor/importance_masked_frac"] == 1
    assert all(values.abs().max() == 0 for values in gradient.values())


def test_only_what_the_present_policy_sampled_has_to_agree_with_the_engine(
    near: list[TrainGroup], logits: dict[int, Tensor]
) -> None:
    ours = [replace(group, old_log_probs=None) for group in near]
    all_metrics, _ = run([[MicroBatch(tuple(ours))]], logits, ALGORITHM)
    stale = [replace(group, is_fresh=np.array([False, True])) for group in ours]
    metrics, _ = run([[MicroBatch(tuple(stale))]], logits, ALGORITHM)
    # Of the second responses alone: recomputed from the logits at temperature 1.
    gaps = []
    for group in near:
        rows, first = logits[group.group_id].double().log_softmax(-1).numpy(), len(group.response_ids[0])
        ids = group.response_ids[1]
        assert group.rollout_log_probs is not None
        gaps.append(np.abs(rows[np.arange(first, first + len(ids)), ids] - group.rollout_log_probs[1]))
    assert metrics["rollout/log_prob_gap_mean"] == pytest.approx(np.concatenate(gaps).mean(), rel=1e-5)
    assert metrics["rollout/log_prob_gap_mean"] != pytest.approx(all_metrics["rollout/log_prob_gap_mean"], rel=1e-2)
    assert metrics["actor/loss"] == all_metrics["actor/loss"]
    none = [replace(group, is_fresh=np.array([False, False])) for group in ours]
    metrics, _ = run([[MicroBatch(tuple(none))]], logits, ALGORITHM)
    assert "rollout/log_prob_gap_mean" not in metrics
