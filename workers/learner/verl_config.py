"""Our dataclasses -> verl's; the only place where verl's option names appear.

verl is imported inside the functions: importing it loads Ray and torch, and reads the environment that `learner_env`
describes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal

from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LearnerConfig, ModelConfig, OptimizerConfig

if TYPE_CHECKING:
    from verl.workers.config import ActorConfig, TrainingWorkerConfig

GLOBALLY_NORMALISED_LOSSES = ("vanilla", "gspo", "sapo", "gpg", "cispo", "dppo_tv", "dppo_kl", "geo_mean")
"""verl's policy losses whose gradient does not depend on how a batch is split. clip_cov and kl_cov rank the tokens of
one micro-batch, bypass_mode computes its own rollout corrections, dro has a coefficient that we do not offer."""

_NO_RATIO_CAP = 1e10
"""Above exp(20), where verl limits the ratio in any case."""

_PRECISION = {"float32": "fp32", "bfloat16": "bf16"}


def learner_env(device: Literal["cpu", "cuda"]) -> dict[str, str]:
    """Environment variables that every process importing verl needs, set before the import."""
    if device == "cuda":
        return {}
    return {
        "VERL_PLATFORM": "cpu",
        "DS_ACCELERATOR": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "workers.learner.engines.cpu_platform",
        # A rank's threads (Ray gives it as many as it has CPUs) sleep while the rollout engine works, not spin.
        "OMP_WAIT_POLICY": "passive",
    }


def check_optimizer(optimizer: OptimizerConfig) -> None:
    """Refuse an optimiser that the learner's ranks could not build.

    Raises:
        ConfigError: its package is not installed, has no such class, or the class does not take what it would be given.
    """
    where = f"learner.optimizer.module={optimizer.module}"
    try:
        found = getattr(import_module(optimizer.module), optimizer.name, None)
    except ImportError as error:
        raise ConfigError(
            f"configuration: {where}: {error}; install the package where the learner runs, or use torch.optim"
        ) from error
    if not isinstance(found, type):
        raise ConfigError(f"configuration: learner.optimizer.name: {where} has no class {optimizer.name}")
    parameters = signature(found).parameters
    missing = {"lr", "weight_decay", *optimizer.options} - set(parameters)
    if missing and not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ConfigError(
            f"configuration: learner.optimizer: {optimizer.name} takes no {', '.join(sorted(missing))}; "
            f"it takes {', '.join(parameters)}"
        )


def learner_worker_config(learner: LearnerConfig, model: ModelConfig, *, total_steps: int) -> TrainingWorkerConfig:
    """A training worker with optimiser and schedule over `total_steps` optimiser steps."""
    from verl.workers.config import FSDPOptimizerConfig

    optimizer = FSDPOptimizerConfig(
        lr=learner.learning_rate,
        betas=learner.betas,
        optimizer=learner.optimizer.name,
        optimizer_impl=learner.optimizer.module,
        override_optimizer_config=dict(learner.optimizer.options),
        weight_decay=learner.weight_decay,
        clip_grad=learner.max_grad_norm,
        lr_scheduler_type=learner.lr_schedule,
        min_lr_ratio=learner.min_lr_frac,
        # verl reads 0 warm-up steps as "use the ratio".
        lr_warmup_steps=learner.warmup_steps,
        lr_warmup_steps_ratio=learner.warmup_frac,
        total_training_steps=total_steps,
    )
    return _worker_config(
        model,
        backend=learner.backend,
        # Training keeps float32 master weights; the forward runs in the model's dtype.
        model_dtype="float32",
        cpu_offload=learner.cpu_offload,
        learner=learner,
        optimizer_config=optimizer,
    )


def reference_worker_config(model: ModelConfig, *, backend: str, cpu_offload: bool) -> TrainingWorkerConfig:
    """A forward-only worker; with `cpu_offload` its weights are in host memory, and copied for every pass."""
    return _worker_config(
        model,
        backend=backend,
        model_dtype=model.dtype,
        cpu_offload=cpu_offload,
        learner=None,
        optimizer_config=None,
    )


def _worker_config(
    model: ModelConfig,
    *,
    backend: str,
    model_dtype: str,
    cpu_offload: bool,
    learner: LearnerConfig | None,
    optimizer_config: Any,
) -> TrainingWorkerConfig:
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import HFModelConfig, TrainingWorkerConfig

    from workers.learner.engines.fsdp import MODEL_TYPE

    precision = _PRECISION[model.dtype]
    engine_config = _engine_config_type(backend)(
        forward_only=optimizer_config is None,
        model_dtype=_PRECISION[model_dtype],
        mixed_precision={"param_dtype": precision, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        use_torch_compile=False,
        offload_policy=cpu_offload,
        freeze_vision_tower=model.freeze_vision_tower,
        freeze_merger=model.freeze_merger,
        freeze_language_model=model.freeze_language_model,
        lora=model.lora if model.lora.rank > 0 else None,
        float32_head=model.float32_head,
        vision_tower_learning_rate=None if learner is None else learner.vision_tower_learning_rate,
        merger_learning_rate=None if learner is None else learner.merger_learning_rate,
    )
    model_config = HFModelConfig(
        path=model.path,
        use_remove_padding=False,
        enable_gradient_checkpointing=learner is not None and learner.gradient_checkpointing,
        # Only for reading the configuration; the engine chooses its own attention.
        override_config={"attn_implementation": "sdpa"},
    )
    return TrainingWorkerConfig(
        model_type=MODEL_TYPE,
        model_config=model_config,
        engine_config=engine_config,
        optimizer_config=optimizer_config,
        checkpoint_config=CheckpointConfig(),
    )


def _engine_config_type(backend: str) -> Callable[..., Any]:
    """The engine's settings with the backend's own filled in; its module is imported, which registers the engine."""
    if backend == "fsdp2":
        from workers.learner.engines.fsdp import PackedFSDPEngineConfig

        return partial(PackedFSDPEngineConfig, strategy="fsdp2")
    from workers.learner.engines.deepspeed import PackedDeepSpeedEngineConfig

    return partial(PackedDeepSpeedEngineConfig, zero_stage=int(backend[-1]))


@dataclass(frozen=True)
class UpdateSpec:
    """What every rank must agree on for one optimiser step."""

    algorithm: AlgorithmConfig
    temperature: float
    batch_tokens: int
    """Response tokens in the loss over the whole global batch."""
    batch_responses: int
    """Responses in the loss over the whole global batch."""
    num_ranks: int
    max_response_tokens: int | None
    """The constant that "seq-mean-token-sum-norm" divides by; None with the other aggregations."""
    is_tempered: bool = False
    """The rollouts' log-probs are of the softmax at `temperature`, else of that at 1."""


