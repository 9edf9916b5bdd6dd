"""A checkpoint as transformers loads it; needs nothing else of ours, for another vLLM's environment imports it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def hf_model(checkpoint: str | Path, *, seed: int | None = None) -> Any:
    """The checkpoint in float32; with a seed every weight gets noise, as a few optimiser steps would do."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return model
