"""A tiny Qwen3-VL: its engine, its learner and plain transformers agree, before training and after a weight sync."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import one_rank
import pytest
import torch
from learner_configs import learner_config, model_config
from weight_source import LocalRanks, Source, TensorRank, load

from videor2_rl.config.sections import ModelConfig
from videor2_rl.model.family import part_of
from videor2_rl.model.prompt import PromptBuilder, timed_metadata
from videor2_rl.model.weights import expected_weights
from videor2_rl.types import Clip, Group, LogProbs, Prompt, PromptHandle, SamplingSpec, TrainGroup, VideoSample
from workers.rollout.engine import EngineSpec
from workers.rollout.worker import GenerateRequest
from workers.weights.plan import trained_names

pytestmark = pytest.mark.slow

FLOAT32_LIMIT = 1e-4
"""Nats; the same weights and input differ by some 3e-6."""
SAMPLING = SamplingSpec(temperature=1.0, top_p=1.0, top_k=0, max_tokens=24, group_size=4)
LEARNER = learner_config(learning_rate=1e-2, gradient_checkpointing=True)


@dataclass(frozen=True)
class Stage:
    """One policy version: what the engine sampled, and the learner's log-probs of it in packed groups."""

    groups: list[Group]
    learner: list[LogProbs]
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Trained:
    before: Stage
    after: Stage
    after_from_embeddings: Stage
    """As `after`; engine and learner got the learner's visual embeddings and black pixels."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    from videor2_rl.demo.model import make_model

    folder = tmp_path_factory.mktemp("qwen3_vl")
    make_model(folder, seed=3, family="qwen3_vl")
    return model_config(str(folder), freeze_vision_tower=False, freeze_merger=False, text_timestamps=True)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Of variable frame rate, of another size, and one for a prompt without text between its frames."""
    rng = np.random.default_rng(0)
    times = (np.array([0, 0.04, 0.9, 1.5, 7.3, 8.05, 9.95, 10.0]), np.arange(4.0), np.arange(6) / 2)
    sizes = ((28, 42), (42, 28), (28, 28))
    return [
        Clip(f"clip-{i}", rng.integers(0, 256, (len(t), 3, *size), dtype=np.uint8), t, (len(t) - 1) / t[-1])
        for i, (t, size) in enumerate(zip(times, sizes, strict=True))
    ]


@pytest.fixture(scope="module")
def prompts(model: ModelConfig, clips: list[Clip]) -> list[Prompt]:
    stamped, plain = PromptBuilder(model), PromptBuilder(replace(model, text_timestamps=False))
    sample = VideoSample("s", "/clip.mp4", "Which colour appears last?", "")
    return [builder.build(sample, clip) for builder, clip in zip((stamped, stamped, plain), clips, strict=True)]


@pytest.fixture(scope="module")
def trained(model: ModelConfig, prompts: list[Prompt], engine_spec: EngineSpec, start_engine: Any) -> Trained:
    """Sample, train one step on what was sampled, give the engine the new weights, sample again."""
    banned = PromptBuilder(model).banned_token_ids
    spec = replace(engine_spec, model_path=model.path, banned_token_ids=banned)
    with one_rank.one_rank(LEARNER, model) as process, start_engine(spec) as engine:

        def stage(
            version: int, prompts: Sequence[Prompt], embeddings: Sequence[torch.Tensor] = ()
        ) -> tuple[Stage, list[TrainGroup]]:
            request = GenerateRequest(tuple(range(len(prompts))), SAMPLING, 0, version)
            groups = engine.run(engine.worker.generate(request, *prompts, *embeddings))
            visual: Sequence[torch.Tensor | None] = embeddings or [None] * len(prompts)
            to_train = [train_group(*parts) for parts in zip(groups, prompts, visual, strict=True)]
            weights = {name: torch.tensor(array) for name, array in process.submit(one_rank.weights).result().items()}
            return Stage(groups, process.submit(one_rank.log_probs, to_train).result(), weights), to_train

        before, to_train = stage(0, prompts)
        assert process.submit(one_rank.sft_step, to_train).result() > 0
        weights = process.submit(one_rank.weights).result()
        tensors = {name: torch.tensor(array) for name, array in weights.items()}
        rank, expected = TensorRank(), expected_weights(model.path)
        trained = trained_names(expected.shapes, model)
        load(engine, rank, Source(LocalRanks(rank), expected).weights(1, names=trained), tensors)
        after, _ = stage(1, prompts)
        embeddings = process.submit(one_rank.encode, prompts).result()
        black = [replace(prompt, patches=np.zeros_like(prompt.patches)) for prompt in prompts]
        after_from_embeddings, _ = stage(1, black, embeddings)
    return Trained(before, after, after_from_embeddings)


