"""A pool over two nodes that puts more into their object stores than fits there; then one of them is taken away in the
middle of its work. What came of it, as JSON.

python lost_node.py
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from workers.liveness import Pulse, pulse_after
from workers.pool import ActorPool, actor_class

STORE_BYTES = 100 << 20
OBJECTS, OBJECT_BYTES = 12, 30 << 20
"""As large as the prompts of long clips; the last one alone is larger than a store."""


class Worker:
    def start(self) -> None:
        pass

    def pulse(self, hold_s: float) -> Pulse:
        return pulse_after(hold_s)

    def where(self, number: int) -> tuple[int, str]:
        time.sleep(3)
        return number, ray.get_runtime_context().get_node_id()

    def put(self, number: int, num_bytes: int) -> list[Any]:
        return [ray.put(np.full(num_bytes, number, dtype=np.uint8))]

    def check(self, stored: np.ndarray[Any, Any]) -> tuple[int, int, int]:
        return len(stored), int(stored.min()), int(stored.max())


def main() -> None:
    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    second = cluster.add_node(**options)
    ray.init(address=cluster.address, log_to_driver=False)
    worker = actor_class(Worker)
    pool = ActorPool(
        "fake",
        size=2,
        create=lambda index: worker.options(num_cpus=1).remote(),
        prepare=lambda actor: actor.start.remote(),
        call_deadline_s=None,
        start_deadline_s=600,
        has_pulse=True,
    )
    pool.wait_ready()
    sizes = [*[OBJECT_BYTES] * OBJECTS, STORE_BYTES + OBJECT_BYTES]
    refs = [ref for (ref,) in pool.map("put", list(enumerate(sizes)))]
    stored = pool.map("check", [(ref,) for ref in refs])
    first = dict(pool.map("where", [(0,), (1,)]))
    calls = [pool.submit("where", number) for number in range(6)]
    time.sleep(1)
    cluster.remove_node(second, allow_graceful=False)
    answers = [call.result(timeout=300) for call in calls]
    found = {
        "stored_whole": sum(read == (sizes[number], number, number) for number, read in enumerate(stored)),
        "nodes_before": len(set(first.values())),
        "numbers": [number for number, _ in answers],
        "nodes_after": len({node for _, node in answers[2:]}),
        "replacements": pool.replacements,
        "states": sorted(pool.states().values()),
    }
    pool.shutdown()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
