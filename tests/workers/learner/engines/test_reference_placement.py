"""Where the weights of a forward-only FSDP2 model wait between passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import CPUOffloadPolicy


@pytest.mark.slow
@pytest.mark.parametrize("cpu_offload", [False, True])
def test_a_reference_stays_on_its_gpu_where_it_is_not_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, cpu_offload: bool
) -> None:
    """What verl would give to torch's fully_shard, on whatever device."""
    from verl.workers.engine.fsdp import transformer_impl

    from workers.learner.engines.fsdp import PackedFSDPEngine, PackedFSDPEngineConfig

    given: dict[str, Any] = {}
    monkeypatch.setattr(transformer_impl, "apply_fsdp2", lambda module, options, config: given.update(options))
    monkeypatch.setattr(transformer_impl, "fsdp2_load_full_state_dict", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    engine: Any = PackedFSDPEngine.__new__(PackedFSDPEngine)
    engine.engine_config = PackedFSDPEngineConfig(
        strategy="fsdp2",
        forward_only=True,
        offload_policy=cpu_offload,
        mixed_precision={"param_dtype": "bf16", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
    )
    engine.model_config = SimpleNamespace(lora_rank=0, enable_activation_offload=False)
    engine.device_mesh = SimpleNamespace(ndim=1)
    engine._build_fsdp_module(torch.nn.Linear(2, 2))
    assert isinstance(given["offload_policy"], CPUOffloadPolicy) == cpu_offload
    assert engine.engine_config.forward_only