def train_group(group: Group, prompt: Prompt, visual: torch.Tensor | None) -> TrainGroup:
    handle = PromptHandle("s", prompt.clip_key, len(prompt.token_ids), prompt, visual)
    return TrainGroup(group.group_id, handle, tuple(rollout.token_ids for rollout in group.rollouts))


def transformers_model(model: ModelConfig, weights: dict[str, torch.Tensor]) -> Any:
    from transformers import Qwen3VLForConditionalGeneration

    network = Qwen3VLForConditionalGeneration.from_pretrained(model.path, dtype=torch.float32).eval()
    network.load_state_dict(weights)
    return network


def transformers_log_probs(
    network: Any, model: ModelConfig, prompt: Prompt, clip: Clip, response: np.ndarray
) -> np.ndarray:
    """By transformers alone: its own normalised pixels and its own positions; one ordinary sequence."""
    from transformers import AutoProcessor

    pixels = AutoProcessor.from_pretrained(model.path).video_processor(
        [torch.from_numpy(clip.frames)],
        do_resize=False,
        do_sample_frames=False,
        video_metadata=[timed_metadata(clip.timestamps_s)],
        return_tensors="pt",
    )
    ids = torch.from_numpy(np.concatenate([prompt.token_ids, response]))[None]
    with torch.no_grad():
        logits = network(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=2 * (ids == network.config.video_token_id).int(),
            pixel_values_videos=pixels["pixel_values_videos"],
            video_grid_thw=pixels["video_grid_thw"],
            use_cache=False,
        ).logits[0]
    picked = torch.log_softmax(logits[len(prompt.token_ids) - 1 : -1].double(), -1)
    return picked.gather(-1, torch.tensor(response)[:, None])[:, 0].numpy()


def gaps(
    network: Any, model: ModelConfig, stage: Stage, prompts: Sequence[Prompt], clips: Sequence[Clip]
) -> list[float]:
    """Largest difference in nats from transformers: of the engine, of the learner."""
    engine, learner = [0.0], [0.0]
    for group, log_probs, prompt, clip in zip(stage.groups, stage.learner, prompts, clips, strict=True):
        for rollout, packed in zip(group.rollouts, log_probs.raw, strict=True):
            plain = transformers_log_probs(network, model, prompt, clip, rollout.token_ids)
            engine.append(float(np.abs(plain - rollout.log_probs).max()))
            learner.append(float(np.abs(plain - packed).max()))
    return [max(engine), max(learner)]


@pytest.mark.parametrize("when", ["before", "after", "after_from_embeddings"])
def test_engine_and_packed_learner_compute_what_transformers_computes(
    when: str, trained: Trained, model: ModelConfig, prompts: list[Prompt], clips: list[Clip]
) -> None:
    stage: Stage = getattr(trained, when)
    found = gaps(transformers_model(model, stage.weights), model, stage, prompts, clips)
    print(f"\n{when} the step, nats from transformers: engine {found[0]:.1e}, learner {found[1]:.1e}")
    assert max(found) < FLOAT32_LIMIT


def test_old_weights_and_a_lost_deepstack_level_are_noticed(
    trained: Trained, model: ModelConfig, prompts: list[Prompt], clips: list[Clip]
) -> None:
    old = transformers_model(model, trained.before.weights)
    assert min(gaps(old, model, trained.after, prompts, clips)) > 0.01
    broken = dict(trained.after.weights)
    for name in ("weight", "bias"):
        broken[f"model.visual.deepstack_merger_list.1.linear_fc2.{name}"] *= 0
    assert min(gaps(transformers_model(model, broken), model, trained.after, prompts, clips)) > 1e-3


def test_a_step_changes_every_part_and_the_engine_never_samples_a_placeholder(
    trained: Trained, model: ModelConfig
) -> None:
    before, after = trained.before.weights, trained.after.weights
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part_of(name) for name in changed} == {"vision_tower", "merger", "language_model"}
    assert any(name.startswith("model.visual.deepstack_merger_list.0.") for name in changed)
    sampled = np.concatenate([rollout.token_ids for group in trained.after.groups for rollout in group.rollouts])
    assert not np.isin(sampled, PromptBuilder(model).banned_token_ids).any()
