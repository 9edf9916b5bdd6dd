"""Visual embeddings: what vision tower and merger make of a clip, computed once where both are frozen.

They are constants then, so every pass over the clip (reference, old log-probs, updates, rollouts) can take them in
place of its pixels. Knows Qwen2.5-VL and Qwen3-VL, whose tower also feeds the first decoder layers (DeepStack).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from videor2_rl.model.prompt import normalize_patches

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from videor2_rl.model.packing import PixelNorm


def encode_clip(
    model: Any, patches: NDArray[np.uint8], grid: NDArray[np.int64], *, pixel_norm: PixelNorm, device: Any = "cpu"
) -> Tensor:
    """One clip's embeddings, without gradients.

    Args:
        model: a transformers Qwen2.5-VL or Qwen3-VL for conditional generation, possibly wrapped.
        patches: [N, patch values] as in `Prompt.patches`.
        grid: [1, 3] as in `Prompt.video_grid_thw`.

    Returns:
        [merged patches, hidden size x (1 + D)] in the dtype of the model's forward: the merger's output, then that of
        each of the D DeepStack mergers (none in Qwen2.5-VL). vLLM takes the same layout as `video_embeds`.
    """
    pixels = normalize_patches(torch.tensor(patches).to(device), mean=pixel_norm.mean, std=pixel_norm.std)
    with torch.no_grad():
        features = model.get_video_features(pixels, torch.tensor(grid).to(device), return_dict=True)
    return torch.cat([torch.cat(tuple(features.pooler_output)), *(features.get("deepstack_features") or ())], dim=1)


def smallest_clip(vision_config: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Patches and grid of a black clip of one merged patch, for a rank that must take part in a collective."""
    side = vision_config.spatial_merge_size
    values = vision_config.in_channels * vision_config.temporal_patch_size * vision_config.patch_size**2
    return np.zeros((side * side, values), dtype=np.uint8), np.array([[1, side, side]])


@contextmanager
def without_tower(model: nn.Module) -> Iterator[None]:
    """Inside, the model's forward takes `encode_clip`'s results, one after the other, as `pixel_values_videos`."""
    core: Any = next(part for part in model.modules() if "visual" in dict(part.named_children()))

    def given(embeddings: Tensor, *_: Any, **__: Any) -> SimpleNamespace:
        merged, *deepstack = embeddings.split(core.config.text_config.hidden_size, dim=1)
        return SimpleNamespace(pooler_output=(merged,), deepstack_features=deepstack)

    core.get_video_features = given
    try:
        yield
    finally:
        del core.get_video_features  # the class's own shows again
