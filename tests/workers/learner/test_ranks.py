"""Waiting for ranks that compute together, with plain Ray actors in their place."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from cluster_configs import cluster_config

from workers.cluster import connected
from workers.errors import RankLost
from workers.fetch import DeadlineExceeded
from workers.learner import ranks as ranks_module
from workers.learner.beats import RankBeats
from workers.learner.ranks import free_port, gather

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0)
class Rank:
    def answer(self, value: int, delay_s: float = 0.0) -> int:
        time.sleep(delay_s)
        return value

    def fail(self) -> None:
        raise RuntimeError("connection closed by peer")

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        time.sleep(1.0)
        os._exit(1)


# The decorator's type is the plain class's.
ACTOR: Any = Rank


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[ray.actor.ActorHandle]]:
    # A short path: Ray's sockets live under it, and their names are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray_", ignore_cleanup_errors=True) as folder:
        config = cluster_config(folder, num_cpus=2, object_store_mib=100)
        with connected(config, worker_env={}):
            yield [ACTOR.remote() for _ in range(3)]


def test_results_come_in_the_order_of_the_ranks(ranks: list[ray.actor.ActorHandle]) -> None:
    refs = [rank.answer.remote(index, 0.3 - 0.1 * index) for index, rank in enumerate(ranks)]
    assert gather(refs, name="learner", what="counting", deadline_s=60) == [0, 1, 2]


def test_silent_ranks_are_named(ranks: list[ray.actor.ActorHandle]) -> None:
    refs = [ranks[0].answer.remote(0), ranks[1].answer.remote(1, 4.0), ranks[2].answer.remote(2)]
    ray.get([refs[0], refs[2]])
    with pytest.raises(DeadlineExceeded, match="counting: learner rank 1 did not answer"):
        gather(refs, name="learner", what="counting", deadline_s=1)


def test_error_of_one_rank_ends_the_wait_for_the_others(ranks: list[ray.actor.ActorHandle]) -> None:
    with pytest.raises(RuntimeError, match="connection closed"):
        gather([ranks[0].answer.remote(0, 20.0), ranks[2].fail.remote()], name="learner", what="x", deadline_s=60)


def test_dead_rank_is_named_although_the_others_fail_first(ranks: list[ray.actor.ActorHandle]) -> None:
    victim = ACTOR.remote()
    ray.get(victim.answer.remote(0))
    with pytest.raises(RankLost, match="the update: learner rank 1 died"):
        gather([ranks[2].fail.remote(), victim.die.remote()], name="learner", what="the update", deadline_s=60)


def test_rank_that_stands_still_is_found_by_its_silence_and_one_that_computes_is_not(
    ranks: list[ray.actor.ActorHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = ACTOR.remote()
    pid = ray.get(frozen.pid.remote())
    beats = RankBeats([ranks[0], frozen])
    # Both have been heard of.
    ray.get([ranks[0].answer.remote(0), frozen.answer.remote(1)])
    monkeypatch.setattr(ranks_module, "LOOK_S", 0.5)
    busy = ranks[0].answer.remote(0, 3.0)
    assert gather([busy], name="learner", what="x", deadline_s=60, silent=beats.silent) == [0]
    monkeypatch.setattr("workers.learner.beats.SILENT_S", 8.0)
    os.kill(pid, signal.SIGSTOP)
    asked = [ranks[0].answer.remote(0, 20.0), frozen.answer.remote(1)]
    with pytest.raises(RankLost, match="the update: learner rank 1 stands still"):
        gather(asked, name="learner", what="the update", deadline_s=60, silent=beats.silent)
    ray.kill(frozen)
    beats.end()


def test_ranks_meet_on_free_ports_that_no_connection_is_given() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(20)}
    assert all(5000 <= port < lowest for port in ports)
    # Drawn, so that two runs on one machine hardly ever meet on the same one.
    assert len(ports) > 10
    with socket.socket() as taken:
        taken.bind(("", min(ports)))
        taken.listen()
        assert all(free_port() != min(ports) for _ in range(20))
