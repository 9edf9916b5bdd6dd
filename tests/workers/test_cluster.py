"""A run is refused or waits before anything is started, and says for what."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import programs
import pytest
from cluster_configs import cluster_config

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.resources import Part
from workers import cluster
from workers.cluster import await_room, connected


def rollout(*, count: int = 1, cpus: float = 1, gpus: float = 0) -> Part:
    return Part("rollout worker", count, cpus, gpus, "rollout.num_workers")


class Cluster:
    """Nodes and what is free of them, as the loop that waits sees them; each look is one poll."""

    def __init__(self, *nodes: list[dict[str, float]], free: list[dict[str, float]] | None = None) -> None:
        self.nodes, self.free = list(nodes), free
        self.asked: list[list[str]] = []

    def look(self) -> list[dict[str, float]]:
        return self.nodes.pop(0) if len(self.nodes) > 1 else self.nodes[0]

    def held(self, parts: Any) -> str | None:
        if self.free is None:
            return None
        free = self.free.pop(0) if len(self.free) > 1 else self.free[0]
        return None if free["CPU"] >= sum(part.count * part.cpus for part in parts) else "held by others"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(there: Cluster) -> Cluster:
        monkeypatch.setattr(cluster, "POLL_S", 0.001)
        monkeypatch.setattr(cluster, "WAIT_LINE_S", 0.0)
        monkeypatch.setattr(cluster, "_nodes", there.look)
        monkeypatch.setattr(cluster, "_held_by_others", there.held)
        monkeypatch.setattr(cluster, "ask_for_nodes", lambda parts: there.asked.append([str(part) for part in parts]))
        return there

    return put


def test_what_the_cluster_lacks_is_refused_with_both_figures_and_the_mend(use: Any) -> None:
    use(Cluster([{"CPU": 2}]))
    config = cluster_config("t", num_cpus=2)
    said = "the run needs 5 CPUs .*, the cluster has 2 CPUs; .*cluster.num_cpus=5"
    with pytest.raises(ConfigError, match=said):
        await_room([rollout(count=5)], config, is_local=True)
    with pytest.raises(ConfigError, match=r"ray start --head --num-cpus=5.*cluster\.autoscaler=true"):
        await_room([rollout(count=5)], config, is_local=False)


def test_a_cluster_without_gpus_is_told_from_one_with_too_few(use: Any) -> None:
    use(Cluster([{"CPU": 8}]))
    config = cluster_config("t", device="cuda")
    with pytest.raises(ConfigError, match=r"found cuda, and this machine has no GPU; .*1 GPU.*add cluster=cpu"):
        await_room([rollout(gpus=1)], config, is_local=True)
    use(Cluster([{"CPU": 8, "GPU": 1}]))
    with pytest.raises(ConfigError, match=r"needs 2 CPUs and 2 GPUs .*, the cluster has 8 CPUs and 1 GPU"):
        await_room([rollout(count=2, gpus=1)], config, is_local=True)


def test_where_nodes_are_added_the_run_asks_for_them_and_waits(use: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    there = use(Cluster([{"CPU": 2}], [{"CPU": 2}], [{"CPU": 2}], [{"CPU": 2}, {"CPU": 4}]))
    await_room([rollout(count=6)], cluster_config("t", autoscaler=True), is_local=False)
    assert there.asked == [["rollout.num_workers=6 x 1 CPU"], []]
    assert "waiting for the cluster, 0 of 60 s: the run needs 6 CPUs" in caplog.text
    assert "the cluster has 2 CPUs" in caplog.text


def test_a_run_that_gives_up_asks_for_no_nodes_any_more(use: Any) -> None:
    there = use(Cluster([{"CPU": 2}]))
    with pytest.raises(ConfigError, match=r"cluster\.wait_s: still not enough"):
        await_room([rollout(count=6)], cluster_config("t", autoscaler=True, wait_s=0.02), is_local=False)
    assert there.asked == [["rollout.num_workers=6 x 1 CPU"], []]


def test_what_other_jobs_hold_is_waited_for_up_to_the_limit(use: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    use(Cluster([{"CPU": 2}], free=[{"CPU": 0}, {"CPU": 1}, {"CPU": 2}]))
    await_room([rollout(count=2)], cluster_config("t"), is_local=False)
    assert caplog.text.count("held by others") == 2
    use(Cluster([{"CPU": 2}], free=[{"CPU": 1}]))
    with pytest.raises(ConfigError, match=r"cluster\.wait_s: still not enough after 0\.02 s: held by others"):
        await_room([rollout(count=2)], cluster_config("t", wait_s=0.02), is_local=False)


@contextmanager
def listening() -> Iterator[int]:
    """A port at which something listens that is no Ray cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def answer() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    continue
                with peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def test_an_address_without_a_cluster_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REACH_S", 1.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
    with listening() as other:
        for port in (nobody, other):
            config = cluster_config("t", address=f"127.0.0.1:{port}")
            with (
                pytest.raises(ConfigError, match=rf"cannot reach a Ray cluster at 127\.0\.0\.1:{port}"),
                connected(config, worker_env={}),
            ):
                pass


@pytest.mark.slow
@pytest.mark.ray
def test_a_real_cluster_is_looked_at_and_let_go_of() -> None:
    """In a process of its own: one process connects to one cluster."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        script = (
            "import logging, threading, time\n"
            "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
            "from cluster_configs import cluster_config\n"
            "from videor2_rl.config.errors import ConfigError\n"
            "from videor2_rl.config.resources import Part\n"
            "from workers import cluster\n"
            f"config = cluster_config({folder!r}, num_cpus=2)\n"
            "def part(count): return Part('rollout worker', count, 1, 0, 'rollout.num_workers')\n"
            "with cluster.connected(config, worker_env={}, parts=[part(2)]):\n"
            "    import ray\n"
            "    try: cluster.await_room([part(3)], config, is_local=True)\n"
            "    except ConfigError as error: print('REFUSED', error)\n"
            "    held = ray.remote(num_cpus=1)(type('A', (), {})).remote()\n"
            "    while ray.available_resources().get('CPU') == 2: time.sleep(0.1)\n"
            "    threading.Timer(2, lambda: ray.kill(held)).start()\n"
            "    cluster.await_room([part(2)], config, is_local=True)\n"
            "    print('ROOM')\n"
            "try: ray.put(1)\n"
            "except Exception as error: print('AFTERWARDS', ray.is_initialized(), error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=programs.environment(), timeout=120
        )
    assert (
        "REFUSED cluster: the run needs 3 CPUs (rollout.num_workers=3 x 1 CPU), the cluster has 2 CPUs" in done.stdout
    )
    assert "the run needs 2 CPUs, other jobs leave 1 CPU" in done.stderr
    assert "ROOM" in done.stdout
    # Threads that ask on after the end start no cluster of their own.
    assert "AFTERWARDS False" in done.stdout
