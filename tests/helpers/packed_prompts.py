"""Prompts of a tiny Qwen2.5-VL made of random tokens and pixels, and their log-probs by transformers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from videor2_rl.types import Prompt

PATCH_VALUES = 3 * 2 * 7 * 7


def a_prompt(rng: np.random.Generator, *, video_token: int, frames: int) -> Prompt:
    grid = np.array([[frames, 4, 4]])
    video = np.stack([axis.ravel() for axis in np.indices((frames, 2, 2))]) * np.array([[2], [1], [1]])
    positions = [np.tile(np.arange(3), (3, 1)), video + 3]
    positions.append(np.tile(positions[-1].max() + 1 + np.arange(5), (3, 1)))
    text = rng.integers(20, 300, 8)
    return Prompt(
        sample_id="s",
        clip_key="c",
        text="",
        token_ids=np.concatenate([text[:3], np.full(frames * 4, video_token), text[3:]]),
        position_ids=np.concatenate(positions, axis=1),
        patches=rng.integers(0, 256, (int(grid.prod()), PATCH_VALUES), dtype=np.uint8),
        video_grid_thw=grid,
        second_per_grid_s=1.0,
        timestamps_s=np.arange(2 * frames, dtype=np.float64),
    )


def plain_log_probs(
    network: Any, video_processor: Any, prompt: Prompt, responses: Sequence[np.ndarray], *, temperature: float
) -> list[np.ndarray]:
    """One ordinary sequence per response, without packing."""
    import torch

    channels = (torch.tensor(prompt.patches).float() / 255).chunk(3, dim=1)
    scales = zip(channels, video_processor.image_mean, video_processor.image_std, strict=True)
    pixels = torch.cat([(values - mean) / std for values, mean, std in scales], dim=1)
    results = []
    for response in responses:
        ids = torch.tensor(np.concatenate([prompt.token_ids, response]))
        text = np.tile(prompt.position_ids.max() + 1 + np.arange(len(response)), (3, 1))
        positions = torch.tensor(np.concatenate([prompt.position_ids, text], axis=1))
        with torch.no_grad():
            logits = network(
                input_ids=ids[None],
                attention_mask=torch.ones_like(ids)[None],
                position_ids=positions[:, None],
                pixel_values_videos=pixels,
                video_grid_thw=torch.tensor(prompt.video_grid_thw),
            ).logits[0]
        start = len(prompt.token_ids)
        log_probs = torch.log_softmax(logits[start - 1 : -1] / temperature, dim=-1)
        results.append(log_probs.gather(1, ids[start:, None])[:, 0].numpy())
    return results
