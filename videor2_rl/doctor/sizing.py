"""What a run will need, computed from its configuration, its model's shapes and its samples' lengths.

Pure functions; `videor2_rl.doctor` gathers the inputs and prints the outcome. Sizes in bytes unless a name says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from rewards.judge import needs_judge
from videor2_rl.config.judge import RulesJudge
from videor2_rl.config.runs import EvaluateRun, GrpoRun
from videor2_rl.config.sections import LearnerConfig, ModelConfig
from videor2_rl.model.family import part_of

GIB = 1 << 30
_FLOAT32, _BFLOAT16 = 4, 2


@dataclass(frozen=True)
class ModelShape:
    """A model's sizes; parameters are counted on the meta device, without weights."""

    vision_parameters: int
    merger_parameters: int
    language_parameters: int
    """Embeddings and head included."""
    layer_parameters: int
    """Of one decoder layer."""
    linear_parameters: int
    """Of the language model's linear layers, whose LoRA targets are named in the configuration."""
    lora_parameters: int
    """Of the adapters; 0 without."""
    num_layers: int
    hidden: int
    intermediate: int
    key_value_width: int
    """Key-value heads times head size."""
    vocabulary: int
    patch_values: int
    """Values of one flattened patch: channels x temporal patch x patch x patch."""
    merge_size: int
    is_tied: bool
    """Embeddings and head are one."""

    @property
    def parameters(self) -> int:
        return self.vision_parameters + self.merger_parameters + self.language_parameters


@dataclass(frozen=True)
class SampleSize:
    """One sample's length."""

    prompt_tokens: int
    vision_tokens: int
    response_tokens: int | None
    """Of the solution as SFT trains on it; None where the policy writes it."""
    num_frames: int


@dataclass(frozen=True)
class Need:
    """One resource, what is needed of it and what there is."""

    name: str
    needed: float
    available: float | None
    """None: not known."""
    unit: str
    explanation: str

    @property
    def fits(self) -> bool:
        return self.available is None or self.needed <= self.available


def model_shape(model: ModelConfig) -> ModelShape:
    """Read from the checkpoint's config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(model.path)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config)
    network.tie_weights()
    text, vision = config.text_config, config.vision_config
    parts = {"vision_tower": 0, "merger": 0, "language_model": 0}
    for name, parameter in network.named_parameters():
        parts[part_of(name)] += parameter.numel()
    layers = network.model.language_model.layers
    linear = [
        (name.rsplit(".", 1)[-1], part)
        for name, part in network.model.language_model.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    adapted = [part for name, part in linear if name in model.lora.targets]
    return ModelShape(
        vision_parameters=parts["vision_tower"],
        merger_parameters=parts["merger"],
        language_parameters=parts["language_model"],
        layer_parameters=sum(parameter.numel() for parameter in layers[0].parameters()),
        linear_parameters=sum(part.weight.numel() for _, part in linear),
        lora_parameters=model.lora.rank * sum(part.in_features + part.out_features for part in adapted),
        num_layers=len(layers),
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        key_value_width=layers[0].self_attn.k_proj.out_features,
        vocabulary=text.vocab_size,
        patch_values=3 * vision.temporal_patch_size * vision.patch_size**2,
        merge_size=vision.spatial_merge_size,
        is_tied=bool(config.tie_word_embeddings),
    )


def trainable_parameters(shape: ModelShape, model: ModelConfig) -> int:
    """Parameters that the optimiser keeps."""
    language = 0 if model.freeze_language_model else shape.language_parameters
    if model.lora.rank > 0:
        language = shape.lora_parameters
    vision = 0 if model.freeze_vision_tower else shape.vision_parameters
    return language + vision + (0 if model.freeze_merger else shape.merger_parameters)


@dataclass(frozen=True)
class RankBytes:
    """What one learner rank holds on its device in a step's last micro-batch, part by part.

    Where it holds most: either in the loss, or in the backward pass of a layer after it.
    """

    weights: float
    """As they are sharded, frozen ones too."""
    gradients: float
    """In float32; FSDP2 and ZeRO-2 shard them after every micro-batch."""
    optimiser: float
    """Adam's two moments, and DeepSpeed's float32 masters."""
    gathered: float
    """Weights that are whole while they compute."""
    embeddings: float
    """Of the sequence, the visual ones among them, and the last layer's output."""
    activations: float
    """Kept for the backward pass by norms, linear layers and the MLP; of all layers their inputs with checkpointing."""
    attention: float
    """Its queries, keys, values and output, kept as well."""
    logits: float
    """In the loss alone: of one slice of the vocabulary, and what the last layer keeps, which the others' backward
    passes come after."""
    backward: float
    """Behind the loss alone: one layer computed again, gradients of its MLP, and whole gradients of its weights and the
    head's, which are not in their shards yet."""

    @property
    def total(self) -> float:
        state = self.weights + self.gradients + self.optimiser + self.gathered
        return state + self.embeddings + self.activations + self.attention + max(self.logits, self.backward)

    def text(self) -> str:
        """The parts in GiB."""
        return ", ".join(f"{part.name} {getattr(self, part.name) / GIB:.3g}" for part in fields(self))


