"""The learner's configuration for tests: one rank of FSDP2 on the CPU, no schedule, everything in one pass."""

from __future__ import annotations

from typing import Any

from videor2_rl.config.sections import LearnerConfig, OptimizerConfig


def learner_config(**changes: Any) -> LearnerConfig:
    values: dict[str, Any] = {
        "backend": "fsdp2",
        "cpu_offload": False,
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
    }
    return LearnerConfig(**{**values, **changes})
