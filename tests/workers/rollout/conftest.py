"""Prompts, and a learner's stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rollout_checks import (
    SECONDS_PER_GRID,
    make_prompt,
)
from weight_source import LocalRanks, Source, TensorRank

from videor2_rl.model.weights import expected_weights
from videor2_rl.types import Prompt


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[Prompt]:
    return [make_prompt(tokenizer, seed=i, second_per_grid_s=s) for i, s in enumerate(SECONDS_PER_GRID)]


@pytest.fixture
def rank() -> TensorRank:
    return TensorRank()


@pytest.fixture
def source(rank: TensorRank, checkpoint: Path) -> Source:
    return Source(LocalRanks(rank), expected_weights(str(checkpoint)))
