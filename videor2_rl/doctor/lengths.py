"""Lengths in tokens: exact by the checkpoint's processor, estimated where only its config.json is there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from videor2_rl.config.sections import ModelConfig
from videor2_rl.model.family import family_of

BYTES_PER_TOKEN = 4
"""Of English text under Qwen's tokenizer, rounded down: estimates are rather too long than too short."""
_TEMPLATE_TOKENS = 32
_STAMP_TOKENS = 9
"""`<12.3 seconds>` and the two marks around a picture."""
_TOKENIZERS = ("tokenizer.json", "vocab.json")
_PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


class Lengths(Protocol):
    """What the doctor needs of `PromptBuilder`."""

    def num_tokens(
        self,
        question: str,
        system_prompt: str | None = None,
        *,
        timestamps_s: NDArray[np.float64],
        height: int,
        width: int,
    ) -> tuple[int, int]: ...

    def encode_response(self, text: str) -> NDArray[np.int64]: ...


class EstimatedLengths:
    """Video tokens by the grid, which are exact; text by its length."""

    def __init__(self, model: ModelConfig) -> None:
        self._family = family_of(model)
        self._model = model

    def num_tokens(
        self,
        question: str,
        system_prompt: str | None = None,
        *,
        timestamps_s: NDArray[np.float64],
        height: int,
        width: int,
    ) -> tuple[int, int]:
        """Tokens of the prompt, and how many of them are the video's."""
        family = self._family
        steps = len(timestamps_s) // family.temporal_patch_size
        vision = family.vision_tokens(len(timestamps_s), height, width)
        stamps = (_STAMP_TOKENS if self._model.text_timestamps else 2) * steps if family.is_interleaved else 0
        system = self._model.system_prompt if system_prompt is None else system_prompt
        text = sum(_text_tokens(part) for part in (system, question, self._model.instruction))
        return _TEMPLATE_TOKENS + text + stamps + vision, vision

    def encode_response(self, text: str) -> NDArray[np.int64]:
        """[T] zeros: only their number means something."""
        return np.zeros(_text_tokens(text) + 1, np.int64)


def _text_tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def is_config_alone(model_path: str) -> bool:
    """Whether the folder has a config.json and nothing else of a checkpoint: a shape to ask about, not one to train."""
    folder = Path(model_path).expanduser()
    named = any((folder / name).is_file() for name in (*_TOKENIZERS, *_PROCESSORS))
    return not named and not any(folder.glob("*.safetensors*")) and not any(folder.glob("*.bin*"))


def lengths_of(model: ModelConfig) -> Lengths:
    """Exact lengths where the checkpoint can tell them, else estimates."""
    if is_config_alone(model.path):
        return EstimatedLengths(model)
    from videor2_rl.model.prompt import PromptBuilder

    return PromptBuilder(model)
