"""Ranks that compute together: placed, started and asked as one; losing one loses all."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from workers.errors import DeadlineExceeded, RankLost
from workers.fetch import fetch
from workers.learner.beats import RankBeats

if TYPE_CHECKING:
    from collections.abc import Callable

    from verl.workers.config import TrainingWorkerConfig

_LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOOK_S = 5.0
"""In which a rank that is gone says so; and between two looks at whether one stands still."""
DEADLINE_S = 3600.0
"""No single call on all ranks is expected to take longer; a hung rank then ends the run with its number."""


@ray.remote(num_cpus=0)
def _free_address() -> tuple[str, int]:
    return ray.util.get_node_ip_address().strip("[]"), free_port()


def free_port() -> int:
    """A port that nobody listens on, and that no connection is given before rank 0 listens there some seconds later.

    Linux gives connections, and those who ask for any port, one of its local range; this one is below it.
    """
    lowest = int(_LOCAL_PORTS.read_text().split()[0]) if _LOCAL_PORTS.exists() else 32768
    for port in random.SystemRandom().sample(range(5000, max(lowest, 6000)), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("", port))
            return port
    raise RuntimeError("none of 100 ports is free for the ranks to meet")


class RankGroup:
    """Like workers, one per rank, that compute together; losing one loses all."""

    def __init__(
        self,
        name: str,
        config: TrainingWorkerConfig,
        *,
        num_ranks: int,
        cpus_per_rank: float,
        gpus_per_rank: float,
        seed: int,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Place the ranks and let them load the model in the background.

        Args:
            name: for messages and actor names, e.g. "learner".
            config: what verl's training worker takes.
            num_ranks: the size of the group, fixed for the run.
            cpus_per_rank: Ray CPUs.
            gpus_per_rank: Ray GPUs; 0 on CPUs.
            seed: of every rank's generators.
            deadline_s: seconds that any one call may take.
        """
        from verl.single_controller.ray.base import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup

        from workers.learner.rank import LearnerWorker

        self.name = name
        self.num_ranks = num_ranks
        self._deadline_s = deadline_s
        bundle = {"CPU": cpus_per_rank, "GPU": gpus_per_rank}
        # verl's own pool counts whole CPUs per rank; it takes a placement group that exists as it is.
        self._placement = placement_group([{k: v for k, v in bundle.items() if v}] * num_ranks, strategy="PACK")
        fetch(self._placement.ready(), deadline_s=deadline_s, what=f"placing {num_ranks} {name} ranks")
        use_gpu = gpus_per_rank > 0
        pool = RayResourcePool(process_on_nodes=[num_ranks], use_gpu=use_gpu, max_colocate_count=1, name_prefix=name)
        pool.pgs = [self._placement]  # type: ignore[assignment]
        remote_class = ray.remote(num_cpus=cpus_per_rank)(LearnerWorker)
        address, port = self._rendezvous()

        class PlacedGroup(RayWorkerGroup):
            """Told where rank 0 listens: verl would ask by a task of one whole CPU, and a place may hold less."""

            def _get_master_addr_port(self, *_: Any, **__: Any) -> None:
                self._master_addr, self._master_port = address, port  # type: ignore[assignment]

        self._workers = PlacedGroup(
            resource_pool=pool,
            ray_cls_with_init=RayClassWithInitArgs(remote_class, config=config),
            device_name="cuda" if use_gpu else "cpu",
            use_gpu=use_gpu,
        )
        self._beats = RankBeats(self._workers.workers)
        self._starting = self._workers.start(seed)  # type: ignore[attr-defined]
        self._turn = threading.Lock()

    def wait_ready(self) -> None:
        """Block until every rank holds the model."""
        with self._turn:
            self._wait_ready()

    def _wait_ready(self) -> None:
        # Libraries that load keep all threads of a rank waiting: a start has its deadline alone.
        gather(self._starting, name=self.name, what="starting", deadline_s=self._deadline_s)
        self._starting = []

    def _rendezvous(self) -> tuple[str, str]:
        """Where rank 0 will listen."""
        where = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=0)
        address, port = fetch(
            _free_address.options(scheduling_strategy=where).remote(),
            deadline_s=self._deadline_s,
            what=f"reaching the node of {self.name} rank 0",
        )
        return address, str(port)

    def run(self, method: str, *args: Any, what: str) -> list[Any]:
        """Call a worker method on all ranks, once they are ready, and gather the results."""
        return self.collect(self.begin(method, *args), what=what)

    def begin(self, method: str, *args: Any) -> list[Any]:
        """Call a worker method on all ranks, once they are ready; a reference for each."""
        # Several threads ask: all ranks must get their calls in one order, or their collectives wait for each other.
        with self._turn:
            self._wait_ready()
            return list(getattr(self._workers, method)(*args))

    def collect(self, refs: Sequence[Any], *, what: str) -> list[Any]:
        """What `begin` began, once it is done."""
        return gather(refs, name=self.name, what=what, deadline_s=self._deadline_s, silent=self._beats.silent)

    def is_lost(self) -> bool:
        """Whether a rank's process is gone, or stands still; ranks that are busy live."""
        refs = [rank.__ray_ready__.remote() for rank in self._workers.workers]
        return bool(_dead_ranks(refs, wait_s=LOOK_S) or self._beats.silent())

    def shutdown(self) -> None:
        """Kill the ranks and give their place back."""
        for worker in self._workers.workers:
            ray.kill(worker, no_restart=True)
        self._beats.end()
        ray.util.remove_placement_group(self._placement)


def gather(
    refs: Sequence[Any],
    *,
    name: str,
    what: str,
    deadline_s: float,
    silent: Callable[[], Sequence[int]] = tuple,
) -> list[Any]:
    """Each rank's result, in order; the first failure ends the wait, since the other ranks would wait for it.

    Args:
        refs: one per rank.
        name: of the rank group, for messages.
        what: was asked of the ranks, for messages.
        deadline_s: seconds to wait for the last rank.
        silent: the ranks that give no sign of life, asked for now and then.

    Raises:
        RankLost: names the ranks whose process died, or stands still.
        DeadlineExceeded: names the ranks that did not answer.
    """
    due = time.monotonic() + deadline_s
    pending, results = list(refs), {}
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=min(LOOK_S, max(0.0, due - time.monotonic())))
        if not done and (frozen := silent()):
            raise RankLost(f"{what}: {name} rank {', '.join(map(str, frozen))} stands still")
        if not done and time.monotonic() < due:
            continue
        if not done:
            ranks = ", ".join(str(refs.index(ref)) for ref in pending)
            raise DeadlineExceeded(f"{what}: {name} rank {ranks} did not answer within {deadline_s:g} s")
        for ref in done:
            rank = refs.index(ref)
            try:
                results[rank] = fetch(ref, what=f"{what} on {name} rank {rank}")
            except ray.exceptions.RayError as error:
                # When a rank dies, the others fail in their collectives, often before Ray has seen the death.
                if dead := _dead_ranks(refs, wait_s=LOOK_S):
                    raise RankLost(f"{what}: {name} rank {', '.join(map(str, dead))} died") from error
                raise
    return [results[rank] for rank in range(len(refs))]


def _dead_ranks(refs: Sequence[Any], *, wait_s: float) -> list[int]:
    """The ranks whose process is gone, among those that answer within `wait_s`."""
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=wait_s)
    dead = []
    for rank, ref in enumerate(refs):
        try:
            if ref in done:
                ray.get(ref)
        except ray.exceptions.RayActorError:
            dead.append(rank)
        except ray.exceptions.RayError:
            continue
    return dead
