"""Prompts and groups of random tokens and pixels for a tiny Qwen2.5-VL, and their log-probs by transformers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videor2_rl.types import Prompt, PromptHandle, TrainGroup

PATCH_VALUES = 3 * 2 * 7 * 7
LENGTHS = ((6, 3, 9, 1), (4, 4, 4, 4), (12, 2, 5, 7), (1, 1, 2, 8), (10, 3, 3, 6))
"""Tokens of the responses that `make_groups` gives."""


def make_groups(model_folder: str | Path, *, put: Callable[[Prompt], Any] = lambda prompt: prompt) -> list[TrainGroup]:
    """Five groups of four responses; `put` makes of a prompt what its handle refers to."""
    from transformers import AutoConfig

    video_token = AutoConfig.from_pretrained(model_folder).video_token_id
    rng = np.random.default_rng(0)
    groups = []
    for group_id, lengths in enumerate(LENGTHS):
        prompt = a_prompt(rng, video_token=video_token, frames=1 + group_id % 3)
        groups.append(
            TrainGroup(
                group_id=group_id,
                prompt=PromptHandle("s", f"clip-{group_id}", len(prompt.token_ids), put(prompt)),
                response_ids=tuple(rng.integers(20, 300, length) for length in lengths),
                advantages=rng.normal(size=len(lengths)).astype(np.float32),
            )
        )
    return groups


def a_prompt(
    rng: np.random.Generator, *, video_token: int, frames: int, side: int = 2, text: int = 5, vocabulary: int = 300
) -> Prompt:
    """A clip of 2 x `frames` frames, `side` merged patches square, between three and `text` random text tokens."""
    grid = np.array([[frames, 2 * side, 2 * side]])
    video = np.stack([axis.ravel() for axis in np.indices((frames, side, side))]) * np.array([[2], [1], [1]])
    positions = [np.tile(np.arange(3), (3, 1)), video + 3]
    positions.append(np.tile(positions[-1].max() + 1 + np.arange(text), (3, 1)))
    words = rng.integers(20, vocabulary, 3 + text)
    return Prompt(
        sample_id="s",
        clip_key="c",
        text="",
        token_ids=np.concatenate([words[:3], np.full(frames * side * side, video_token), words[3:]]),
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
