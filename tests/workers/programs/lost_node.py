"""A pool over two nodes, of which one is taken away in the middle of its work; what came of it, as JSON.

python lost_node.py
"""

from __future__ import annotations

import json
import time
from typing import Any

import ray
from ray.cluster_utils import Cluster

from workers.liveness import Pulse, pulse_after
from workers.pool import ActorPool, actor_class


class Worker:
    def start(self) -> None:
        pass

    def pulse(self, hold_s: float) -> Pulse:
        return pulse_after(hold_s)

    def where(self, number: int) -> tuple[int, str]:
        time.sleep(3)
        return number, ray.get_runtime_context().get_node_id()


def main() -> None:
    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
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
    first = dict(pool.map("where", [(0,), (1,)]))
    calls = [pool.submit("where", number) for number in range(6)]
    time.sleep(1)
    cluster.remove_node(second, allow_graceful=False)
    answers = [call.result(timeout=300) for call in calls]
    found = {
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
