"""Three groups, their logits, and old log-probs near those."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_cases import VOCABULARY, a_group
from torch import Tensor

from videor2_rl.types import TrainGroup


@pytest.fixture
def groups() -> list[TrainGroup]:
    rng = np.random.default_rng(0)
    return [a_group(rng, index, lengths) for index, lengths in enumerate([(3, 1), (7, 2), (4, 4)])]


@pytest.fixture
def logits(groups: list[TrainGroup]) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    return {g.group_id: torch.randn(sum(map(len, g.response_ids)), VOCABULARY) for g in groups}


@pytest.fixture
def near(groups: list[TrainGroup], logits: dict[int, Tensor]) -> list[TrainGroup]:
    """The groups with old log-probs so near the present ones that some ratios are clipped and some are not; and with
    reference and rollouts near too, for verl limits the KL penalty of a token to 10."""
    rng = np.random.default_rng(1)
    moved, scale = [], iter((1e-4, 0.3, 5e-4, 0.1, 2e-4, 3.0))
    for group in groups:
        rows = (logits[group.group_id] / 0.7).log_softmax(-1).numpy()
        taken = rows[np.arange(len(rows)), np.concatenate(group.response_ids)]
        present = np.split(taken, np.cumsum([len(ids) for ids in group.response_ids])[:-1])
        old = tuple((lp + rng.normal(size=len(lp)) * next(scale)).astype(np.float32) for lp in present)
        rollout, ref = (tuple((lp + rng.normal(size=len(lp)) * 0.3).astype(np.float32) for lp in old) for _ in range(2))
        moved.append(replace(group, old_log_probs=old, rollout_log_probs=rollout, ref_log_probs=ref))
    return moved
