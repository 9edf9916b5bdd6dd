"""Published checkpoints on the meta device: what trains, what gets adapters, and what FSDP2 shards."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import published
import pytest
import torch

from videor2_rl.config.runs import SftRun
from videor2_rl.doctor.sizing import gathered_bytes, model_shape, state_bytes
from videor2_rl.model.weights import expected_weights
from workers.learner.engines.fsdp import freeze
from workers.learner.engines.lora import add_adapters, parameter_groups, plain_weights
from workers.learner.verl_config import learner_worker_config


def frozen_as_configured(name: str, run: SftRun) -> Any:
    """As `PackedFSDPEngine._build_module` leaves it."""
    network = published.build(name)
    freeze(network, vision_tower=True, merger=True, language_model=False)
    with torch.device("meta"):
        return add_adapters(network, run.model.lora) if run.model.lora.rank else network


@pytest.mark.parametrize("name", published.NAMES)
def test_parameters_are_those_of_the_published_weights(name: str) -> None:
    expected = expected_weights(str(published.FOLDER / name))
    assert sum(torch.Size(shape).numel() for shape in expected.shapes.values()) == published.TOTALS[name]
    assert sum(published.parameters_by_part(name).values()) == published.TOTALS[name]
    assert expected.tied == ({"lm_head.weight"} if published.read_config(name)["tie_word_embeddings"] else set())


@pytest.mark.parametrize("name", published.NAMES)
def test_freezing_leaves_exactly_the_other_parts(name: str) -> None:
    network, sizes = published.build(name), published.parameters_by_part(name)
    for frozen in itertools.product([False, True], repeat=3):
        is_frozen = dict(zip(("vision_tower", "merger", "language_model"), frozen, strict=True))
        freeze(network, **is_frozen)
        trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        assert trainable == sum(size for part, size in sizes.items() if not is_frozen[part]), is_frozen


@pytest.mark.parametrize("name", published.NAMES)
def test_each_part_has_its_own_learning_rate(name: str) -> None:
    groups = parameter_groups(published.build(name), vision_tower=2e-6, merger=3e-6)
    found = {group.get("lr"): sum(parameter.numel() for parameter in group["params"]) for group in groups}
    sizes = published.parameters_by_part(name)
    assert found == {None: sizes["language_model"], 2e-6: sizes["vision_tower"], 3e-6: sizes["merger"]}


@pytest.mark.parametrize("name", published.NAMES)
def test_adapters_are_on_every_linear_layer_of_the_language_model_and_on_no_other(name: str) -> None:
    run = published.paper_run(published.FOLDER / name)
    adapted = frozen_as_configured(name, run)
    text = published.text_config(name)
    shapes = {
        f"base_model.model.model.language_model.layers.{layer}.{linear}": shape
        for layer in range(text["num_hidden_layers"])
        for linear, shape in published.linear_shapes(text).items()
    }
    suffix = ".lora_A.default.weight"
    found = {parameter.removesuffix(suffix) for parameter, _ in adapted.named_parameters() if suffix in parameter}
    assert found == shapes.keys()
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert trainable == run.model.lora.rank * sum(sum(shape) for shape in shapes.values())
    assert trainable == model_shape(run.model).lora_parameters


# --- FSDP2: verl's wrapping with our engine's settings, as `FSDPEngine._build_fsdp_module` applies it ---------------


@pytest.fixture(scope="module")
def engine_settings(published_folder: Callable[[str], Path]) -> Any:
    run = published.paper_run(published_folder("Qwen2.5-VL-7B-Instruct"))
    return learner_worker_config(run.learner, run.model, total_steps=1).engine_config


@pytest.mark.slow
@pytest.mark.parametrize("name", published.NAMES)
def test_fsdp2_shards_every_block_by_itself(name: str, engine_settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils import fsdp_utils

    network = published.build(name)
    names = {part: path for path, part in network.named_modules()}
    units: list[str] = []
    monkeypatch.setattr(fsdp_utils, "fully_shard", lambda part, **_: units.append(names[part]))
    fsdp_utils.apply_fsdp2(network, {}, engine_settings)
    assert len(units) == len(set(units)) and set(units) == expected_units(name)

    run = published.paper_run(published.FOLDER / name, lora_rank=0)
    sizes = unit_sizes(network, units)
    whole = sum(size for unit, size in sizes.items() if ".blocks." not in unit and ".layers." not in unit)
    whole += 2 * sizes["model.language_model.layers.0"]
    # Where they are a unit of their own, they are left before the first layer.
    whole -= sizes.get("model.language_model.embed_tokens", 0)
    assert gathered_bytes(model_shape(run.model), run.model, run.learner) == pytest.approx(2 * whole, rel=0.01)


def unit_sizes(network: Any, units: list[str]) -> Counter[str]:
    """Parameters that each unit gathers by itself: those that no unit inside of it holds."""
    sizes: Counter[str] = Counter()
    for path, parameter in network.named_parameters():
        sizes[max((unit for unit in units if path.startswith(f"{unit}." if unit else "")), key=len)] += (
            parameter.numel()
        )
    return sizes


def expected_units(name: str) -> set[str]:
    """Every block; embeddings and head where they are two tensors; and the root, which holds the rest."""
    config = published.read_config(name)
    units = {"", *(f"model.language_model.layers.{i}" for i in range(published.text_config(name)["num_hidden_layers"]))}
    # 32 in Qwen2.5-VL (arXiv:2502.13923), where the 32B file does not say it.
    units |= {f"model.visual.blocks.{i}" for i in range(config["vision_config"].get("depth", 32))}
    if not config["tie_word_embeddings"]:
        units |= {"model.language_model.embed_tokens", "lm_head"}
    return units | ({"model.visual.pos_embed"} if config["model_type"] == "qwen3_vl" else set())


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Rank 0 of 8 ranks that exist by name only; nothing is ever communicated."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield init_device_mesh("cpu", (8,))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_rank_of_eight_keeps_what_the_doctor_says(mesh: Any, engine_settings: Any) -> None:
    """The 7B with the paper's adapters, really sharded."""
    from torch.distributed.fsdp import FSDPModule
    from verl.utils.fsdp_utils import apply_fsdp2

    name = "Qwen2.5-VL-7B-Instruct"
    run = published.paper_run(published.FOLDER / name)
    network = frozen_as_configured(name, run)
    apply_fsdp2(network, {"mesh": mesh}, engine_settings)
    units = {path for path, part in network.named_modules() if isinstance(part, FSDPModule)}
    assert {path.removeprefix("base_model.model.") for path in units} == expected_units(name)
    kept = [(shard.to_local().numel(), shard.requires_grad) for shard in network.parameters()]
    # Weights, and for what trains gradients and Adam's two moments, in float32.
    bytes_kept = sum(4 * size + 12 * size * trains for size, trains in kept)
    assert run.learner.num_ranks == 8
    sent = plain_weights(
        network.state_dict(),
        lambda shard, _: torch.empty(shard.shape, device="meta"),
        torch.bfloat16,
        lora=run.model.lora,
    )
    assert {key: tuple(tensor.shape) for key, tensor in sent} == expected_weights(run.model.path).shapes
    assert state_bytes(model_shape(run.model), run.model, run.learner).device == pytest.approx(bytes_kept, rel=1e-3)
