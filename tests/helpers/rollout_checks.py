"""What rollout workers sampled, against plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from videor2_rl.types import Group, Prompt, SamplingSpec
from workers.rollout.worker import GenerateRequest

FLOAT32_LIMIT = 1e-4
"""Nats; the same weights and input differ by some 3e-6."""
SECONDS_PER_GRID = (0.5, 1.0, 2.0, 0.4)


GRID = (4, 4, 6)
"""Patches in time, height, width; merged 2 x 2 that is 4 * 2 * 3 = 24 video tokens."""
PATCH_VALUES = 3 * 2 * 7 * 7
TOKENS_PER_SECOND = 2


def original_positions(
    before: int, after: int, *, second_per_grid_s: float, grid: tuple[int, int, int] = GRID
) -> np.ndarray:
    """[3, P]: text, one video, text, by the formula published with Qwen2.5-VL, written out token by token."""
    rows = [[i, i, i] for i in range(before)]
    for t in range(grid[0]):
        for h in range(grid[1] // 2):
            for w in range(grid[2] // 2):
                rows.append([before + int(t * second_per_grid_s * TOKENS_PER_SECOND), before + h, before + w])
    start = max(max(row) for row in rows) + 1
    rows += [[start + i] * 3 for i in range(after)]
    return np.array(rows, dtype=np.int64).T


def make_prompt(tokenizer: Any, *, seed: int, second_per_grid_s: float = 1.0) -> Prompt:
    rng = np.random.default_rng(seed)
    video = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    before = tokenizer.encode("<|im_start|>user\n<|vision_start|>")
    after = tokenizer.encode("<|vision_end|>Which colour appears first?<|im_end|>\n<|im_start|>assistant\n")
    num_video = GRID[0] * GRID[1] * GRID[2] // 4
    return Prompt(
        sample_id=f"sample-{seed}",
        clip_key=f"clip-{seed}-{second_per_grid_s}",
        text="",
        token_ids=np.array(before + [video] * num_video + after, dtype=np.int64),
        position_ids=original_positions(len(before), len(after), second_per_grid_s=second_per_grid_s),
        patches=rng.integers(0, 256, (GRID[0] * GRID[1] * GRID[2], PATCH_VALUES), dtype=np.uint8),
        video_grid_thw=np.array([GRID], dtype=np.int64),
        second_per_grid_s=second_per_grid_s,
        timestamps_s=np.arange(2 * GRID[0]) * second_per_grid_s / 2,
    )


def hf_log_probs(
    model: Any,
    prompt: Prompt,
    response: np.ndarray,
    *,
    positions: str = "original",
    temperature: float = 1.0,
    banned: Sequence[int] = (),
) -> np.ndarray:
    """[T] log-probs of one response by a plain HF forward; positions "transformers": those it derives by itself."""

    # Mean and std of the CLIP preprocessing that Qwen2-VL's processors use.
    mean = np.repeat([0.48145466, 0.4578275, 0.40821073], PATCH_VALUES // 3)
    std = np.repeat([0.26862954, 0.26130258, 0.27577711], PATCH_VALUES // 3)
    pixels = ((prompt.patches / 255 - mean) / std).astype(np.float32)
    ids = torch.from_numpy(np.concatenate([prompt.token_ids, response]))[None]
    start = prompt.position_ids.max() + 1
    tail = np.broadcast_to(np.arange(start, start + len(response)), (3, len(response)))
    explicit = torch.from_numpy(np.concatenate([prompt.position_ids, tail], axis=1))[:, None]
    kwargs: dict[str, Any] = {"position_ids": explicit}
    if positions == "transformers":
        kwargs = {
            "second_per_grid_ts": torch.tensor([prompt.second_per_grid_s]),
            "mm_token_type_ids": 2 * (ids == model.config.video_token_id).long(),
        }
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            pixel_values_videos=torch.from_numpy(pixels),
            video_grid_thw=torch.from_numpy(prompt.video_grid_thw),
            use_cache=False,
            **kwargs,
        ).logits[0]
    predicting = logits[len(prompt.token_ids) - 1 : -1].double()
    predicting[:, list(banned)] = -torch.inf
    picked = torch.log_softmax(predicting / temperature, -1)
    return picked.gather(-1, torch.tensor(response)[:, None])[:, 0].numpy()


def max_gap(model: Any, prompts: list[Prompt], groups: Any, *, positions: str = "original") -> float:
    """Largest difference in nats between the engine's log-probs and HF's."""
    return max(
        float(np.abs(hf_log_probs(model, prompt, r.token_ids, positions=positions) - r.log_probs).max())
        for prompt, group in zip(prompts, groups, strict=True)
        for r in group.rollouts
    )


def sampling(**changes: Any) -> SamplingSpec:
    values: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 24, "group_size": 4}
    return SamplingSpec(**{**values, **changes})


def generate(
    engine: Any,
    inputs: list[Any],
    *,
    seed: int = 0,
    version: int | None = None,
    group_ids: Sequence[int] | None = None,
    **spec: Any,
) -> list[Group]:
    """One call of the session's worker, at the version that it holds; a group for each input unless ids are given."""
    held = engine.run(engine.worker.version())
    ids = tuple(range(len(inputs)) if group_ids is None else group_ids)
    request = GenerateRequest(ids, sampling(**spec), seed, held if version is None else version)
    groups: list[Group] = engine.run(engine.worker.generate(request, *inputs))
    return groups


def responses(groups: list[Group]) -> list[list[int]]:
    return [rollout.token_ids.tolist() for group in groups for rollout in group.rollouts]


def numbers(groups: list[Group]) -> list[bytes]:
    """Tokens and log-probs to the last bit."""
    return [part.tobytes() for group in groups for r in group.rollouts for part in (r.token_ids, r.log_probs)]
