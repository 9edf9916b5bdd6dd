"""What engines are given."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import psutil
import pytest

from workers.rollout.engine import EngineSpec, rollout_env, sample_seed


def test_every_response_of_a_run_has_its_own_seed() -> None:
    seeds = {sample_seed(*key) for key in itertools.product((0, 1, 2**40), range(40), range(8))}
    assert len(seeds) == 3 * 40 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_engine_on_the_cpu_gets_one_thread_and_one_on_a_gpu_is_left_alone(engine_spec: EngineSpec) -> None:
    assert rollout_env(engine_spec.rollout, "cpu")["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in rollout_env(engine_spec.rollout, "cuda")


@pytest.mark.slow
def test_an_engine_that_answers_has_no_files_for_its_sockets(engine: Any) -> None:
    connections = psutil.Process().net_connections("unix")
    sockets = [Path(connection.laddr) for connection in connections if "/vllm" in connection.laddr]
    assert sockets
    assert not any(path.exists() for path in sockets)
