"""Groups with log-probs of all kinds, and the losses of ours on ranks and micro-batches of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import torch
from learner_configs import algorithm_config
from torch import Tensor

import conf
from videor2_rl.app import compose_run
from videor2_rl.config.algorithm import AlgorithmConfig, LossAggregation
from videor2_rl.config.runs import GrpoRun
from videor2_rl.model.packing import MicroBatch, PackedBatch
from videor2_rl.model.token_scores import TokenScores, token_scores
from videor2_rl.training.gap import gap_metrics, gap_of
from videor2_rl.types import PromptHandle, TrainGroup

VOCABULARY = 12
ALGORITHM = algorithm_config(prompts_per_step=3, group_size=2, clip_low=0.1, kl_coefficient=0.1, importance_cap=1.5)
NAMED = sorted(file.stem for file in (Path(conf.__file__).parent / "algorithm").glob("*.yaml"))
AGGREGATIONS: tuple[LossAggregation, ...] = get_args(LossAggregation)
OTHER_LOSSES = ("sapo", "gpg", "dppo_tv", "dppo_kl")


def a_group(rng: np.random.Generator, group_id: int, lengths: tuple[int, ...]) -> TrainGroup:
    def log_probs() -> tuple[np.ndarray, ...]:
        return tuple(-rng.uniform(1.5, 3.5, n).astype(np.float32) for n in lengths)

    return TrainGroup(
        group_id=group_id,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=tuple(rng.integers(0, VOCABULARY, n) for n in lengths),
        advantages=rng.normal(size=len(lengths)).astype(np.float32),
        old_log_probs=log_probs(),
        ref_log_probs=log_probs(),
        rollout_log_probs=log_probs(),
    )


def scores_of(logits: Tensor, targets: Tensor, *, temperature: float) -> TokenScores:
    """Those of a head whose logits are its hidden states."""
    return token_scores(logits, torch.eye(logits.shape[1]), targets, temperature=temperature)


def run(ranks: list[list[MicroBatch]], logits: dict[int, torch.Tensor], algorithm: AlgorithmConfig) -> Any:
    """Metrics and the gradient with respect to the logits, averaged over ranks as FSDP does."""
    from workers.learner import losses
    from workers.learner.verl_config import UpdateSpec, actor_config

    counted = [g for batches in ranks for batch in batches if batch.counts for g in batch.groups]
    lengths = [len(ids) for group in counted for ids in group.response_ids]
    spec = UpdateSpec(algorithm, 0.7, sum(lengths), len(lengths), num_ranks=len(ranks), max_response_tokens=16)
    leaves = {group_id: values.clone().requires_grad_() for group_id, values in logits.items()}
    sums, gaps = [], []
    for batches in ranks:
        parts = []
        for batch in batches:
            ids = [ids for group in batch.groups for ids in group.response_ids]
            # The losses read two fields of it.
            targets = torch.from_numpy(np.concatenate(ids))
            packed = cast(PackedBatch, SimpleNamespace(response_lengths=tuple(map(len, ids)), target_ids=targets))
            rows = torch.cat([leaves[group.group_id] for group in batch.groups])
            scores = scores_of(rows, targets, temperature=spec.temperature)
            loss, part = losses.policy_loss(scores, packed, batch, spec=spec, config=actor_config(spec))
            (loss / len(ranks)).backward()
            parts.append(part)
        sums.append(losses.to_sums(parts))
        gaps += [part.get("gap") for part in parts]
    # On real ranks these are gathered.
    metrics = {**losses.update_metrics(sums), **gap_metrics(gap_of(gaps))}
    return metrics, {group_id: leaf.grad for group_id, leaf in leaves.items()}


@cache
def algorithm_of(name: str) -> AlgorithmConfig:
    """A shipped algorithm; or GRPO with another aggregation, or with a loss of verl's that has no file of its own."""
    if name in AGGREGATIONS:
        return replace(ALGORITHM, loss_aggregation=cast(LossAggregation, name))
    if name in OTHER_LOSSES:
        algorithm = replace(ALGORITHM, policy_loss=name, clip_low=1e-4, clip_high=2e-4)
        return replace(algorithm, loss_aggregation="seq-mean-token-mean")
    paths = ["model.path=m", "data.train_file=t", "data.media_dir=d"]
    return replace(compose_run("grpo", GrpoRun, [f"algorithm={name}", *paths]).algorithm, importance_cap=1.5)
