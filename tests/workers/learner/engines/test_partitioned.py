"""ZeRO-3 loads a checkpoint without a whole copy of it in any rank's memory."""

from __future__ import annotations

import math
from pathlib import Path

import programs
import pytest
from model_variants import make_variant

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "programs" / "load_memory.py"


def peaks(folder: Path, case: str) -> list[int]:
    """Bytes of each of two ranks."""
    said = programs.run_ranks(
        PROGRAM, str(folder / "small"), str(folder / "large"), case, num_ranks=2, logs=folder, timeout_s=300
    )
    return [int(line.split()[1]) for text in said for line in text.splitlines() if line.startswith("PEAK")]


def test_no_rank_holds_the_whole_checkpoint_while_it_loads(tmp_path: Path) -> None:
    from videor2_rl.model.weights import expected_weights

    make_variant(tmp_path / "small", tied=False)
    layers = {"num_hidden_layers": 12, "hidden_size": 1024, "intermediate_size": 3072, "vocab_size": 16000}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    make_variant(tmp_path / "large", tied=False, dtype="bfloat16", **layers, **heads)
    shapes = expected_weights(str(tmp_path / "large")).shapes.values()
    sizes = [4 * math.prod(shape) for shape in shapes]
    whole, largest = sum(sizes), max(sizes)
    partitioned = peaks(tmp_path, "deepspeed_zero3-lora")
    assert len(partitioned) == 2
    # Half of the weights, two parameters that are whole for a moment, and the adapters with their state.
    assert max(partitioned) < whole / 2 + 2 * largest + 40 * 2**20
    # The measure sees a whole copy where there is one: ZeRO-2 keeps one on each rank.
    assert min(peaks(tmp_path, "deepspeed_zero2-lora")) > 0.95 * whole
