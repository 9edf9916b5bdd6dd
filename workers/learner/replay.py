"""A logged step's update made again, by one rank in this process: no Ray, and nothing that is kept."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun
from videor2_rl.model.packing import only_in_loss, split_groups
from videor2_rl.run.checkpoint import read_checkpoint
from videor2_rl.training.trainer import update_batches, update_gives_old_log_probs
from videor2_rl.types import LogProbs, TrainGroup
from workers.learner.verl_config import UpdateSpec, learner_env, learner_worker_config

if TYPE_CHECKING:
    from workers.learner.rank import LearnerWorker

COMPARED = ("actor/loss", "actor/pg_loss", "actor/kl", "actor/entropy", "actor/ratio_mean", "actor/grad_norm")
"""Metrics of an update that say whether it is the same one."""


def checkpoint_before(run_dir: Path, step: int) -> Path | None:
    """The checkpoint that a step began with; None for the first step, which began with the model.

    Raises:
        ConfigError: the run kept none of it.
    """
    if step == 1:
        return None
    path = run_dir / "checkpoints" / f"step_{step - 1:06d}"
    if not path.is_dir():
        kept = sorted(int(one.name.removeprefix("step_")) for one in (run_dir / "checkpoints").glob("step_*"))
        after = ", ".join(["1", *(str(one + 1) for one in kept)])
        raise ConfigError(f"--loss: there is no checkpoint after step {step - 1}; can be made again: {after}")
    return read_checkpoint(path).path


def update_again(run: GrpoRun, groups: Sequence[TrainGroup], checkpoint: Path | None) -> dict[str, float]:
    """The metrics of a step's update, mean over its optimiser steps.

    Args:
        groups: with advantages, and their prompts themselves as `prompt.ref`.
        checkpoint: what the step began with; None: `model.path`.

    Raises:
        ConfigError: checkpoint and model do not fit, or no response is in the loss.
        LogProbGapError: these weights are not those that sampled the responses.
    """
    from videor2_rl.training.upkeep import mean_of

    worker = _start(run)
    used = list(groups)
    temperature = run.rollout.temperature
    if run.algorithm.kl_coefficient > 0:
        # Before the checkpoint is loaded these are the model that training began with, or its base under an adapter.
        ref = _log_probs(worker, used, run)
        used = [replace(group, ref_log_probs=one.at_temperature) for group, one in zip(used, ref, strict=True)]
    if checkpoint is not None:
        worker.load(str(checkpoint))
    if not update_gives_old_log_probs(used, run=run):
        old = _log_probs(worker, used, run)
        used = [replace(group, old_log_probs=one.at_temperature) for group, one in zip(used, old, strict=True)]
    parts = update_batches(used, algorithm=run.algorithm)
    if not parts:
        raise ConfigError("--loss: no response of the step is in the loss; there is no update to make again")
    return mean_of([_update(worker, part, run, temperature=temperature) for part in parts])


def _start(run: GrpoRun) -> LearnerWorker:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    # verl reads its environment at import.
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update(learner_env(run.cluster.device), RAY_LOCAL_WORLD_SIZE="1")
    from transformers.utils.logging import disable_progress_bar

    from workers.learner.rank import LearnerWorker

    disable_progress_bar()
    learner = replace(run.learner, num_ranks=1, sequence_parallel_size=1)
    steps = run.algorithm.num_steps * run.algorithm.updates_per_batch
    worker = LearnerWorker(learner_worker_config(learner, run.model, total_steps=steps))
    worker.start(run.seed)
    return worker


def _log_probs(worker: LearnerWorker, groups: Sequence[TrainGroup], run: GrpoRun) -> list[LogProbs]:
    """In the order of the groups."""
    found = worker.log_probs(_share(groups, run), run.rollout.temperature)
    by_group: dict[int, list[LogProbs]] = {}
    for one in found:
        by_group.setdefault(one.group_id, []).append(one)
    return [
        LogProbs(
            group.group_id,
            tuple(values for part in by_group[group.group_id] for values in part.at_temperature),
            tuple(values for part in by_group[group.group_id] for values in part.raw),
        )
        for group in groups
    ]


def _update(
    worker: LearnerWorker, groups: Sequence[TrainGroup], run: GrpoRun, *, temperature: float
) -> dict[str, float]:
    from videor2_rl.training.gap import check_gap
    from workers.learner.losses import update_metrics

    kept = [group for group in map(only_in_loss, groups) if group.response_ids]
    lengths = [len(ids) for group in kept for ids in group.response_ids]
    spec = UpdateSpec(
        algorithm=run.algorithm,
        temperature=temperature,
        is_tempered=run.rollout.is_tempered,
        batch_tokens=sum(lengths),
        batch_responses=len(lengths),
        num_ranks=1,
        max_response_tokens=run.rollout.max_response_tokens,
    )
    sums, common = worker.update(_share(kept, run), spec)
    check_gap(common.get("gap"), run.algorithm)
    numbers = {name: value for name, value in common.items() if isinstance(value, int | float | np.floating)}
    return {**update_metrics([sums]), **{f"actor/{name}": float(value) for name, value in numbers.items()}}


def _share(groups: Sequence[TrainGroup], run: GrpoRun) -> list[Any]:
    from workers.learner.learner import plan

    most = run.learner.max_tokens_per_micro_batch
    parts = split_groups(list(groups), max_tokens=most, num_ranks=1)
    return list(plan([part for of_group in parts for part in of_group], num_ranks=1, max_tokens=most)[0])
