"""What makes a step cheaper on CPUs, and changes nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

PASSES = """
import resource, sys
import torch
from workers.learner.engines.cpu_platform import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()

def one_pass():
    # Six activations of 20 MiB at once, all freed at the end.
    return len([torch.ones(5 << 20) for _ in range(6)])

one_pass(), one_pass()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    one_pass()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_of_a_pass_is_not_mapped_anew_in_the_next() -> None:
    found = {
        name: int(
            subprocess.run([sys.executable, "-c", PASSES, name], capture_output=True, text=True, check=True).stdout
        )
        for name in ("given back", "kept")
    }
    # A pass takes 30,720 pages of 4 KiB (fewer if they are huge).
    assert found["kept"] * 10 < found["given back"]


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=["", "amsgrad"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_fused_step_takes_the_weights_where_the_plain_one_does(kind: Any, options: dict[str, Any]) -> None:
    from workers.learner.engines.fsdp import fuse

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(30, 20, generator=generator)
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [kind([weight], lr=0.01, weight_decay=0.1, **options) for weight in weights]
    fuse(optimizers[1])
    assert optimizers[1].param_groups[0]["fused"] is True
    for _ in range(20):
        gradient = torch.randn(30, 20, generator=generator)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert float((weights[0] - start).detach().abs().max()) > 0.05
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.AdamW, {"foreach": True}), (torch.optim.AdamW, {"fused": False}), (torch.optim.SGD, {})],
)
def test_a_chosen_step_and_other_optimisers_stay(kind: Any, options: dict[str, Any]) -> None:
    from workers.learner.engines.fsdp import fuse

    optimizer = kind([torch.nn.Parameter(torch.zeros(3))], lr=0.1, **options)
    before = dict(optimizer.param_groups[0])
    fuse(optimizer)
    assert optimizer.param_groups[0] == before
