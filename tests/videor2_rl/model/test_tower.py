from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from videor2_rl.model import tower
from videor2_rl.model.packed_attention import Rows
from videor2_rl.model.tower import PatchProjection, RunAttention, VarlenAttention, read_runs, speed_up_tower

# Two clips; in the first, windows of 4 x 4 patches end at the edge: of 16, 8 and 4 patches.
GRID = torch.tensor([[3, 6, 10], [2, 4, 4]])
PATCH = 7


def qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig

    vision = {"depth": 3, "num_heads": 2, "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 28}
    return Qwen2_5_VLConfig(text_config=TEXT, vision_config={**VISION, **vision})


def qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig

    vision = {"depth": 3, "num_heads": 2, "out_hidden_size": 32, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLConfig(text_config=TEXT, vision_config={**VISION, **vision, "num_position_embeddings": 25})


TEXT = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
VISION = {"hidden_size": 32, "intermediate_size": 48, "patch_size": PATCH, "initializer_range": 0.2}


@pytest.fixture(params=[qwen2_5_vl, qwen3_vl], ids=["qwen2_5_vl", "qwen3_vl"])
def towers(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model as transformers builds it, and a copy with the faster tower."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    plain = AutoModelForImageTextToText.from_config(request.param()).eval()
    fast = copy.deepcopy(plain)
    speed_up_tower(fast)
    return plain, fast


def encoded(model: Any) -> torch.Tensor:
    pixels = torch.randn(int(GRID.prod(1).sum()), 3 * 2 * PATCH**2, generator=torch.Generator().manual_seed(1))
    features = model.get_video_features(pixels, GRID, return_dict=True)
    return torch.cat([torch.cat(tuple(features.pooler_output)), *(features.get("deepstack_features") or ())], dim=1)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
def test_features_and_gradients_are_those_of_transformers(towers: tuple[Any, Any], checkpointing: bool) -> None:
    _, fast = towers
    if checkpointing:
        fast.train()
        fast.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    outputs = [encoded(model) for model in towers]
    scale = float(outputs[0].detach().abs().max())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-6 * scale)
    for output in outputs:
        output.square().sum().backward()
    gradients = [
        {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        for model in towers
    ]
    assert any(".blocks.2." in name for name in gradients[0]) and gradients[0].keys() == gradients[1].keys()
    # The keys' bias moves every score of a row alike: its gradient is 0 but for rounding.
    whole = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-5 * whole, msg=name)


class Calls(TorchDispatchMode):
    """The names of all ops."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    def count(self, part: str) -> int:
        return sum(part in name for name in self.names)


def test_a_layer_takes_one_call_for_each_length_of_windows(towers: tuple[Any, Any]) -> None:
    is_windowed = towers[0].config.model_type == "qwen2_5_vl"
    seen = []
    for model in towers:
        with torch.no_grad(), Calls() as calls:
            encoded(model)
        seen.append(calls)
    # A frame of 6 x 10 has six windows (16, 16, 8, 8, 8, 4), one of 4 x 4 a single one; there are 3 + 2 frames.
    windows, lengths = (3 * 6 + 2, 3) if is_windowed else (0, 0)
    # Layers 0 and 2 of Qwen2.5-VL are windowed, the other one and all of Qwen3-VL's take frames, of two lengths.
    full_layers = 1 if is_windowed else 3
    assert seen[0].count("scaled_dot_product") == 2 * windows + full_layers * 5
    assert seen[1].count("scaled_dot_product") == 2 * lengths + full_layers * 2
    assert seen[1].count("aten.convolution") == 0


def test_bounds_are_read_once_for_all_layers_of_a_kind(
    towers: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []

    def counted(bounds: torch.Tensor) -> Any:
        read.append(bounds.tolist())
        return read_runs(bounds)

    monkeypatch.setattr(tower, "read_runs", counted)
    with torch.no_grad():
        encoded(towers[1])
    frames = [0, 60, 120, 180, 196, 212]
    assert read[-1] == frames and len(read) == (2 if towers[1].config.model_type == "qwen2_5_vl" else 1)


def test_patches_are_projected_as_by_the_convolution() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv3d(3, 5, kernel_size=(2, 7, 7), stride=(2, 7, 7)).double()
    fast = PatchProjection(3, 5, kernel_size=(2, 7, 7), stride=(2, 7, 7)).double()
    fast.load_state_dict(plain.state_dict())
    patches = torch.randn(4, 3, 2, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(fast(patches), plain(patches), rtol=0, atol=1e-13)


def test_runs_see_themselves_alone_and_empty_ones_do_no_harm() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 9, 8, dtype=torch.float64)
    bounds = torch.tensor([0, 3, 3, 5, 8, 9], dtype=torch.int32)
    found, weights = RunAttention()(torch.nn.Identity(), query, key, value, scaling=0.5, cu_seq_lens_q=bounds)
    runs = [range(0, 3), range(3, 5), range(5, 8), range(8, 9)]
    mask = torch.tensor([[any(a in run and b in run for run in runs) for b in range(9)] for a in range(9)])
    expected = F.softmax((query @ key.mT * 0.5).masked_fill(~mask, -torch.inf), dim=-1) @ value
    assert weights is None
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=0, atol=1e-13)


def test_on_cuda_one_kernel_call_does_all_windows() -> None:
    # No GPU here: fake tensors have shapes, dtypes and devices alone.
    with FakeTensorMode(allow_non_fake_inputs=True), Calls() as calls:
        states = [torch.empty(160, 16, 80, dtype=torch.bfloat16, device="cuda") for _ in range(3)]
        output = VarlenAttention.apply(*states, Rows.of([(0, 64), (64, 128), (128, 160)], "cuda"), 0.1)
    assert (output.shape, output.dtype, output.device.type) == ((160, 16, 80), torch.bfloat16, "cuda")
    assert calls.count("flash_attention_forward") == 1
