"""What tests ask of a learner through Ray."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import packed_prompts
from learner_configs import algorithm_config
from streamed import sent_weights

from videor2_rl.config.sections import ModelConfig
from videor2_rl.run.files import file_sum
from videor2_rl.types import TokenValues, TrainGroup

if TYPE_CHECKING:
    from workers.learner.learner import Learner
    from workers.learner.reference import Reference

ALGORITHM = algorithm_config(importance_cap=2.0)


def process_of(part: Learner | Reference, *, rank: int = 0) -> int:
    """The process of a rank."""
    import ray

    return ray.get(part._ranks._workers.workers[rank].__ray_call__.remote(lambda self: os.getpid()))


def save(learner: Learner, folder: Path) -> None:
    folder.mkdir()
    learner.save(folder)
    found = learner.finish_save()
    assert found == {path.name: file_sum(path) for path in folder.iterdir()}


def weights_of(learner: Learner) -> dict[str, np.ndarray]:
    import ray

    return sent_weights(learner.weights(0), ray.get)


def update(learner: Learner, groups: list[TrainGroup], **changes: Any) -> dict[str, float]:
    return learner.update(groups, algorithm=replace(ALGORITHM, **changes), temperature=0.9)


def token_values(learner: Learner) -> dict[tuple[int, int], TokenValues]:
    """By group and response, of the updates since the last call."""
    import ray

    found = [one for of_rank in ray.get(learner.take_token_values()) for one in of_rank]
    by_place = {(one.group_id, one.response): one for one in found}
    assert len(by_place) == len(found)
    return by_place


def old_log_probs(group: TrainGroup) -> tuple[np.ndarray, ...]:
    assert group.old_log_probs is not None
    return group.old_log_probs


def plain_log_probs(model: ModelConfig, group: TrainGroup, *, temperature: float) -> list[np.ndarray]:
    """By transformers alone, one ordinary sequence per response."""
    import ray
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    network = AutoModelForImageTextToText.from_pretrained(model.path, dtype=torch.float32, attn_implementation="sdpa")
    processor = AutoProcessor.from_pretrained(model.path).video_processor
    prompt = ray.get(group.prompt.ref)
    return packed_prompts.plain_log_probs(network, processor, prompt, group.response_ids, temperature=temperature)


def with_rollouts(learner: Learner, groups: list[TrainGroup], *, moved: float = 0.0) -> list[TrainGroup]:
    """Without old log-probs, and with rollouts that say what the learner says; of one token, `moved` nats less."""
    found = learner.log_probs(groups, temperature=0.9)
    sampled = [[values.copy() for values in log_probs.raw] for log_probs in found]
    sampled[3][2][-1] -= np.float32(moved)
    return [
        replace(group, old_log_probs=None, rollout_log_probs=tuple(values))
        for group, values in zip(groups, sampled, strict=True)
    ]
