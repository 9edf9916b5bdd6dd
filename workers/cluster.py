"""The Ray cluster of a run: the one it was submitted to, a named one, or a local one that ends with it."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.resources import Part, amounts, shortfall, total
from videor2_rl.config.sections import ClusterConfig

logger = logging.getLogger(__name__)

START_ATTEMPTS = 3
WAIT_LINE_S = 30.0
"""Seconds between two lines that say what is waited for."""
POLL_S = 1.0
REACH_S = 10.0
"""Seconds in which a named cluster must answer."""
COMMON_ENV = {
    # Models are folders: a run never waits for a hub.
    "HF_HUB_OFFLINE": "1",
    # Its own thread pool would fight with the other processes over the cores.
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def connected(config: ClusterConfig, *, worker_env: Mapping[str, str], parts: Sequence[Part] = ()) -> Iterator[None]:
    """Connect to the cluster, starting a local one where none is named, and let go of it in the end.

    Args:
        config: which cluster.
        worker_env: environment of every process that the run starts on the cluster, besides what all runs need. The
            driver gets it too, so that both sides import the same platform.
        parts: what the run will start; the block begins when the cluster has room for all of it.

    Raises:
        ConfigError: no cluster can be reached, or it cannot hold the parts.
    """
    worker_env = {**COMMON_ENV, **worker_env}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Actors here ask for GPUs explicitly; unset, Ray warns of a coming change of its default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A thread that still asks when the run has let go of its cluster would start another one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.update(worker_env)
    import ray

    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    local = {}
    if address == "local":
        # Ray would start an idle Python process for each logical CPU, and actors do not use them.
        os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112 (Ray spells it so)
        local = {
            "num_cpus": config.num_cpus,
            "include_dashboard": False,
            "object_store_memory": config.object_store_mib * 2**20,
            "_temp_dir": config.temp_dir,
        }
    if address not in ("local", "auto"):
        _check_reachable(address)
    try:
        _init(address, {"runtime_env": {"env_vars": dict(worker_env)}, **local})
    except ConnectionError as error:
        raise _unreachable(address, str(error)) from error
    try:
        await_room(parts, config, is_local=address == "local")
        yield
    finally:
        ray.shutdown()


def gcs_address() -> str:
    """Of the connected cluster, as `cluster.address` and RAY_ADDRESS take it."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def await_room(parts: Sequence[Part], config: ClusterConfig, *, is_local: bool) -> None:
    """Return when the connected cluster has room for the parts; says every half minute what it waits for.

    It waits where the cluster adds nodes (`cluster.autoscaler`), or where other jobs hold what there is.

    Raises:
        ConfigError: the cluster lacks what the run needs, or did not get it within `cluster.wait_s`.
    """
    lacking = shortfall(parts, _nodes())
    if lacking is not None and not config.autoscaler:
        raise ConfigError(_refusal(lacking, parts, config, is_local=is_local))
    if lacking is not None:
        ask_for_nodes(parts)
    try:
        _wait_for_room(parts, wait_s=config.wait_s)
    finally:
        # Also of a run that gave up: the cluster would keep the nodes for it.
        if lacking is not None:
            ask_for_nodes([])


def _wait_for_room(parts: Sequence[Part], *, wait_s: float) -> None:
    started = time.monotonic()
    next_line_s = 0.0
    while (waits_for := shortfall(parts, _nodes()) or _held_by_others(parts)) is not None:
        waited_s = time.monotonic() - started
        if waited_s > wait_s:
            raise ConfigError(f"cluster.wait_s: still not enough after {wait_s:g} s: {waits_for}")
        if waited_s >= next_line_s:
            logger.info("waiting for the cluster, %.0f of %g s: %s", waited_s, wait_s, waits_for)
            next_line_s += WAIT_LINE_S
        time.sleep(POLL_S)


def _refusal(lacking: str, parts: Sequence[Part], config: ClusterConfig, *, is_local: bool) -> str:
    """What lacks, and the mend."""
    if config.device == "cuda" and not any(node.get("GPU", 0) for node in _nodes()):
        where = "this machine" if is_local else "the cluster"
        return (
            f"cluster.device: found cuda, and {where} has no GPU; {lacking}; add cluster=cpu "
            "to run on CPUs, or name a cluster with GPUs as cluster.address"
        )
    cpus = math.ceil(total(parts)["CPU"])
    more = f"cluster.num_cpus={cpus}" if is_local else f"ray start --head --num-cpus={cpus}"
    return (
        f"cluster: {lacking}; ask for fewer workers, give more nodes or logical CPUs ({more}), or set "
        "cluster.autoscaler=true where the cluster adds nodes"
    )


def _nodes() -> list[dict[str, float]]:
    """Each living node's resources."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _held_by_others(parts: Sequence[Part]) -> str | None:
    """What is there but not free; None: enough is."""
    import ray

    free, needed = ray.available_resources(), total(parts)
    if all(free.get(kind, 0) >= amount for kind, amount in needed.items()):
        return None
    return f"the run needs {amounts(needed)}, other jobs leave {amounts(free, like=needed)}"


def ask_for_nodes(parts: Sequence[Part]) -> None:
    """Tell the cluster's autoscaler what is needed in total, in place of what it was told before; nothing: what the
    run's own actors hold is enough."""
    from ray.autoscaler.sdk import request_resources

    bundles = [{"CPU": part.cpus, "GPU": part.gpus} for part in parts for _ in range(part.count)]
    request_resources(bundles=[{kind: amount for kind, amount in bundle.items() if amount} for bundle in bundles])


def _check_reachable(address: str) -> None:
    """Ray itself would try for a minute and more, and then end the process.

    Raises:
        ConfigError: nothing at the address speaks gRPC, as a Ray head does.
    """
    import grpc

    # A cluster behind TLS wants certificates that only Ray knows of.
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    with grpc.insecure_channel(address.removeprefix("ray://")) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=REACH_S)
        except grpc.FutureTimeoutError:
            raise _unreachable(address, f"no answer within {REACH_S:g} s") from None


def _unreachable(address: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cluster.address: cannot reach a Ray cluster at {address} ({reason}); start one with `ray start --head` and "
        "give the address that it prints, or set cluster.address=null for a local one"
    )


def _init(address: str, options: dict[str, Any]) -> None:
    """ray.init, tried again where a local cluster did not come up: Ray gives it 30 s, too few on a busy machine."""
    import ray

    # Ray puts a handler of its own, which ends the process without a word; the run's own stays.
    handler = signal.getsignal(signal.SIGTERM)
    for attempt in range(START_ATTEMPTS):
        try:
            # Workers' own output stays in Ray's logs; what went wrong in one reaches the driver as its exception.
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
            if callable(handler) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS - 1:
                raise
            logger.warning("the local Ray cluster did not start in time; trying again")
            ray.shutdown()
