"""Runs to look at: real clips, responses with the faults of the demo's traces, scored by the real reward."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rewards.compose import score_response
from rewards.types import RewardConfig, Scored, Target
from videor2_rl.demo.events import COLOURS, KINDS, Faults, grounding, letter_of, make_events, make_question, make_trace
from videor2_rl.run.files import write_jsonl_atomic
from videor2_rl.run.rollout_index import index_step
from videor2_rl.run.rollout_log import rollout_records
from videor2_rl.scoring.presets import reward_config
from videor2_rl.training.advantage import grpo_advantages
from videor2_rl.types import Group, PromptHandle, Rollout, TrainGroup, VideoSample

FAULTS = Faults(late=0.3, late_by_s=2, disagree=0.15, both_wrong=0.15, systematic=0.2)
FRAME_TIMES_S = [float(second) for second in range(16)]


def byte_tokenizer() -> Tokenizer:
    """A token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_values(record: dict[str, Any]) -> dict[str, Any]:
    """The group with what a learner finds for each token: a third of a nat more than the engine, and all tokens sure
    but the first one of each response."""
    responses = [
        {
            **one,
            "learner_log_probs": [value + 0.333 for value in one["log_probs"]],
            "entropy": [1.5, *[0.0] * (len(one["log_probs"]) - 1)],
        }
        for one in record["responses"]
    ]
    return {**record, "responses": responses}


def same_words(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """A similarity that needs no encoder: shared words over all words."""
    words = [[set(text.lower().strip(".").split()) for text in texts] for texts in (claims, references)]
    return np.array([[len(a & b) / len(a | b) for b in words[1]] for a in words[0]]).reshape(
        len(claims), len(references)
    )


def make_record(group_id: int, *, seed: int, size: int = 8, video: str, texts: Sequence[str] = ()) -> dict[str, Any]:
    """One group as a run logs it.

    Args:
        texts: responses in place of the first ones.
    """
    rng = np.random.default_rng(seed)
    events = make_events(rng)
    kind = KINDS[seed % 3]
    question = make_question(events, kind, rng=rng)
    target = Target(
        question.text,
        f"<answer>{letter_of(events[question.answer])}</answer>",
        tuple(COLOURS),
        "multiple choice",
        grounding(events),
    )
    written = [make_trace(events, question, faults=FAULTS, rng=rng) for _ in range(size)]
    written = [*texts, *written[len(texts) :]]
    scored = [score_response(text, target, _reward(), similarity=same_words) for text in written]
    sample = VideoSample(
        f"clip-{seed:05d}-{kind}",
        video,
        target.question,
        target.solution,
        target.temporal_grounding,
        "multiple choice",
        target.options,
    )
    return _record(group_id, sample, written, scored, rng)


@cache
def _reward() -> RewardConfig:
    return reward_config()


def _record(
    group_id: int, sample: VideoSample, texts: Sequence[str], scored: Sequence[Scored], rng: np.random.Generator
) -> dict[str, Any]:
    rewards = np.array([np.nan if one.reward is None else one.reward for one in scored], np.float32)
    advantages = grpo_advantages(rewards, np.zeros(len(rewards), np.int64), scale_by_std=True)
    rollouts = tuple(
        Rollout(
            np.frombuffer(text.encode(), np.uint8).astype(np.int64)[:200],
            -rng.exponential(0.2, min(200, len(text.encode()))).astype(np.float32),
            text,
            "stop",
            policy_version=0,
        )
        for text in texts
    )
    group = Group(group_id, sample.sample_id, rollouts)
    train = TrainGroup(
        group_id,
        PromptHandle(sample.sample_id, "key", 40, None),
        tuple(one.token_ids for one in rollouts),
        advantages=advantages,
    )
    [record] = rollout_records([group], [sample], [scored], [train])
    return {**record, "clip_key": "none", "frame_times_s": FRAME_TIMES_S, "prompt": sample.question}


def metrics_row(step: int) -> dict[str, float]:
    """A row of metrics.jsonl whose numbers follow from the step."""
    grown = 1 - 0.5 ** (step / 10)
    return {
        "step": step,
        "reward/mean": 1 + grown,
        "reward/std": 0.5,
        "reward/accuracy": 0.4 + 0.5 * grown,
        "reward/tac": 0.6 + 0.4 * grown,
        "reward/temporal_alignment": 0.3 + 0.5 * grown,
        "reward/tar_precision": 0.3 + 0.5 * grown,
        "reward/tar_recall": 0.25 + 0.5 * grown,
        "reward/format": 1.0,
        "actor/kl": 0.01 * grown,
        "actor/entropy": 0.3 - 0.2 * grown,
        "rollout/log_prob_gap_tail": 1e-5,
        "rollout/response_tokens_mean": 40.0 + step % 3,
        "rollout/staleness_mean": 0.0,
        "perf/rollout_rss_mib": 3000.0,
        "perf/rollout_idle_frac": 0.5,
        "timing_s/generate": 1.0,
        "timing_s/update": 0.8,
        "timing_s/step": 2.0,
    }


def write_config(run_dir: Path, *, media_dir: Path, num_steps: int, **changes: Any) -> None:
    """config.yaml, as far as the viewer reads it."""
    import dataclasses

    reward = dataclasses.asdict(_reward())
    reward = {**reward, "only_above_accuracy": dict(reward["only_above_accuracy"]), "extra": dict(reward["extra"])}
    video = {
        "fps": 1.0,
        "min_frames": 4,
        "max_frames": 16,
        "min_pixels": 784,
        "max_pixels": 784,
        "size_multiple": 14,
        "timestamps": False,
        "subtitles": False,
        "cache_dir": str(run_dir / "cache"),
    }
    tree = {
        "seed": 0,
        "output_dir": str(run_dir),
        "data": {"media_dir": str(media_dir)},
        "video": video,
        "algorithm": {"num_steps": num_steps, "advantage": "grpo", "mask_truncated": False},
        "reward": reward,
        **changes,
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def append_metrics(run_dir: Path, step: int) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics_row(step)) + "\n")


