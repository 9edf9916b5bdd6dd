"""Which weights an update moves and in which portions; from names and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from videor2_rl.config.sections import ModelConfig
from videor2_rl.model.family import part_of
from videor2_rl.model.weights import ExpectedWeights

_MERGED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Layers of a checkpoint that are one layer in vLLM (`packed_modules_mapping`)."""


class WeightsRefused(RuntimeError):
    """Weights that do not fit the model; the engine was not touched and keeps its old ones."""


@dataclass(frozen=True)
class Bucket:
    """Weights that travel together; of each of vLLM's layers it holds all or none."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def num_values(self) -> int:
        return sum(map(math.prod, self.shapes))


@dataclass(frozen=True)
class WeightPlan:
    """What one update brings to the engines."""

    policy_version: int
    dtype: str
    """Of all values, e.g. "bfloat16"."""
    buckets: tuple[Bucket, ...]
    keeps_base: bool
    """Both sides keep what was sent, so that the next update may consist of changed values alone."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for bucket in self.buckets for name, shape in zip(bucket.names, bucket.shapes, strict=True)}

    @property
    def changes_vision(self) -> bool:
        """Visual embeddings computed before are those of another model."""
        return any(part_of(name) != "language_model" for name in self.shapes)


@dataclass(frozen=True)
class Gathered:
    """A bucket that the learner holds ready to be sent."""

    num_bytes: int
    """Of what is sent."""
    num_changed: int | None
    """Values sent, each with its place; None: all values of the bucket, in order."""
    digest: str
    """Of the whole bucket, as it is after the update."""


def trained_names(names: Iterable[str], model: ModelConfig) -> frozenset[str]:
    """The weights that training changes, by their names in `state_dict()`; of adapted layers, the merged ones."""
    adapted = re.compile(rf"model\.language_model\..*\.({'|'.join(map(re.escape, model.lora.targets))})\.weight")

    def is_trained(name: str) -> bool:
        part = part_of(name)
        if part == "vision_tower":
            return not model.freeze_vision_tower
        if part == "merger":
            return not model.freeze_merger
        if model.lora.rank > 0:
            return adapted.fullmatch(name) is not None
        return not model.freeze_language_model

    return frozenset(filter(is_trained, names))


def buckets_of(
    expected: ExpectedWeights, changed: Iterable[str], *, max_bytes: int, bytes_per_value: int
) -> tuple[Bucket, ...]:
    """The changed weights, and what shares a layer of vLLM's with one of them, in the order of `expected.shapes`.

    vLLM rebuilds a layer of which anything arrives, and leaves uninitialised memory where a part of it is missing.

    Args:
        max_bytes: of a bucket; a larger layer is a bucket by itself.
        bytes_per_value: as it is sent.

    Raises:
        ValueError: a name is not among the expected ones.
    """
    changed = set(changed)
    if unknown := sorted(changed - expected.shapes.keys()):
        raise ValueError(f"not among the model's weights: {', '.join(unknown)}")
    layers: dict[str, list[str]] = {}
    for name in expected.shapes:
        layers.setdefault(layer_of(name), []).append(name)
    buckets: list[list[str]] = []
    room = 0
    for names in layers.values():
        if changed.isdisjoint(names):
            continue
        size = sum(math.prod(expected.shapes[name]) for name in names) * bytes_per_value
        if not buckets or size > room:
            buckets.append([])
            room = max_bytes
        buckets[-1] += names
        room -= size
    return tuple(Bucket(tuple(names), tuple(expected.shapes[name] for name in names)) for names in buckets)


def layer_of(name: str) -> str:
    """The layer of vLLM's that a weight belongs to."""
    layer, _, _ = name.rpartition(".")
    before, _, last = layer.rpartition(".")
    return f"{before}.{_MERGED.get(last, last)}"


def check_plan(plan: WeightPlan, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Hold a plan against the model that it is for.

    Args:
        expected: name -> shape of all the model's weights.

    Raises:
        WeightsRefused: names the weights that are missing from a layer, unknown or misshapen.
    """
    shapes = plan.shapes
    layers = set(map(layer_of, shapes))
    faults = [
        ("missing", sorted(name for name in expected if layer_of(name) in layers and name not in shapes)),
        ("unknown", sorted(shapes.keys() - expected.keys())),
        ("misshapen", sorted(n for n in shapes.keys() & expected.keys() if shapes[n] != expected[n])),
    ]
    found = [f"{len(names)} {fault}: {_some(names)}" for fault, names in faults if names]
    if found:
        raise WeightsRefused(f"weights {plan.policy_version} do not fit the model ({'; '.join(found)})")


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
