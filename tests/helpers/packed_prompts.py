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


def logits_of(network: Any, video_processor: Any, prompt: Prompt, responses: np.ndarray) -> Any:
    """[G, P + T, V] logits of responses [G, T] to a prompt, each an ordinary sequence, without packing."""
    import torch

    size = len(responses)
    channels = (torch.tensor(prompt.patches).float() / 255).chunk(3, dim=1)
    scales = zip(channels, video_processor.image_mean, video_processor.image_std, strict=True)
    pixels = torch.cat([(values - mean) / std for values, mean, std in scales], dim=1)
    ids = torch.tensor(np.concatenate([np.tile(prompt.token_ids, (size, 1)), responses], axis=1))
    text = np.tile(prompt.position_ids.max() + 1 + np.arange(responses.shape[1]), (3, 1))
    positions = torch.tensor(np.concatenate([prompt.position_ids, text], axis=1))
    with torch.no_grad():
        return network(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions[:, None].expand(-1, size, -1),
            pixel_values_videos=pixels.repeat(size, 1),
            video_grid_thw=torch.tensor(prompt.video_grid_thw).repeat(size, 1),
        ).logits


def plain_log_probs(
    network: Any, video_processor: Any, prompt: Prompt, responses: Sequence[np.ndarray], *, temperature: float
) -> list[np.ndarray]:
    """One ordinary sequence per response, without packing."""
    import torch

    results = []
    for response in responses:
        logits = logits_of(network, video_processor, prompt, response[None])[0]
        log_probs = torch.log_softmax(logits[len(prompt.token_ids) - 1 : -1] / temperature, dim=-1)
        results.append(log_probs.gather(1, torch.tensor(response)[:, None])[:, 0].numpy())
    return results
