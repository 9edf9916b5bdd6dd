"""What makes a step cheaper on CPUs, and changes nothing else."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

ONE_PASS = """
import ctypes, sys
import torch
from workers.learner.engines.cpu_platform import keep_freed_memory

class Memory(ctypes.Structure):
    # glibc's struct mallinfo2.
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
before = mallinfo().arena
# Six activations of 20 MiB at once, all freed at the end.
held = [torch.ones(5 << 20) for _ in range(6)]
del held
print(mallinfo().arena - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's allocator, from 2.33 on")
def test_memory_that_a_pass_freed_stays_for_the_next() -> None:
    stays = {
        name: int(
            subprocess.run([sys.executable, "-c", ONE_PASS, name], capture_output=True, text=True, check=True).stdout
        )
        for name in ("given back", "kept")
    }
    assert stays["kept"] >= 6 * 20 << 20
    assert stays["given back"] < 20 << 20


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
