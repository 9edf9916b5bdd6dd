"""Every backend trains tied and untied checkpoints on one rank and on two as one rank of FSDP2 does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
from model_variants import make_variant

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "programs" / "train_briefly.py"
FLOAT32 = [f"{name}{adapter}" for name in ("fsdp2", "deepspeed_zero2", "deepspeed_zero3") for adapter in ("", "-lora")]
BFLOAT16 = ["fsdp2-lora-bf16", "deepspeed_zero3-lora-bf16"]


@pytest.fixture(scope="module", params=["tied", "untied"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three updates of every case, in a folder for each number of ranks."""
    folder = tmp_path_factory.mktemp(request.param)
    make_variant(folder / "model", tied=request.param == "tied")
    for num_ranks in (1, 2):
        output = folder / str(num_ranks)
        output.mkdir()
        arguments = (str(num_ranks), str(folder / "model"), str(output), *FLOAT32, *BFLOAT16)
        programs.run_ranks(PROGRAM, *arguments, num_ranks=num_ranks, logs=folder)
    return folder


def result(folder: Path, num_ranks: int, case: str) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Losses and gradient norms over all ranks step by step, and the weights at the end."""
    steps = json.loads((folder / str(num_ranks) / f"{case}.json").read_text())["steps"]
    with np.load(folder / str(num_ranks) / f"{case}.npz") as arrays:
        return steps, dict(arrays)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("case", FLOAT32)
def test_all_backends_train_as_one_rank_of_fsdp2_does(trained: Path, case: str, num_ranks: int) -> None:
    steps, weights = result(trained, num_ranks, case)
    base_steps, base = result(trained, 1, "fsdp2-lora" if case.endswith("lora") else "fsdp2")
    assert weights.keys() == base.keys()
    for ours, theirs in zip(steps, base_steps, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    # Adam divides by a gradient's size: a weight whose gradient is rounding alone goes its own way, by a part of the
    # learning rate of 1e-3. Two in a million do.
    apart = np.concatenate([np.abs(weights[name] - base[name]).ravel() for name in base])
    assert np.mean(apart >= 5e-6) < 1e-5 and apart.max() < 1e-4
    assert steps[-1]["loss"] < steps[0]["loss"] - 1e-3


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_papers_sft_set_up_trains_in_bfloat16(trained: Path, num_ranks: int) -> None:
    """ZeRO-3 with adapters, against FSDP2's float32 masters; bfloat16 has three digits."""
    steps, _ = result(trained, num_ranks, "deepspeed_zero3-lora-bf16")
    base_steps, _ = result(trained, 1, "fsdp2-lora-bf16")
    assert steps[0]["grad_norm"] == pytest.approx(base_steps[0]["grad_norm"], rel=2e-2)
    assert steps[-1]["loss"] == pytest.approx(base_steps[-1]["loss"], abs=5e-3)


@pytest.mark.parametrize("case", ["deepspeed_zero3", "deepspeed_zero3-lora-bf16", "deepspeed_zero2", "fsdp2-lora-bf16"])
def test_rotary_frequencies_are_those_of_the_formula(trained: Path, case: str) -> None:
    """10000 ** (-2i / d), where d is a head's width, and half of it in the vision tower; bfloat16 would round them."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(trained / "model")
    text, vision = config.text_config, config.vision_config
    widths = {
        "language": text.hidden_size // text.num_attention_heads,
        "vision": vision.hidden_size // vision.num_heads // 2,
    }
    found = json.loads((trained / "2" / f"{case}.json").read_text())["frequencies"]
    assert found.keys() == widths.keys()
    for name, width in widths.items():
        assert found[name] == pytest.approx(10000.0 ** (-np.arange(0, width, 2) / width), rel=1e-6)


@pytest.mark.parametrize("case", ["fsdp2", "fsdp2-lora"])
def test_between_two_micro_batches_a_rank_of_fsdp2_holds_gradients_of_its_shards_alone(
    trained: Path, case: str
) -> None:
    held = json.loads((trained / "2" / f"{case}.json").read_text())["gradients"]
    assert len(held) >= 2 and held[0] == {"whole": 0, "in_shards": 0}
    _, weights = result(trained, 2, case)
    language = sum(array.size for name, array in weights.items() if name.startswith("model.language_model."))
    for later in held[1:]:
        assert later["whole"] == 0
        # Of the language model half, and a little of the merger.
        assert 0 < later["in_shards"] < 0.6 * language
