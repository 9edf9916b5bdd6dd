"""What is read from a checkpoint's config, and what a configuration may not ask of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.model.family import ModelFamily, check_frames, part_of, read_family


def test_a_family_is_read_from_the_config_alone(tiny_qwen3_vl_dir: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_qwen3_vl_dir / "config.json").read_text())
    config["vision_config"] |= {"patch_size": 16, "spatial_merge_size": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    family = read_family(str(tmp_path))
    assert (family.name, family.size_multiple, family.is_interleaved) == ("qwen3_vl", 32, True)


def test_only_qwen2_5_vl_tells_time_by_positions(tiny_model_dir: Path) -> None:
    family = read_family(str(tiny_model_dir))
    assert family == ModelFamily("qwen2_5_vl", family.video_token_id, 7, 2, 2, 2)
    assert not family.is_interleaved


def test_text_between_the_frames_of_a_qwen2_5_vl_is_refused(
    model_config: ModelConfig, video_config: VideoConfig
) -> None:
    check_frames(model_config, video_config)
    with pytest.raises(ConfigError, match=r"model.text_timestamps: found true, but .* is a qwen2_5_vl model"):
        check_frames(replace(model_config, text_timestamps=True), video_config)


def test_frames_that_do_not_fit_the_patches_are_refused_with_the_value_that_does(
    model_config: ModelConfig, video_config: VideoConfig
) -> None:
    check_frames(model_config, replace(video_config, size_multiple=28))
    with pytest.raises(ConfigError, match=r"found 32, but .* set video.size_multiple=14"):
        check_frames(model_config, replace(video_config, size_multiple=32))


def test_a_model_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ConfigError, match="is a unheard_of model; expected a qwen2_5_vl or qwen3_vl one"):
        read_family(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.patch_embed.proj.weight", "vision_tower"),
        ("model.visual.pos_embed.weight", "vision_tower"),
        ("model.visual.blocks.0.attn.qkv.weight", "vision_tower"),
        ("model.visual.merger.linear_fc1.weight", "merger"),
        ("model.visual.deepstack_merger_list.2.norm.bias", "merger"),
        ("model.language_model.layers.0.self_attn.q_norm.weight", "language_model"),
        ("lm_head.weight", "language_model"),
    ],
)
def test_every_parameter_belongs_to_a_part(name: str, part: str) -> None:
    assert part_of(name) == part
