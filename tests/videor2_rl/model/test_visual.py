"""Embeddings in place of pixels: same numbers, no tower; Qwen2.5-VL and Qwen3-VL with its DeepStack layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from videor2_rl.model.packing import PixelNorm
from videor2_rl.model.visual import encode_clip, smallest_clip, without_tower

VIDEO = 10
NORM = PixelNorm((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
GRIDS = (np.array([[3, 4, 4]]), np.array([[2, 4, 6]]))
VISION = {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 7}
TEXT: dict[str, Any] = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
TOKENS = {"image_token_id": 9, "video_token_id": VIDEO, "vision_start_token_id": 7, "vision_end_token_id": 8}


def a_model(family: str) -> Any:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    torch.manual_seed(0)
    text = {**TEXT, **HEADS, "rope_parameters": ROPE}
    if family == "qwen2_5_vl":
        vision = {**VISION, "out_hidden_size": 64, "fullatt_block_indexes": [1], "window_size": 28}
        return Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, initializer_range=0.2, **TOKENS)
        ).eval()
    vision = {**VISION, "out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, initializer_range=0.2, **TOKENS)
    ).eval()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_embeddings_give_the_log_probs_and_gradients_of_pixels_without_the_tower(family: str) -> None:
    model = a_model(family)
    model.model.visual.requires_grad_(False)
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (int(grid.prod()), 3 * 2 * 7 * 7), dtype=np.uint8) for grid in GRIDS]
    embeddings = [encode_clip(model, clip, grid, pixel_norm=NORM) for clip, grid in zip(clips, GRIDS, strict=True)]
    assert [len(each) for each in embeddings] == [12, 12]
    ids = [rng.integers(11, 50, 4), np.full(12, VIDEO), rng.integers(11, 50, 3), np.full(12, VIDEO), np.array([20, 21])]
    input_ids = torch.tensor(np.concatenate(ids))[None]
    common = {
        "input_ids": input_ids,
        "position_ids": torch.arange(input_ids.shape[1]).expand(3, 1, -1),
        "video_grid_thw": torch.tensor(np.concatenate(GRIDS)),
    }
    scale = np.repeat(NORM.std, 98).astype(np.float32)
    pixels = (np.concatenate(clips) / np.float32(255) - np.repeat(NORM.mean, 98).astype(np.float32)) / scale

    def outcome(visual: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        log_probs = model(pixel_values_videos=visual, **common).logits[0].log_softmax(-1)
        log_probs[:, 20].sum().backward()
        return log_probs.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected, expected_gradients = outcome(torch.tensor(pixels))
    passes: list[int] = []
    model.model.visual.register_forward_hook(lambda *_: passes.append(1))
    with without_tower(model):
        found, gradients = outcome(torch.cat(embeddings))
    assert passes == []
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-4)
    # Afterwards pixels are pixels again.
    outcome(torch.tensor(pixels))
    assert passes == [1]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_smallest_clip_is_one_merged_patch(family: str) -> None:
    model = a_model(family)
    patches, grid = smallest_clip(model.config.vision_config)
    assert len(encode_clip(model, patches, grid, pixel_norm=NORM)) == 1
