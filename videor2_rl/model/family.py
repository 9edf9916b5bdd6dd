"""The families of models that can be trained, and what differs between them; read from a checkpoint's config alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.model.folder import read_model_json

FamilyName = Literal["qwen2_5_vl", "qwen3_vl"]
ModelPart = Literal["vision_tower", "merger", "language_model"]


@dataclass(frozen=True)
class ModelFamily:
    """What prompts and engines need to know of a checkpoint."""

    name: FamilyName
    video_token_id: int
    patch_size: int
    """Pixels."""
    temporal_patch_size: int
    """Frames."""
    merge_size: int
    """Patches that one token stands for, in height and in width."""
    tokens_per_second: float | None
    """Of M-RoPE's time axis; None: it has none, see `is_interleaved`."""

    @property
    def size_multiple(self) -> int:
        """Pixels; the sides of frames are multiples of it."""
        return self.patch_size * self.merge_size

    def vision_tokens(self, num_frames: int, height: int, width: int) -> int:
        """Tokens of a video of these frames, whose sides in pixels are multiples of `size_multiple`."""
        cells = (height // self.size_multiple) * (width // self.size_multiple)
        return num_frames // self.temporal_patch_size * cells

    @property
    def is_interleaved(self) -> bool:
        """Each temporal patch is a picture of its own in the prompt, with its time before it as text."""
        return self.tokens_per_second is None


def read_family(model_path: str) -> ModelFamily:
    """The family of a checkpoint folder.

    Raises:
        ConfigError: there is no checkpoint, or it is of no family known here.
    """
    from transformers import AutoConfig

    file = Path(model_path) / "config.json"
    if not file.is_file():
        raise ConfigError(f"model.path: {model_path} holds no config.json; name the folder of a checkpoint")
    name: Any = read_model_json(file, key="model.path").get("model_type")
    if name is None:
        raise ConfigError(f"model.path: {file} names no model_type; copy it again from the checkpoint")
    if name not in get_args(FamilyName):
        known = " or ".join(get_args(FamilyName))
        raise ConfigError(f"model.path: {model_path} is a {name} model; expected a {known} one")
    config = AutoConfig.from_pretrained(model_path)
    vision = config.vision_config
    return ModelFamily(
        name=name,
        video_token_id=config.video_token_id,
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        tokens_per_second=vision.tokens_per_second if name == "qwen2_5_vl" else None,
    )


def family_of(model: ModelConfig) -> ModelFamily:
    """The family of the configured checkpoint.

    Raises:
        ConfigError: as `read_family`, or the family cannot read what the configuration asks for.
    """
    family = read_family(model.path)
    if model.text_timestamps and not family.is_interleaved:
        raise ConfigError(
            f"model.text_timestamps: found true, but {model.path} is a {family.name} model, which has no text between "
            "frames; set model.text_timestamps=false, and video.timestamps=true to draw the times on them"
        )
    return family


def check_frames(model: ModelConfig, video: VideoConfig) -> None:
    """Frames of the configured sides fit the checkpoint's patches.

    Raises:
        ConfigError: they do not, or as `family_of`.
    """
    family = family_of(model)
    if video.size_multiple % family.size_multiple:
        raise ConfigError(
            f"video.size_multiple: found {video.size_multiple}, but {model.path} is a {family.name} model with patches "
            f"of {family.patch_size} pixels merged {family.merge_size} x {family.merge_size}; "
            f"set video.size_multiple={family.size_multiple}"
        )


def part_of(parameter: str) -> ModelPart:
    """The part of the model that a parameter belongs to, by its name in `state_dict()`.

    The merger is every projection from vision to language: Qwen3-VL has one per DeepStack level besides the last.
    """
    if parameter.startswith(("model.visual.merger.", "model.visual.deepstack_merger_list.")):
        return "merger"
    return "vision_tower" if parameter.startswith("model.visual.") else "language_model"
