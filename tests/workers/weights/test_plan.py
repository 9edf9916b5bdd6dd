"""Which weights travel, and in which buckets."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import published
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learner_configs import model_config

from videor2_rl.config.sections import LoraConfig, ModelConfig
from videor2_rl.model.weights import ExpectedWeights, expected_weights
from workers.weights.plan import Bucket, WeightPlan, WeightsRefused, buckets_of, check_plan, layer_of, trained_names

LORA = LoraConfig(rank=4, alpha=8, dropout=0.0, targets=("q_proj", "up_proj"), dora=False)
SHAPES = {
    "a.q_proj.weight": (4, 4),
    "a.q_proj.bias": (4,),
    "a.k_proj.weight": (2, 4),
    "a.v_proj.weight": (2, 4),
    "a.o_proj.weight": (4, 4),
    "b.norm.weight": (4,),
    "b.gate_proj.weight": (8, 4),
    "b.up_proj.weight": (8, 4),
}
EXPECTED = ExpectedWeights(SHAPES, frozenset())


def plan_of(buckets: tuple[Bucket, ...]) -> WeightPlan:
    return WeightPlan(3, "float32", buckets, keeps_base=False)


def names_of(buckets: tuple[Bucket, ...]) -> list[str]:
    return [name for bucket in buckets for name in bucket.names]


@given(st.sets(st.sampled_from(sorted(SHAPES))), st.integers(1, 1000))
def test_buckets_hold_whole_layers_in_order_and_no_more_than_they_may(changed: set[str], max_bytes: int) -> None:
    buckets = buckets_of(EXPECTED, changed, max_bytes=max_bytes, bytes_per_value=4)
    names = names_of(buckets)
    assert names == [name for name in SHAPES if name in set(names)]
    assert changed <= set(names)
    layers = [{layer_of(name) for name in bucket.names} for bucket in buckets]
    touched = {layer_of(name) for name in changed}
    assert sum(map(len, layers)) == len(set().union(*layers)) == len(touched)
    assert set(names) == {name for name in SHAPES if layer_of(name) in touched}
    for bucket, its_layers in zip(buckets, layers, strict=True):
        assert bucket.shapes == tuple(SHAPES[name] for name in bucket.names)
        assert bucket.num_values == sum(math.prod(SHAPES[name]) for name in bucket.names)
        assert 4 * bucket.num_values <= max_bytes or len(its_layers) == 1
    # No bucket is closed before it is full.
    for one, two in itertools.pairwise(buckets):
        first = layer_of(two.names[0])
        size = sum(math.prod(SHAPES[name]) for name in two.names if layer_of(name) == first)
        assert 4 * (one.num_values + size) > max_bytes


def test_what_vllm_keeps_as_one_layer_is_one() -> None:
    assert layer_of("x.self_attn.q_proj.weight") == layer_of("x.self_attn.v_proj.bias")
    assert layer_of("x.mlp.gate_proj.weight") == layer_of("x.mlp.up_proj.weight")
    assert layer_of("x.self_attn.o_proj.weight") != layer_of("x.self_attn.q_proj.weight")
    assert layer_of("x.1.self_attn.q_proj.weight") != layer_of("x.2.self_attn.q_proj.weight")


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="not among the model's weights: c"):
        buckets_of(EXPECTED, ["c"], max_bytes=100, bytes_per_value=4)


def test_a_layer_that_is_not_whole_a_name_too_many_and_another_shape_are_refused_together() -> None:
    buckets = (Bucket(("a.q_proj.weight", "a.q_proj.bias", "x"), ((4, 4), (5,), (1,))),)
    with pytest.raises(WeightsRefused) as refused:
        check_plan(plan_of(buckets), SHAPES)
    assert str(refused.value) == (
        "weights 3 do not fit the model (2 missing: a.k_proj.weight, a.v_proj.weight; 1 unknown: x; "
        "1 misshapen: a.q_proj.bias)"
    )
    many = {f"l.{i}.q_proj.weight": (1,) for i in range(9)}
    with pytest.raises(WeightsRefused, match=r"9 unknown: l.0.q_proj.weight, .* and 4 more"):
        check_plan(plan_of((Bucket(tuple(many), tuple(many.values())),)), SHAPES)


def test_whole_layers_are_accepted_whether_or_not_others_stay_as_they_are() -> None:
    for changed in (SHAPES, ["a.k_proj.weight"], []):
        plan = plan_of(buckets_of(EXPECTED, changed, max_bytes=64, bytes_per_value=4))
        check_plan(plan, SHAPES)
        assert plan.shapes.items() <= SHAPES.items()
        assert set(changed) <= plan.shapes.keys()


@pytest.mark.parametrize(
    ("changes", "prefixes"),
    [
        ({}, ("model.language_model.", "lm_head.")),
        ({"freeze_merger": False}, ("model.language_model.", "lm_head.", "model.visual.merger.")),
        ({"freeze_vision_tower": False, "freeze_merger": False}, ("",)),
        ({"freeze_merger": False, "freeze_language_model": True}, ("model.visual.merger.",)),
    ],
)
def test_what_is_frozen_does_not_travel(checkpoint: Path, changes: dict[str, bool], prefixes: tuple[str, ...]) -> None:
    expected = expected_weights(str(checkpoint))
    found = trained_names(expected.shapes, model_config(str(checkpoint), **changes))
    assert found == {name for name in expected.shapes if name.startswith(prefixes)}
    plan = plan_of(buckets_of(expected, found, max_bytes=1 << 20, bytes_per_value=4))
    assert plan.changes_vision == any(name.startswith("model.visual.") for name in found)


def of_paper(name: str, **changes: Any) -> tuple[ExpectedWeights, ModelConfig]:
    folder = str(published.FOLDER / name)
    return expected_weights(folder), replace(published.paper_run(published.FOLDER / name).model, **changes)


@pytest.mark.parametrize("name", published.NAMES)
def test_an_adapters_layers_travel_with_what_vllm_merges_them_with_and_nothing_else(name: str) -> None:
    expected, model = of_paper(name, lora=LORA)
    trained = trained_names(expected.shapes, model)
    assert {key.rsplit(".", 2)[1] for key in trained} == {"q_proj", "up_proj"}
    sent = set(names_of(buckets_of(expected, trained, max_bytes=1 << 29, bytes_per_value=2)))
    assert {key.rsplit(".", 2)[1] for key in sent} == {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    assert all(key.startswith("model.language_model.layers.") for key in sent)


def test_a_7b_with_its_tower_frozen_sends_what_trains_in_thirty_buckets() -> None:
    """7,615,616,512 is what the published checkpoint's language model counts."""
    expected, model = of_paper("Qwen2.5-VL-7B-Instruct", lora=replace(LORA, rank=0))
    trained = trained_names(expected.shapes, model)
    buckets = buckets_of(expected, trained, max_bytes=512 << 20, bytes_per_value=2)
    assert sum(bucket.num_values for bucket in buckets) == 7_615_616_512
    # The embeddings and the head, 1.09e9 bytes each, are alone; all others keep to their bound.
    large = [bucket for bucket in buckets if bucket.num_values * 2 > 512 << 20]
    assert [bucket.names for bucket in large] == [("model.language_model.embed_tokens.weight",), ("lm_head.weight",)]
    assert len(buckets) < 40
