"""The Ray cluster of a run: the one it was submitted to, a named one, or a local one that ends with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import ClusterConfig

logger = logging.getLogger(__name__)

START_ATTEMPTS = 3
COMMON_ENV = {
    # Models are folders: a run never waits for a hub.
    "HF_HUB_OFFLINE": "1",
    # Its own thread pool would fight with the other processes over the cores.
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def connected(config: ClusterConfig, *, worker_env: Mapping[str, str]) -> Iterator[None]:
    """Connect to the cluster, starting a local one where none is named, and let go of it in the end.

    Args:
        config: which cluster.
        worker_env: environment of every process that the run starts on the cluster, besides what all runs need. The
            driver gets it too, so that both sides import the same platform.
    """
    worker_env = {**COMMON_ENV, **worker_env}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Actors here ask for GPUs explicitly; unset, Ray warns of a coming change of its default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
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
    try:
        _init(address, {"runtime_env": {"env_vars": dict(worker_env)}, **local})
    except ConnectionError as error:
        raise ConfigError(
            f"cluster.address: cannot reach a Ray cluster at {address} ({error}); start one with `ray start --head`, "
            "or set cluster.address=null for a local one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _init(address: str, options: dict[str, Any]) -> None:
    """ray.init, tried again where a local cluster did not come up: Ray gives it 30 s, too few on a busy machine."""
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            # Workers' own output stays in Ray's logs; what went wrong in one reaches the driver as its exception.
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS - 1:
                raise
            logger.warning("the local Ray cluster did not start in time; trying again")
            ray.shutdown()