@dataclass(frozen=True)
class StateBytes:
    """What one rank keeps between two micro-batches, at its largest."""

    weights: float
    gradients: float
    optimiser: float
    host: float
    """Off the device with `learner.cpu_offload`."""

    @property
    def device(self) -> float:
        return self.weights + self.gradients + self.optimiser


def state_bytes(shape: ModelShape, model: ModelConfig, learner: LearnerConfig) -> StateBytes:
    """Weights, float32 gradients, and for Adam two float32 moments, on one rank.

    FSDP2 shards float32 weights. DeepSpeed keeps weights in the model's dtype, shards them with ZeRO-3 only, and holds
    float32 masters of what trains beside them.
    """
    ranks = learner.num_ranks
    trained = trainable_parameters(shape, model)
    all_weights = shape.parameters + (shape.lora_parameters if model.lora.rank else 0)
    if learner.backend == "fsdp2":
        weights, gradients, optimiser = (
            _FLOAT32 * all_weights / ranks,
            _FLOAT32 * trained / ranks,
            2 * _FLOAT32 * trained / ranks,
        )
        if learner.cpu_offload:
            return StateBytes(0.0, 0.0, 0.0, weights + gradients + optimiser)
        return StateBytes(weights, gradients, optimiser, 0.0)
    stage = int(learner.backend[-1])
    weights = model.bytes_per_value * all_weights / (ranks if stage == 3 else 1)
    gradients = _FLOAT32 * trained / (ranks if stage >= 2 else 1)
    optimiser = 3 * _FLOAT32 * trained / ranks
    if not learner.cpu_offload:
        return StateBytes(weights, gradients, optimiser, 0.0)
    if stage == 3:
        return StateBytes(0.0, gradients, 0.0, weights + optimiser)
    return StateBytes(weights, gradients, 0.0, optimiser)


def mlp_bytes(shape: ModelShape, model: ModelConfig, *, tokens: int) -> float:
    """Kept by one decoder layer but for its attention.

    Of each of its two norms the input and the normalised input, in float32 or as float32 and the model's dtype, and the
    output; the two sums around them, where no float32 copy stands for them; four wide products of the MLP.
    """
    width = model.bytes_per_value
    norms = 2 * shape.hidden * (3 * width if width == _FLOAT32 else _FLOAT32 + 2 * width)
    return tokens * (norms + 4 * shape.intermediate * width)


def attention_bytes(shape: ModelShape, model: ModelConfig, *, tokens: int) -> float:
    """Kept by one layer's attention: queries, keys and values of every query head, the output, the output by token."""
    return 5 * tokens * shape.hidden * model.bytes_per_value


def logits_bytes(shape: ModelShape, *, response_tokens: int) -> float:
    """Of the response tokens, for one slice of the vocabulary at a time, three times in float32."""
    from videor2_rl.model.token_scores import SLICE_LOGITS

    return min(response_tokens * shape.vocabulary, SLICE_LOGITS) * 3 * _FLOAT32


def gathered_bytes(shape: ModelShape, model: ModelConfig, learner: LearnerConfig) -> float:
    """Of the weights that are whole while they compute: two decoder layers, head and merger.

    Embeddings of their own are gathered, and left again, before the layers; so are the vision tower's blocks, which are
    smaller. ZeRO-1 and ZeRO-2 gather none.
    """
    if learner.backend in ("deepspeed_zero1", "deepspeed_zero2"):
        return 0.0
    outside = shape.parameters - shape.vision_parameters - shape.num_layers * shape.layer_parameters
    if not shape.is_tied:
        outside -= shape.vocabulary * shape.hidden
    return model.bytes_per_value * (outside + 2 * shape.layer_parameters)


def whole_gradient_bytes(shape: ModelShape, model: ModelConfig) -> float:
    """Of the gradients that are not in their shards yet: the head's, and one decoder layer's in float32."""
    if model.freeze_language_model or model.lora.rank > 0:
        return 0.0
    return model.bytes_per_value * shape.vocabulary * shape.hidden + _FLOAT32 * shape.layer_parameters


