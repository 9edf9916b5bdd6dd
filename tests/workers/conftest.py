"""One tiny checkpoint and one vLLM engine for all tests of the workers, and a Ray cluster for each module that asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from videor2_rl.config.sections import RolloutConfig
from workers.rollout.engine import EngineSpec, rollout_env
from workers.rollout.worker import RolloutWorker

T = TypeVar("T")


def rollout_config(**changes: Any) -> RolloutConfig:
    values: dict[str, Any] = {
        "num_workers": 1,
        "min_workers": None,
        "max_workers": None,
        "standby": 0,
        "cpus_per_worker": 1,
        "gpus_per_worker": 0,
        "tensor_parallel_size": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_response_tokens": 32,
        "max_model_tokens": 256,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "block_size": 32,
        "kv_cache_gib": 1,
        "gpu_memory_utilization": 0.5,
        "reproducible": True,
        "deadline_s": 120.0,
        "on_update": "continue",
        "max_prepared_mib": 64,
    }
    return RolloutConfig(**{**values, **changes})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from videor2_rl.demo.model import make_model

    folder = tmp_path_factory.mktemp("checkpoint")
    make_model(folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def engine_spec(checkpoint: Path, tokenizer: Any) -> EngineSpec:
    names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    banned = tuple(tokenizer.convert_tokens_to_ids(list(names)))
    return EngineSpec(rollout_config(), str(checkpoint), "float32", "cpu", False, banned)


class Engine:
    """A rollout worker without Ray: its coroutines run to their end on the loop of the session."""

    def __init__(self, spec: EngineSpec) -> None:
        self.loop = asyncio.new_event_loop()
        self.worker = self.run(_make(spec))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)


async def _make(spec: EngineSpec) -> RolloutWorker:
    worker = RolloutWorker(spec)
    await worker.start()
    return worker


@contextmanager
def running(spec: EngineSpec) -> Iterator[Engine]:
    before = dict(os.environ)
    os.environ.update(rollout_env(spec.rollout, spec.device))
    engine = Engine(spec)
    yield engine
    engine.run(engine.worker.stop())
    engine.loop.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def engine(engine_spec: EngineSpec) -> Iterator[Engine]:
    with running(engine_spec) as engine:
        yield engine


@pytest.fixture(scope="session")
def start_engine() -> Callable[[EngineSpec], AbstractContextManager[Engine]]:
    """For a module with a checkpoint of its own."""
    return running


# --- Ray ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local cluster of 8 logical CPUs; a module's own, for its environment differs from other modules'."""
    import tempfile

    from cluster_configs import cluster_config

    from workers.cluster import connected

    # Not pytest's folder: Ray's socket paths must stay short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        config = cluster_config(folder, address=None)
        with connected(config, worker_env=rollout_env(rollout_config(), "cpu")):
            yield
