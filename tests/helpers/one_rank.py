"""A learner of one gloo rank in a process of its own, without Ray: verl reads its environment at import."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from programs import ranks_context
from torch import Tensor

from videor2_rl.config.sections import LearnerConfig, ModelConfig
from videor2_rl.types import LogProbs, Prompt, TrainGroup

_worker: Any = None


@contextmanager
def one_rank(learner: LearnerConfig, model: ModelConfig) -> Iterator[ProcessPoolExecutor]:
    """A process to submit this module's functions to."""
    with ProcessPoolExecutor(1, mp_context=ranks_context()) as process:
        process.submit(_start, learner, model).result(timeout=300)
        yield process


def _start(learner: LearnerConfig, model: ModelConfig) -> None:
    global _worker
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from workers.learner.verl_config import learner_env, learner_worker_config

    os.environ.update(learner_env("cpu"), RAY_LOCAL_WORLD_SIZE="1")
    from workers.learner.rank import LearnerWorker

    _worker = LearnerWorker(learner_worker_config(learner, model, total_steps=10))
    _worker.start(0)


def log_probs(groups: Sequence[TrainGroup]) -> list[LogProbs]:
    """Of all groups packed into one sequence."""
    return list(_worker.log_probs(_share(groups), 1.0))


def encode(prompts: Sequence[Prompt]) -> list[Tensor]:
    """The visual embeddings of the prompts' clips."""
    with _worker.engine.eval_mode():
        return [_worker.engine.encode(prompt) for prompt in prompts]


def sft_step(groups: Sequence[TrainGroup]) -> float:
    """One optimiser step towards all responses; its gradient norm."""
    tokens = sum(len(ids) for group in groups for ids in group.response_ids)
    return float(_worker.sft_step(_share(groups), tokens, 1)[1]["grad_norm"])


def weights() -> dict[str, np.ndarray]:
    """Every weight under its name in the checkpoint, as it goes to the rollout workers."""
    return {name: tensor.numpy().copy() for name, tensor in _worker.engine.full_weights()}


def _share(groups: Sequence[TrainGroup]) -> list[Any]:
    from workers.learner.learner import plan

    return list(plan(list(groups), num_ranks=1, max_tokens=100_000)[0])
