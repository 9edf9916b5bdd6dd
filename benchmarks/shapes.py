"""The two shapes that learner steps are timed on: tiny checkpoints, random clips, prompts and responses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videor2_rl.types import Prompt

GROUP_SIZE = 8
PATCH, MERGE = 14, 2


@dataclass(frozen=True)
class Shape:
    """A model and one step's work; the vision tower's share is near that of the published 7B checkpoint."""

    name: str
    hidden: int
    layers: int
    vision_hidden: int
    prompts: int
    """Of one step, with 8 responses each."""
    grid: tuple[int, int, int]
    """Patches of a clip in time (2 frames each), height and width."""
    prompt_tokens: int
    response_tokens: int

    @property
    def video_tokens(self) -> int:
        return int(np.prod(self.grid)) // MERGE**2


SHAPES = {
    # 4 frames of 84 x 112.
    "W1": Shape("W1", 128, 4, 64, prompts=16, grid=(2, 6, 8), prompt_tokens=58, response_tokens=64),
    # 32 frames of 252 x 280.
    "W2": Shape("W2", 256, 6, 128, prompts=1, grid=(16, 18, 20), prompt_tokens=1474, response_tokens=100),
}


def make_checkpoint(folder: Path, shape: Shape) -> None:
    """A random Qwen2.5-VL in float32 with tokenizer and processor."""
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    from videor2_rl.demo.model import make_tokenizer

    tokenizer = make_tokenizer()
    tokens = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    heads = shape.hidden // 32
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden,
        "intermediate_size": 3 * shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "layer_types": ["full_attention"] * shape.layers,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 2,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": 2 * shape.vision_hidden,
        "num_heads": shape.vision_hidden // 32,
        "out_hidden_size": shape.hidden,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
    )
    model.save_pretrained(folder)
    geometry = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        video_processor=Qwen2VLVideoProcessor(**geometry),
        tokenizer=tokenizer,
        chat_template="{{ messages }}",
    ).save_pretrained(folder)


def make_prompts(folder: Path, shape: Shape) -> tuple[list[Prompt], list[list[np.ndarray]]]:
    """The step's prompts and, for each, its responses' token ids; always the same."""
    from transformers import AutoConfig

    video_token = AutoConfig.from_pretrained(folder).video_token_id
    rng = np.random.default_rng(0)
    steps, rows, columns = np.indices((shape.grid[0], shape.grid[1] // MERGE, shape.grid[2] // MERGE)).reshape(3, -1)
    prompts = []
    for index in range(shape.prompts):
        text = rng.integers(20, 300, shape.prompt_tokens - shape.video_tokens)
        video = np.stack([2 * steps, rows, columns]) + 5
        after = video.max() + 1 + np.arange(len(text) - 5)
        prompts.append(
            Prompt(
                sample_id=f"s{index}",
                clip_key=f"c{index}",
                text="",
                token_ids=np.concatenate([text[:5], np.full(shape.video_tokens, video_token), text[5:]]),
                position_ids=np.concatenate(
                    [np.tile(np.arange(5), (3, 1)), video, np.tile(after, (3, 1))], axis=1
                ).astype(np.int64),
                patches=rng.integers(0, 256, (int(np.prod(shape.grid)), 3 * 2 * PATCH**2), dtype=np.uint8),
                video_grid_thw=np.array([shape.grid]),
                second_per_grid_s=1.0,
                timestamps_s=np.arange(2 * shape.grid[0], dtype=np.float64),
            )
        )
    responses = [[rng.integers(20, 300, shape.response_tokens) for _ in range(GROUP_SIZE)] for _ in prompts]
    return prompts, responses