def write_step(run_dir: Path, step: int, records: Sequence[dict[str, Any]], *, index: bool = True) -> None:
    """A step's rollouts and metrics, as a run writes them."""
    path = run_dir / "rollouts" / f"step_{step:06d}.jsonl"
    write_jsonl_atomic(path, records)
    if index:
        index_step(path)
    append_metrics(run_dir, step)


def write_large_run(run_dir: Path, *, steps: int, groups: int, size: int, video: str = "clip.mp4") -> None:
    """A run of many steps; some groups are scored once and logged again and again under other numbers."""
    write_config(run_dir, media_dir=run_dir, num_steps=steps)
    pool = [make_record(0, seed=seed, size=size, video=video) for seed in range(32)]
    for step in range(1, steps + 1):
        ids = range((step - 1) * groups, step * groups)
        write_step(run_dir, step, [{**pool[number % len(pool)], "group_id": number} for number in ids])


def with_failure(record: dict[str, Any], number: int) -> dict[str, Any]:
    """The group with a response whose judging failed."""
    responses = list(record["responses"])
    one = responses[number]
    terms = {
        **one["terms"],
        "consistency": {"verdict": "failure", "value": None, "detail": {"reason": "judge is down"}},
    }
    responses[number] = {**one, "reward": None, "advantage": None, "terms": terms}
    return {**record, "responses": responses}


def numbered_clip(
    path: Path, times_s: Sequence[float], *, codec: str = "libx264", side: int = 128, **options: str
) -> Path:
    """A clip whose pictures carry their numbers: eight bars, white for 1."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_s in enumerate(times_s):
            bits = np.repeat([255 * (number >> bit & 1) for bit in range(8)], side // 8).astype(np.uint8)
            image = np.broadcast_to(bits[None, :, None], (side, side, 3)).copy()
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
