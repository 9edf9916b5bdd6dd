"""Configurations for tests of the learner, of which each test says what matters to it."""

from __future__ import annotations

from typing import Any

from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.sections import LearnerConfig, LoraConfig, ModelConfig, OptimizerConfig


def learner_config(**changes: Any) -> LearnerConfig:
    """One rank of FSDP2 on the CPU, no schedule, everything in one pass."""
    values: dict[str, Any] = {
        "backend": "fsdp2",
        "cpu_offload": False,
        "max_rebuilds": 0,
        "num_ranks": 1,
        "cpus_per_rank": 1,
        "gpus_per_rank": 0,
        "learning_rate": 1e-3,
        "vision_tower_learning_rate": None,
        "merger_learning_rate": None,
        "lr_schedule": "constant",
        "min_lr_frac": 0.0,
        "warmup_steps": 0,
        "warmup_frac": 0.0,
        "weight_decay": 0.0,
        "betas": (0.9, 0.98),
        "optimizer": OptimizerConfig(module="torch.optim", name="AdamW", options={}),
        "max_grad_norm": 1.0,
        "sequence_parallel_size": 1,
        "max_tokens_per_micro_batch": 100_000,
        "gradient_checkpointing": False,
        "visual_cache_mib": 0,
        "sync": "full",
        "sync_transport": "collective",
        "sync_bucket_mib": 512,
        "sync_deadline_s": 60.0,
    }
    return LearnerConfig(**{**values, **changes})


def model_config(path: str, **changes: Any) -> ModelConfig:
    """In float32, without adapters; the vision tower and its merger are frozen."""
    values: dict[str, Any] = {
        "dtype": "float32",
        "freeze_vision_tower": True,
        "freeze_merger": True,
        "freeze_language_model": False,
        "lora": LoraConfig(rank=0, alpha=1, dropout=0.0, targets=(), dora=False),
        "system_prompt": "",
        "instruction": "",
        "float32_head": False,
        "text_timestamps": False,
    }
    return ModelConfig(path, **{**values, **changes})


def algorithm_config(**changes: Any) -> AlgorithmConfig:
    """GRPO as published: five groups of four, one update, every response in the loss."""
    values: dict[str, Any] = {
        "num_steps": 10,
        "prompts_per_step": 5,
        "max_staleness": 0,
        "lookahead": 0,
        "group_size": 4,
        "updates_per_batch": 1,
        "advantage": "grpo",
        "policy_loss": "vanilla",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "ratio_cap": None,
        "loss_aggregation": "token-mean",
        "kl_coefficient": 0.04,
        "kl_estimator": "low_var_kl",
        "filter_zero_variance": False,
        "mask_truncated": False,
        "importance_cap": None,
        "importance_level": "token",
        "importance_beyond": "truncate",
        "max_log_prob_gap_mean": 1e-5,
        "max_log_prob_gap_tail": 1e-4,
    }
    return AlgorithmConfig(**{**values, **changes})
