"""The probes of an evaluation: reads samples.jsonl of a checkpoint, writes probes.jsonl and probes.json beside it."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from rewards.terms.accuracy import answer_kind, read_answer, reference_answer, target_options
from rewards.text.parsing import read_blocks
from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.dataset import target_of
from videor2_rl.evaluation import tac
from videor2_rl.evaluation.probes.interventions import INTERVENTIONS, altered_clip
from videor2_rl.evaluation.probes.model import ProbedModel
from videor2_rl.evaluation.summary import bootstrap_interval
from videor2_rl.run.files import write_json_atomic, write_jsonl_atomic
from videor2_rl.types import Prompt, VideoSample
from videor2_rl.video.load import load_clip

Probe: TypeAlias = Literal["attention", "interventions"]
MEASURES = ("answer_log_prob", "response_log_prob", "accuracy")
"""Of an intervention. answer_log_prob: of the true answer after the model's own reasoning about the true video, in
nats; response_log_prob: of its own response about the true video, in nats per token; accuracy: of the greedy response
to the altered video."""


def run_probes(
    folder: Path,
    responses: Mapping[str, str],
    samples: Sequence[VideoSample],
    *,
    probes: Sequence[Probe],
    model: ModelConfig,
    video: VideoConfig,
    device: str,
    max_tokens: int,
    resamples: int,
    seed: int,
    on_sample: Callable[[], None],
) -> dict[str, Any]:
    """Probe a checkpoint on its own responses, one sample at a time.

    Args:
        folder: of the evaluation; gets the two files.
        responses: sample id -> what the checkpoint said about the true video.
        samples: their rows.
        max_tokens: of a greedy response.
        on_sample: called after each sample.

    Returns:
        The content of probes.json.

    Raises:
        ConfigError: the checkpoint cannot be used.
        VideoError: a clip cannot be used, although the evaluation used it.
    """
    probed = ProbedModel(model, device=device)
    rows = []
    for sample in samples:
        clip, _ = load_clip(sample, video)
        prompt = probed.builder.build(sample, clip)
        row: dict[str, Any] = {"sample_id": sample.sample_id}
        response = responses[sample.sample_id]
        if "attention" in probes:
            _, share = probed.forced(prompt, probed.builder.encode_response(response))
            row["attention"] = dataclasses.asdict(share)
        if "interventions" in probes:
            prompts = {"true": prompt}
            # Seeded by the sample, so that every checkpoint sees the same shuffles.
            of_sample = zlib.crc32(f"{seed}-{sample.sample_id}".encode())
            for name in INTERVENTIONS:
                altered = altered_clip(sample, video, name, seed=of_sample)
                prompts[name] = probed.builder.build(sample, altered)
            row["interventions"] = {
                name: _measures(probed, seen, sample, response, max_tokens=max_tokens) for name, seen in prompts.items()
            }
        rows.append(row)
        on_sample()
    summary = _summary(rows, probes=probes, resamples=resamples, seed=seed)
    write_jsonl_atomic(folder / "probes.jsonl", rows)
    write_json_atomic(folder / "probes.json", summary)
    return summary


def _measures(
    probed: ProbedModel, prompt: Prompt, sample: VideoSample, response: str, *, max_tokens: int
) -> dict[str, float | None]:
    """MEASURES of one sample under one intervention; no answer block: no log-prob of the answer."""
    target = target_of(sample)
    reasoning, tag, _ = response.rpartition("<answer>")
    truth = str(reference_answer(target))
    log_probs, _ = probed.forced(prompt, probed.builder.encode_response(response))
    said = probed.greedy(prompt, max_tokens=max_tokens)
    return {
        "answer_log_prob": probed.log_prob_of(prompt, reasoning + tag, truth) if tag else None,
        "response_log_prob": float(np.mean(log_probs)),
        "accuracy": is_right(said, sample),
    }


def is_right(response: str, sample: VideoSample) -> float:
    """1 where the last answer block says the true answer."""
    target = target_of(sample)
    kind, options = answer_kind(target), target_options(target)
    truth = reference_answer(target)
    block = read_blocks(response, answer_block="last").answer
    answer = None if block is None else read_answer(block, kind, options)
    return tac.same_answer(answer, truth, tac.Question(kind, options, truth)) or 0.0


def _summary(
    rows: Sequence[Mapping[str, Any]], *, probes: Sequence[Probe], resamples: int, seed: int
) -> dict[str, Any]:
    """Means with bootstrap intervals, and for each intervention its paired difference from the true video."""

    def interval(values: Sequence[float | None]) -> dict[str, Any]:
        return dataclasses.asdict(bootstrap_interval(values, resamples=resamples, seed=seed))

    summary: dict[str, Any] = {"num_samples": len(rows)}
    if "attention" in probes:
        names = ("last_layer", "mean_layers", "uniform")
        summary["attention"] = {name: interval([row["attention"][name] for row in rows]) for name in names}
    if "interventions" in probes:
        summary["interventions"] = {
            name: {measure: interval(_column(rows, name, measure)) for measure in MEASURES}
            for name in ("true", *INTERVENTIONS)
        }
        summary["true_minus"] = {
            name: {
                measure: interval(
                    [
                        None if true is None or altered is None else true - altered
                        for true, altered in zip(
                            _column(rows, "true", measure), _column(rows, name, measure), strict=True
                        )
                    ]
                )
                for measure in MEASURES
            }
            for name in INTERVENTIONS
        }
    return summary


def _column(rows: Sequence[Mapping[str, Any]], name: str, measure: str) -> list[float | None]:
    return [row["interventions"][name][measure] for row in rows]
