"""Adapters: which layers get one, what trains, and that merging is what peft itself merges to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LoraConfig
from videor2_rl.model.family import part_of
from workers.learner.engines.fsdp import freeze
from workers.learner.engines.lora import add_adapters, parameter_groups, plain_weights

LORA = LoraConfig(rank=4, alpha=8, dropout=0.0, targets=("q_proj", "o_proj", "up_proj"), dora=False)


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue("tiny_qwen3_vl_dir" if request.param == "qwen3_vl" else "tiny_model_dir")
    return path


def make_network(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    freeze(network, vision_tower=True, merger=False, language_model=False)
    return network


@pytest.mark.parametrize("trained", ["vision_tower", "merger", "language_model"])
def test_only_the_part_that_is_not_frozen_trains(folder: Path, trained: str) -> None:
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(folder)
    freeze(network, **{part: part != trained for part in ("vision_tower", "merger", "language_model")})
    parts = {
        "vision_tower": network.model.visual.blocks,
        "merger": network.model.visual.merger,
        "language_model": network.model.language_model,
    }
    assert {
        name for name, part in parts.items() if all(parameter.requires_grad for parameter in part.parameters())
    } == {trained}
    deepstack = getattr(network.model.visual, "deepstack_merger_list", None)
    if deepstack is not None:
        assert {parameter.requires_grad for parameter in deepstack.parameters()} == {trained == "merger"}
    assert network.model.visual.patch_embed.proj.weight.requires_grad == (trained == "vision_tower")
    assert network.lm_head.weight.requires_grad == (trained == "language_model")


@pytest.mark.parametrize("is_dora", [False, True])
def test_merged_weights_are_those_that_peft_merges_to(folder: Path, is_dora: bool) -> None:
    names = set(make_network(folder).state_dict())
    lora = replace(LORA, dora=is_dora)
    adapted: Any = add_adapters(make_network(folder), lora)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    ours = dict(plain_weights(adapted.state_dict(), lambda tensor, _: tensor.clone(), torch.float32, lora=lora))
    merged = adapted.merge_and_unload().state_dict()
    assert set(ours) == names
    for name in names:
        torch.testing.assert_close(ours[name], merged[name], atol=1e-6, rtol=1e-5, msg=name)


def test_adapters_and_what_is_not_frozen_train_and_nothing_else(folder: Path) -> None:
    adapted = add_adapters(make_network(folder), LORA)
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trainable if "lora_" in name}
    layers = {name.split(".lora_")[0].split("language_model.")[1].split(".", 2)[2] for name in adapters}
    assert layers == {"self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"}
    others = {name.removeprefix("base_model.model.") for name in trainable - adapters}
    assert others and all(part_of(name) == "merger" for name in others)


def test_each_part_has_its_learning_rate(folder: Path) -> None:
    adapted = add_adapters(make_network(folder), LORA)
    language, merger = parameter_groups(adapted, vision_tower=3e-6, merger=1e-5)
    assert "lr" not in language and merger["lr"] == 1e-5
    counted = len(language["params"]) + len(merger["params"])
    assert counted == sum(parameter.requires_grad for parameter in adapted.parameters())


def test_a_target_that_names_no_layer_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.lora.targets: found \['query'\]"):
        add_adapters(make_network(folder), replace(LORA, targets=("query",)))
