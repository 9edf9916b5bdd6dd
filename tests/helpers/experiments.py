"""Every experiment of conf/, with its app."""

from __future__ import annotations

from typing import Any

from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun

EXPERIMENTS: dict[str, tuple[str, type[Any]]] = {
    "demo": ("grpo", GrpoRun),
    "smoke": ("grpo", GrpoRun),
    "smoke_qwen3_vl": ("grpo", GrpoRun),
    "demo_base": ("sft", SftRun),
    "demo_sft": ("sft", SftRun),
    "demo_evaluate": ("evaluate", EvaluateRun),
    "video_r2_7b_sft": ("sft", SftRun),
    "video_r2_7b_grpo": ("grpo", GrpoRun),
    "grpo_7b_1node": ("grpo", GrpoRun),
    "grpo_7b_4nodes": ("grpo", GrpoRun),
}
