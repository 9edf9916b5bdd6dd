"""Token ids, token counts and sizes at the settings that published checkpoints come with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import torch

from videor2_rl.doctor.sizing import SampleSize, model_shape, prompt_bytes, trainable_parameters
from videor2_rl.model.prompt import PromptBuilder, video_metadata
from videor2_rl.types import Clip, VideoSample
from videor2_rl.video.sampling import choose_size

FAMILIES = ("Qwen2.5-VL-7B-Instruct", "Qwen3-VL-8B-Instruct")
RAW_SIZES = ((720, 1280), (480, 480), (90, 1000))
"""Heights and widths of clips before the resize, in pixels."""


def builder_of(folder: Path) -> PromptBuilder:
    return PromptBuilder(published.paper_run(folder).model)


@pytest.mark.parametrize("name", FAMILIES)
def test_token_ids_are_the_published_ones_and_no_special_one_but_the_end_may_be_sampled(
    name: str, published_folder: Callable[[str], Path]
) -> None:
    config = published.read_config(name)
    builder = builder_of(published_folder(name))
    assert builder.eos_token_id == config.get("text_config", config)["eos_token_id"] == 151_645
    assert builder.family.video_token_id == config["video_token_id"] == 151_656
    # <|endoftext|> to <|video_pad|>, the end apart.
    assert set(builder.banned_token_ids) == set(range(151_643, 151_657)) - {151_645}
    vision = {config[f"{token}_token_id"] for token in ("vision_start", "vision_end", "image", "video")}
    assert vision <= set(builder.banned_token_ids)


@pytest.mark.parametrize("frames", [4, 32])
@pytest.mark.parametrize("raw", RAW_SIZES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_lengths_are_those_of_the_processor_with_its_own_resize(
    name: str, raw: tuple[int, int], frames: int, published_folder: Callable[[str], Path]
) -> None:
    """At the paper's frame size, which the published processor leaves as it is."""
    run = published.paper_run(published_folder(name))
    video, builder = run.video, PromptBuilder(run.model)
    height, width = choose_size(
        *raw, min_pixels=video.min_pixels, max_pixels=video.max_pixels, multiple=video.size_multiple
    )
    inputs: Any = builder.processor(
        text=[builder.render("Who?")],
        videos=[torch.zeros((frames, 3, height, width), dtype=torch.uint8)],
        return_tensors="pt",
        videos_kwargs={"do_sample_frames": False, "video_metadata": [video_metadata(frames, 2.0)]},
    )
    ids = inputs["input_ids"][0]
    vision = int((ids == builder.family.video_token_id).sum())
    assert builder.num_tokens("Who?", timestamps_s=np.arange(frames) / 2.0, height=height, width=width) == (
        len(ids),
        vision,
    )
    assert vision == frames // 2 * height * width // video.size_multiple**2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_takes_the_room_in_the_object_store_that_the_doctor_says(
    name: str, published_folder: Callable[[str], Path]
) -> None:
    run = published.paper_run(published_folder(name))
    builder = PromptBuilder(run.model)
    clip = Clip("c", np.zeros((16, 3, 224, 448), np.uint8), np.arange(16) / 2.0, 2.0)
    prompt = builder.build(VideoSample("s", "/clip.mp4", "Who?", "<answer>A</answer>"), clip)
    total, vision = builder.num_tokens("Who?", timestamps_s=clip.timestamps_s, height=224, width=448)
    assert total == len(prompt.token_ids)
    held = prompt.patches.nbytes + prompt.token_ids.nbytes + prompt.position_ids.nbytes
    assert prompt_bytes(model_shape(run.model), SampleSize(total, vision, None, 16)) == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("name", published.NAMES)
def test_the_doctor_counts_the_published_parameters(name: str) -> None:
    for lora_rank in (0, 64):
        model = published.paper_run(published.FOLDER / name, lora_rank=lora_rank).model
        shape, sizes, text = model_shape(model), published.parameters_by_part(name), published.text_config(name)
        found = (shape.vision_parameters, shape.merger_parameters, shape.language_parameters)
        assert found == (sizes["vision_tower"], sizes["merger"], sizes["language_model"])
        assert shape.parameters == published.TOTALS[name]
        assert shape.layer_parameters == published.layer_parameters(text)
        assert shape.key_value_width == published.linear_shapes(text)["self_attn.k_proj"][0]
        adapters = lora_rank * text["num_hidden_layers"] * sum(map(sum, published.linear_shapes(text).values()))
        assert trainable_parameters(shape, model) == (adapters or sizes["language_model"])