def check_algorithm(algorithm: AlgorithmConfig, *, max_response_tokens: int | None) -> None:
    """Refuse what would train silently wrong.

    Raises:
        ConfigError: the policy loss depends on how a batch is split, or the aggregation lacks its constant.
    """
    if algorithm.policy_loss not in GLOBALLY_NORMALISED_LOSSES:
        known = ", ".join(GLOBALLY_NORMALISED_LOSSES)
        raise ConfigError(f"algorithm.policy_loss is {algorithm.policy_loss!r}: choose one of {known}")
    if algorithm.loss_aggregation == "seq-mean-token-sum-norm" and max_response_tokens is None:
        raise ConfigError("algorithm.loss_aggregation=seq-mean-token-sum-norm needs the learner's max_response_tokens")


def actor_config(spec: UpdateSpec) -> ActorConfig:
    """The configuration that verl's policy losses read, normalised over the global batch."""
    from verl.workers.config import ActorConfig, PolicyLossConfig

    algorithm = spec.algorithm
    return ActorConfig(
        strategy="fsdp2",
        rollout_n=algorithm.group_size,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=algorithm.clip_high,
        clip_ratio_low=algorithm.clip_low,
        clip_ratio_high=algorithm.clip_high,
        clip_ratio_c=_NO_RATIO_CAP if algorithm.ratio_cap is None else algorithm.ratio_cap,
        policy_loss=PolicyLossConfig(loss_mode=algorithm.policy_loss),
        loss_agg_mode=algorithm.loss_aggregation,
        global_batch_info={
            "dp_size": spec.num_ranks,
            "batch_num_tokens": spec.batch_tokens,
            "global_batch_size": spec.batch_responses,
            "loss_scale_factor": spec.max_response_tokens,
        },
    )
