"""What a rank takes of the node it is on."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("num_cpus", "num_gpus", "threads"), [(128, 8.0, 16), (20, 8.0, 2), (4, 8.0, 1), (16, 1.0, 16), (16, 0.0, 16)]
)
def test_a_rank_on_a_gpu_computes_with_its_share_of_the_nodes_cpus(
    num_cpus: int, num_gpus: float, threads: int
) -> None:
    from workers.learner.rank import threads_beside_a_gpu

    assert threads_beside_a_gpu(num_cpus, num_gpus=num_gpus) == threads
