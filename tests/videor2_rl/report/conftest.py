"""A demo folder of invented numbers, for the report's tests: none of them was measured."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.evaluation.summary import SampleResult, evaluation_dir, summarise, write_evaluation

_PHASES = ("prepare", "generate", "reward", "old_log_probs", "ref_log_probs", "update", "sync_weights")
_SKILL = {"base": 0.97, "sft": 0.45, "grpo": 0.9}


@pytest.fixture
def demo_folder(pristine_demo_folder: Path, tmp_path: Path) -> Path:
    """A complete demo folder of the test's own."""
    return Path(shutil.copytree(pristine_demo_folder, tmp_path / "demo"))


@pytest.fixture(scope="session")
def pristine_demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, made once; tests write into copies only."""
    folder = tmp_path_factory.mktemp("invented") / "demo"
    write_demo(folder)
    return folder


def write_demo(folder: Path) -> None:
    for stage in ("base", "sft"):
        write_rows(folder / stage, [sft_row(step) for step in range(1, 31)])
    write_rows(folder / "grpo", [grpo_row(step) for step in range(1, 41)])
    (folder / "grpo" / "config.yaml").write_text("algorithm:\n  max_log_prob_gap_tail: 0.0001\n")
    (folder / "grpo" / "skipped.jsonl").write_text(
        json.dumps({"sample_id": "broken", "video": "broken.mp4", "reason": "unreadable", "detail": "invented"}) + "\n"
    )
    for stage, skill in _SKILL.items():
        for mode in ("sampled", "greedy"):
            results = [invented_result(number, skill=skill, mode=mode) for number in range(64)]
            summary = summarise(results, resamples=400, seed=0, card={"stage": stage, "video": {"fps": 1.0}})
            write_evaluation(evaluation_dir(folder, stage=stage, mode=mode), results, summary=summary)
    (folder / "timing.json").write_text(json.dumps({"make_demo": 50.5, "base": 120.0, "sft": 30.0, "grpo": 200.0}))


def write_rows(run_dir: Path, rows: list[dict[str, Any]]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sft_row(step: int) -> dict[str, Any]:
    row = {"step": step, "sft/loss": 3 * math.exp(-step / 8) + 0.1, "sft/grad_norm": 1.0, "timing_s/step": 0.2}
    return {**row, "sft/validation_loss": 3 * math.exp(-step / 8) + 0.15} if step % 10 == 0 else row


def grpo_row(step: int) -> dict[str, Any]:
    noise = random.Random(step)
    grown = 1 - math.exp(-step / 10)
    return {
        "step": step,
        "reward/mean": 1.1 + 1.3 * grown + noise.gauss(0, 0.06),
        "reward/std": 0.7 * (1 - 0.7 * grown),
        "reward/accuracy": 0.5 + 0.45 * grown + noise.gauss(0, 0.02),
        "reward/format": 0.99,
        "reward/temporal_alignment": 0.3 + 0.6 * grown + noise.gauss(0, 0.02),
        "reward/tac": 0.7 + 0.28 * grown,
        "reward/zero_variance_frac": 0.4 * grown,
        "rollout/response_tokens_mean": 34 + noise.gauss(0, 0.3),
        "rollout/truncated_frac": 0.0,
        "rollout/log_prob_gap_max": 2e-6 * math.exp(noise.gauss(0, 0.4)),
        "rollout/log_prob_gap_mean": 1e-7 * math.exp(noise.gauss(0, 0.2)),
        "actor/kl": 0.02 * grown,
        "actor/entropy": 0.3 - 0.2 * grown,
        "actor/grad_norm": 0.5,
        "actor/lr": 1e-5,
        "actor/clip_frac": 0.0,
        "data/decodes_per_clip": 1.0,
        **{f"timing_s/{phase}": 0.1 + 0.9 * (phase in ("generate", "update")) for phase in _PHASES},
        "timing_s/step": 2.5,
    }


def invented_result(number: int, *, skill: float, mode: str) -> SampleResult:
    """One response; `skill` is the chance that a claim is right."""
    noise = random.Random(f"{number} {mode} {skill}")
    references: tuple[dict[str, Any], ...] = tuple(
        {"start_s": start, "end_s": start + 2, "text": f"A {colour} {shape} appears."}
        for start, colour, shape in ((2.0, "red", "circle"), (6.0, "green", "square"), (11.0, "blue", "triangle"))
    )
    right = [noise.random() < skill for _ in references]
    claims = tuple(
        {
            **event,
            "start_s": start,
            "end_s": start,
            "reference": index if is_right else None,
            "outcome": "matched" if is_right else "time",
        }
        for index, (event, is_right) in enumerate(zip(references, right, strict=True))
        for start in [event["start_s"] + (0.0 if is_right else 4.0)]
    )
    share = sum(right) / len(right)
    think = " ".join(f"At 00:{claim['start_s']:02.0f} {claim['text']}" for claim in claims)
    return SampleResult(
        sample_id=f"clip-{number:04d}",
        video=f"clip-{number:04d}.mp4",
        question="Which colour appears last?\nA. red\nB. green\nC. blue\nD. yellow",
        target="<think>...</think>\n<answer>C</answer>",
        response=f"<think>{think} The last is blue (C).</think>\n<answer>C</answer>",
        answer="C",
        finish_reason="stop",
        response_tokens=30 + noise.randrange(8),
        accuracy=float(noise.random() < skill),
        tac=None if number == 5 else float(noise.random() < (1 + skill) / 2),
        tar_precision=share,
        tar_recall=share,
        tar_f1=share,
        format=1.0,
        problem_type="multiple_choice",
        duration_s=16.0,
        claims=claims,
        references=references,
    )
