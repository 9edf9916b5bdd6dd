"""FSDP2 and DeepSpeed compute the same training, adapters included: two gloo ranks each, no Ray.

`pytest tests/workers/learner/engines/test_engines.py -s` prints the table of docs/backends.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import packed_prompts
import programs
import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "programs" / "train_backend.py"
FULL = ("fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
ADAPTED = ("fsdp2-lora", "deepspeed_zero2-lora", "deepspeed_zero3-lora", "fsdp2-dora")
SGD = ("fsdp2-sgd", "deepspeed_zero2-sgd")
BFLOAT16 = ("fsdp2-bf16", "deepspeed_zero2-bf16")
CASES = [(case, stage) for case in FULL for stage in ("sft", "grpo")]
CASES += [(case, "grpo") for case in (*ADAPTED, *SGD, *BFLOAT16)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of SFT and of GRPO with each backend, of GRPO with adapters; the last four again from a checkpoint."""
    from videor2_rl.demo.model import make_model

    folder = tmp_path_factory.mktemp("backends")
    make_model(folder / "model", seed=0)
    cases = [*FULL, *ADAPTED, *SGD, *BFLOAT16]
    programs.run_ranks(PROGRAM, str(folder / "model"), str(folder), *cases, num_ranks=2, logs=folder)
    return folder


def result(folder: Path, case: str, stage: str) -> dict[str, Any]:
    return json.loads((folder / f"{case}_{stage}.json").read_text())


def weights(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def differences(folder: Path, case: str, stage: str, *, base: str) -> dict[str, float]:
    """Largest absolute difference of losses and weights, largest relative one of gradient norms."""
    ours, theirs = result(folder, case, stage)["steps"], result(folder, base, stage)["steps"]
    mine, other = weights(folder, f"{case}_{stage}"), weights(folder, f"{base}_{stage}")
    assert mine.keys() == other.keys()
    return {
        "loss": max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True)),
        "grad_norm": max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(ours, theirs, strict=True)),
        "weights": max(float(np.abs(mine[name] - other[name]).max()) for name in mine),
    }


@pytest.mark.parametrize(
    ("case", "stage"), [case for case in CASES if not case[0].startswith("fsdp2") and case[0] not in BFLOAT16]
)
def test_deepspeed_trains_as_fsdp2_does(trained: Path, case: str, stage: str) -> None:
    _, _, adapter = case.partition("-")
    found = differences(trained, case, stage, base=f"fsdp2-{adapter}" if adapter else "fsdp2")
    print(f"\n| {case} | {stage} | {found['loss']:.1e} | {found['grad_norm']:.1e} | {found['weights']:.1e} |")
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize("case", BFLOAT16)
def test_bfloat16_trains_nearly_as_float32_does(trained: Path, case: str) -> None:
    """The same first pass; then DeepSpeed's masters begin at weights that bfloat16 has rounded, FSDP2's do not."""
    ours, theirs = (result(trained, name, "grpo")["steps"] for name in (case, "fsdp2"))
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-4)
    assert ours[0]["grad_norm"] == pytest.approx(theirs[0]["grad_norm"], rel=1e-2)
    tolerance = 2e-3 if case.startswith("fsdp2") else 1e-2
    assert ours[-1]["loss"] == pytest.approx(theirs[-1]["loss"], abs=tolerance)
    # It did compute in bfloat16.
    assert ours[0]["grad_norm"] != pytest.approx(theirs[0]["grad_norm"], rel=1e-5)


@pytest.mark.parametrize(("case", "stage"), CASES)
def test_training_changes_the_model_and_resumes_exactly(trained: Path, case: str, stage: str) -> None:
    ours = result(trained, case, stage)
    assert ours["steps"][-1]["loss"] < ours["steps"][0]["loss"] - 0.01
    assert ours["again"] == ours["steps"][-len(ours["again"]) :]
    end, restored = weights(trained, f"{case}_{stage}"), weights(trained, f"{case}_{stage}_restored")
    assert all(np.array_equal(end[name], restored[name]) for name in end)


@pytest.mark.parametrize("case", ADAPTED)
def test_without_its_adapter_the_model_is_the_one_it_began_as(trained: Path, case: str) -> None:
    ours = result(trained, case, "grpo")
    assert ours["without_adapter"] == pytest.approx(ours["at_start"], abs=1e-6)
    assert max(abs(np.subtract(ours["at_end"], ours["at_start"]))) > 0.01
    # Beginning with an adapter is beginning without one.
    assert ours["at_start"] == pytest.approx(result(trained, "fsdp2", "grpo")["at_start"], abs=1e-5)


@pytest.mark.parametrize("case", ADAPTED)
def test_merged_weights_are_an_ordinary_model_that_computes_the_same(trained: Path, case: str) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(trained / "model", dtype=torch.float32)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    merged = {name: torch.tensor(array) for name, array in weights(trained, f"{case}_grpo").items()}
    network.load_state_dict(merged)
    changed = {name for name in start if not torch.equal(start[name], merged[name])}
    linear = {f"{name}.weight" for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)}
    assert changed == {name for name in linear if name.startswith("model.language_model.")}
    assert plain_log_probs(network, trained) == pytest.approx(result(trained, case, "grpo")["at_end"], abs=1e-5)


@pytest.mark.parametrize("case", ADAPTED)
def test_frozen_visual_embeddings_computed_once_give_the_same_training(trained: Path, case: str) -> None:
    reuse = result(trained, case, "grpo")["reuse"]
    pixels, embeddings = reuse["pixels"], reuse["embeddings"]
    # A few units in the last place of a float32 near 7; how many, depends on the CPU.
    assert embeddings["log_probs"] == pytest.approx(pixels["log_probs"], abs=6e-6)
    for ours, theirs in zip(embeddings["steps"], pixels["steps"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-7)
    # Five clips on two ranks: rank 0 encodes three. Afterwards no pass runs the tower, where it ran in all of them.
    assert reuse["encodings"] == 3
    assert embeddings["tower_passes"] == 0
    assert pixels["tower_passes"] >= 6


def plain_log_probs(network: Any, folder: Path) -> list[float]:
    """Of the program's responses by transformers alone."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder / "model").video_processor
    found: list[float] = []
    for group in packed_prompts.make_groups(folder / "model"):
        for values in packed_prompts.plain_log_probs(
            network, processor, group.prompt.ref, group.response_ids, temperature=1.0
        ):
            found += values.tolist()
    return found