def learner_rank_bytes(
    shape: ModelShape, model: ModelConfig, learner: LearnerConfig, *, tokens: int, response_tokens: int
) -> RankBytes:
    """Peak of one rank's device above what its process needs without a model.

    Args:
        tokens: of the longest pass: the token budget, or the longest group's where one response is more by itself.
        response_tokens: of that pass.
    """
    state = state_bytes(shape, model, learner)
    width, layers = model.bytes_per_value, shape.num_layers
    of_layer, of_attention = mlp_bytes(shape, model, tokens=tokens), attention_bytes(shape, model, tokens=tokens)
    # The last layer's second norm and MLP see the tokens alone that predict a response token.
    unread = max(0, tokens - response_tokens)
    of_last = of_layer - (mlp_bytes(shape, model, tokens=unread) + 4 * unread * shape.intermediate * width) / 2
    backward = 2 * tokens * shape.intermediate * width + whole_gradient_bytes(shape, model)
    checkpointing = learner.gradient_checkpointing
    return RankBytes(
        weights=state.weights,
        gradients=state.gradients,
        optimiser=state.optimiser,
        gathered=gathered_bytes(shape, model, learner),
        embeddings=2 * tokens * shape.hidden * width,
        activations=layers * tokens * shape.hidden * width if checkpointing else (layers - 1) * of_layer,
        attention=0.0 if checkpointing else (layers - 1) * of_attention,
        logits=logits_bytes(shape, response_tokens=response_tokens)
        + (0.0 if checkpointing else of_last + of_attention),
        backward=backward + (of_layer + of_attention if checkpointing else 0.0),
    )


def rollout_worker_bytes(shape: ModelShape, model: ModelConfig, run: GrpoRun | EvaluateRun) -> float:
    """Weights and KV cache of each of a worker's processes, above what it needs without a model.

    On CPUs an engine reserves the cache it is told to; on GPUs it takes what there is: here that of one whole
    sequence, and more cache is more speed.
    """
    width, ranks = model.bytes_per_value, run.rollout.tensor_parallel_size
    if run.cluster.device == "cpu":
        return shape.parameters * width / ranks + run.rollout.kv_cache_gib * GIB
    cache = 2 * shape.num_layers * shape.key_value_width * width * run.rollout.max_model_tokens
    return (shape.parameters * width + cache) / ranks


def prompt_bytes(shape: ModelShape, sample: SampleSize) -> int:
    """Of one prompt in the object store: its patches as uint8; ids and positions are small beside them."""
    return sample.vision_tokens * shape.merge_size**2 * shape.patch_values + 5 * 8 * sample.prompt_tokens


def prompts_bytes(shape: ModelShape, samples: Sequence[SampleSize], *, per_step: int, steps: int) -> float:
    """Of some steps' prompts, of the longest kind, in the object store; one step is prepared ahead."""
    largest = sorted((prompt_bytes(shape, sample) for sample in samples), reverse=True)[:per_step]
    return steps * per_step * sum(largest) / len(largest)


def embeddings_bytes(
    shape: ModelShape, model: ModelConfig, learner: LearnerConfig, samples: Sequence[SampleSize], *, per_step: int
) -> float:
    """Of clips' visual embeddings in the object store: those kept for later steps, or of one step where it has more."""
    if not model.has_frozen_vision or learner.visual_cache_mib == 0:
        return 0.0
    largest = sorted((sample.vision_tokens for sample in samples), reverse=True)[:per_step]
    of_step = per_step * sum(largest) / len(largest) * shape.hidden * model.bytes_per_value
    return max(float(learner.visual_cache_mib << 20), of_step)


def weight_transfer_bytes(shape: ModelShape, model: ModelConfig, learner: LearnerConfig) -> float:
    """Of weights on their way to the rollout workers: one bucket, whatever the model's size."""
    return min(learner.sync_bucket_mib << 20, shape.parameters * model.bytes_per_value)


def checkpoint_bytes(shape: ModelShape, model: ModelConfig) -> float:
    """Of one step-level checkpoint: float32 weights and Adam's moments of what trains."""
    weights = shape.parameters + (shape.lora_parameters if model.lora.rank else 0)
    return _FLOAT32 * (weights + 2 * trainable_parameters(shape, model))


@dataclass(frozen=True)
class JudgeLoad:
    """What one step asks of the judge at most; blocks that are missing and cached replies ask less."""

    calls: int
    tokens: int
    """Responses read and replies written; the instructions come on top."""


def judge_load(run: GrpoRun) -> JudgeLoad:
    """A call for each response and each part of the reward that a judge reads."""
    if isinstance(run.judge, RulesJudge):
        return JudgeLoad(0, 0)
    calls = len(needs_judge(run.reward)) * run.algorithm.group_size * run.algorithm.prompts_per_step
    return JudgeLoad(calls, calls * (run.rollout.max_response_tokens + run.judge.calls.max_tokens))


def step_flops(
    shape: ModelShape, *, prompt_tokens: float, response_tokens: float, responses: int, has_reference: bool
) -> dict[str, float]:
    """Of one GRPO step per prompt, learner and rollout apart: 2 N a token forward, 4 N backward.

    Attention's own share is left out. Packed: a prompt counts once for its group, and once in the engine's cache.
    """
    tokens = prompt_tokens + responses * response_tokens
    forward = 2.0 * shape.parameters * tokens
    return {"learner": 4 * forward, "reference": forward if has_reference else 0.0, "rollout": forward}
