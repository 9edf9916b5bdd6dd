"""The doctor's model of a rank's memory against what the tensors of a rank really took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import programs
import pytest
from model_variants import make_variant

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.doctor.sizing import learner_rank_bytes, model_shape

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "programs" / "peak_memory.py"
MID: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "vocab_size": 8000,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}


def test_predicted_peaks_are_within_a_tenth_of_measured_ones(tmp_path: Path) -> None:
    """A tiny model, one of 30 million parameters, and that one with a head of its own."""
    make_variant(tmp_path / "tiny")
    make_variant(tmp_path / "mid", **MID)
    make_variant(tmp_path / "untied", tied=False, **MID)
    cases = [
        ("tiny", 800, 100, False),
        ("tiny", 800, 100, True),
        ("mid", 800, 100, True),
        ("mid", 200, 150, False),
        ("untied", 800, 600, False),
    ]
    arguments = [",".join([str(tmp_path / name), *map(str, rest)]) for name, *rest in cases]
    [said] = programs.run_ranks(PROGRAM, *arguments, num_ranks=1, logs=tmp_path, timeout_s=300)
    measured = [int(line.split()[1]) for line in said.splitlines() if line.startswith("PEAK")]
    assert len(measured) == len(cases)
    found = []
    for (name, tokens, response_tokens, checkpointing), peak in zip(cases, measured, strict=True):
        overrides = [f"model.path={tmp_path / name}", "model.freeze_vision_tower=true", "model.freeze_merger=true"]
        run = compose_run("grpo", GrpoRun, ["experiment=demo", *overrides])
        shape, learner = model_shape(run.model), replace(run.learner, gradient_checkpointing=checkpointing)
        parts = learner_rank_bytes(shape, run.model, learner, tokens=tokens, response_tokens=response_tokens)
        print(f"\n| {name} | {tokens} | {checkpointing} | {parts.total / 2**20:.1f} | {peak / 2**20:.1f} |")
        found.append((parts.total / peak, name, tokens, checkpointing))
    assert all(0.9 < ratio < 1.1 for ratio, *_ in found), found
