"""What the model reads: one processor call, uint8 patches, true times, and positions by the original formula."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import learner_configs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import ModelConfig
from videor2_rl.model.prompt import PromptBuilder, mrope_positions, normalize_patches, video_metadata
from videor2_rl.types import Clip, VideoSample
from videor2_rl.video.errors import VideoError

QUESTION = "Which colour appears last? A. red B. green C. blue D. yellow"


def make_clip(num_frames: int = 8, fps: float = 1.0, height: int = 28, width: int = 42) -> Clip:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (num_frames, 3, height, width), dtype=np.uint8)
    return Clip(key="k", frames=frames, timestamps_s=np.arange(num_frames) / fps, sample_fps=fps)


def make_sample(question: str = QUESTION) -> VideoSample:
    return VideoSample("s", "/clip.mp4", question, "<answer>A</answer>")


@pytest.fixture
def builder(model_config: ModelConfig) -> PromptBuilder:
    return PromptBuilder(model_config)


def test_the_chat_has_system_video_question_and_instruction_in_order(model_config: ModelConfig) -> None:
    config = replace(model_config, system_prompt="Be kind.", instruction="Think first.")
    text = PromptBuilder(config).render("Who?")
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Who?\nThink first.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_system_prompt_and_instruction_the_question_stands_alone(builder: PromptBuilder) -> None:
    assert builder.render("Who?") == (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Who?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_rows_own_system_turn_takes_the_place_of_ours(model_config: ModelConfig) -> None:
    ours = PromptBuilder(replace(model_config, system_prompt="Be kind."))
    for builder in (ours, PromptBuilder(model_config)):
        prompt = builder.build(replace(make_sample("Who?"), system_prompt="Be brief."), make_clip())
        assert prompt.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
        found = builder.num_tokens("Who?", "Be brief.", timestamps_s=np.arange(8) / 1.0, height=28, width=42)
        assert found[0] == len(prompt.token_ids)
    assert ours.build(make_sample("Who?"), make_clip()).text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")


def test_a_prompt_holds_one_token_for_each_merged_patch(builder: PromptBuilder) -> None:
    prompt = builder.build(make_sample(), make_clip())
    assert prompt.video_grid_thw.tolist() == [[4, 4, 6]]
    assert (prompt.token_ids == builder.video_token_id).sum() == 4 * 2 * 3
    assert prompt.patches.dtype == np.uint8 and prompt.patches.shape == (4 * 4 * 6, 3 * 2 * 7 * 7)
    assert prompt.position_ids.shape == (3, len(prompt.token_ids))
    assert prompt.second_per_grid_s == 2.0
    assert prompt.response_start == prompt.position_ids[0, -1] + 1


def test_patches_are_the_frames_rearranged(builder: PromptBuilder) -> None:
    """By loops over the layout that Qwen2-VL documents: merge blocks, then rows, columns, channel, time, y, x."""
    clip = make_clip()
    patches = builder.build(make_sample(), clip).patches
    number = 0
    for t in range(4):
        for block_y in range(2):
            for block_x in range(3):
                for row in range(2):
                    for column in range(2):
                        y, x = (block_y * 2 + row) * 7, (block_x * 2 + column) * 7
                        pixels = clip.frames[2 * t : 2 * t + 2, :, y : y + 7, x : x + 7]
                        assert np.array_equal(patches[number], pixels.transpose(1, 0, 2, 3).reshape(-1))
                        number += 1
    assert number == len(patches)


def test_normalised_patches_equal_the_processors_pixel_values(builder: PromptBuilder) -> None:
    clip = make_clip()
    inputs: Any = builder.processor(
        text=[builder.render(QUESTION)],
        videos=[torch.from_numpy(clip.frames)],
        return_tensors="pt",
        videos_kwargs={"do_resize": False, "do_sample_frames": False, "video_metadata": [video_metadata(8, 1.0)]},
    )
    prompt = builder.build(make_sample(), clip)
    video = builder.processor.video_processor
    pixels = normalize_patches(torch.from_numpy(prompt.patches), mean=video.image_mean, std=video.image_std)
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels, inputs["pixel_values_videos"], rtol=0, atol=1e-6)
    assert inputs["input_ids"][0].tolist() == prompt.token_ids.tolist()


def test_normalising_worked_by_hand() -> None:
    patches = torch.tensor([[0, 255, 51, 102]], dtype=torch.uint8)
    values = normalize_patches(patches, mean=[0.5, 0.2], std=[0.5, 0.4])
    assert torch.allclose(values, torch.tensor([[-1.0, 1.0, 0.0, 0.5]]), atol=1e-6)


@pytest.mark.parametrize("fps", [0.5, 1.0, 1.906, 4.0])
def test_the_true_frame_rate_reaches_the_positions(builder: PromptBuilder, fps: float) -> None:
    prompt = builder.build(make_sample(), make_clip(fps=fps))
    assert prompt.second_per_grid_s == pytest.approx(2 / fps, rel=1e-6)
    is_video = prompt.token_ids == builder.video_token_id
    times = prompt.position_ids[0, is_video]
    expected = [int(step * 2 / fps * 2) for step in range(4)]
    assert (times - times[0]).reshape(4, 6)[:, 0].tolist() == expected


def test_positions_worked_by_hand() -> None:
    """2 text tokens, 2 steps of 1 x 2 cells two seconds apart at 2 tokens a second, 2 text tokens."""
    positions = mrope_positions(
        np.asarray([1, 3, 7, 7, 7, 7, 4, 5]),
        video_token_id=7,
        grids=np.asarray([[2, 2, 4]]),
        second_per_grid_s=[2.0],
        tokens_per_second=2,
        merge_size=2,
    )
    assert positions.dtype == np.int64
    assert positions.tolist() == [[0, 1, 2, 2, 6, 6, 7, 8], [0, 1, 2, 2, 2, 2, 7, 8], [0, 1, 2, 3, 2, 3, 7, 8]]


def test_video_tokens_that_do_not_fit_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="3 video tokens in the prompt, but its grids have 4 cells"):
        mrope_positions(
            np.asarray([7, 7, 7]),
            video_token_id=7,
            grids=np.asarray([[4, 2, 2]]),
            second_per_grid_s=[1.0],
            tokens_per_second=2,
            merge_size=2,
        )


def _engine_positions(ids: list[int], grids: list[tuple[int, int, int]], seconds: list[float]) -> Any:
    """Token by token: what a cell's position is, written without arrays."""
    positions, nxt, i, videos = [], 0, 0, iter(zip(grids, seconds, strict=True))
    while i < len(ids):
        if ids[i] != 7:
            positions.append((nxt, nxt, nxt))
            nxt, i = nxt + 1, i + 1
            continue
        (t, h, w), second = next(videos)
        cells = [(nxt + int(a * (second * 2)), nxt + b, nxt + c) for a in range(t) for b in range(h) for c in range(w)]
        positions += cells
        nxt, i = max(map(max, cells)) + 1, i + len(cells)
    return np.asarray(positions).T


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.floats(0.1, 30), st.integers(1, 4)),
        min_size=1,
        max_size=3,
    )
)
def test_positions_of_any_prompt_equal_a_token_by_token_count(
    videos: list[tuple[int, int, int, float, int]],
) -> None:
    ids = [1]
    for t, h, w, _, text in videos:
        ids += [7] * (t * h * w) + [2] * text
    seconds = [float(np.float32(2 / fps)) for *_, fps, _ in videos]
    grids = [(t, h, w) for t, h, w, _, _ in videos]
    found = mrope_positions(
        np.asarray(ids),
        video_token_id=7,
        grids=np.asarray([(t, 2 * h, 2 * w) for t, h, w in grids]),
        second_per_grid_s=seconds,
        tokens_per_second=2,
        merge_size=2,
    )
    assert np.array_equal(found, _engine_positions(ids, grids, seconds))


@pytest.mark.slow
def test_positions_equal_verls_over_many_rates_and_lengths(builder: PromptBuilder) -> None:
    from verl.models.transformers.qwen2_vl import get_rope_index

    token = builder.tokenizer.convert_tokens_to_ids
    vision = [token("<|vision_start|>"), *[builder.video_token_id], token("<|vision_end|>")]
    for fps in (0.5, 1, 1.5, 1.906, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 24, 29.97):
        for steps in (1, 4, 16, 64):
            ids = [20, 21, vision[0], *[vision[1]] * (steps * 2 * 3), vision[2], 30, 31]
            second = float(np.float32(2 / fps))
            ours = mrope_positions(
                np.asarray(ids),
                video_token_id=builder.video_token_id,
                grids=np.asarray([[steps, 4, 6]]),
                second_per_grid_s=[second],
                tokens_per_second=2,
                merge_size=2,
            )
            verls = get_rope_index(
                builder.processor,
                torch.tensor(ids),
                video_grid_thw=torch.tensor([[steps, 4, 6]]),
                second_per_grid_ts=torch.tensor([second]),
            )
            assert np.array_equal(ours, verls.numpy()), (fps, steps)


def test_a_prompt_over_the_limit_costs_its_sample_only(model_config: ModelConfig) -> None:
    length = len(PromptBuilder(model_config).build(make_sample(), make_clip()).token_ids)
    assert PromptBuilder(model_config, max_prompt_tokens=length).build(make_sample(), make_clip())
    with pytest.raises(VideoError) as caught:
        PromptBuilder(model_config, max_prompt_tokens=length - 1).build(make_sample(), make_clip())
    assert caught.value.reason == "too_long" and str(length) in caught.value.detail


def test_every_special_token_but_the_end_is_banned(builder: PromptBuilder) -> None:
    tokens = builder.tokenizer.convert_ids_to_tokens(list(builder.banned_token_ids))
    assert {"<|video_pad|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>"} <= set(tokens)
    assert builder.eos_token_id not in builder.banned_token_ids
    assert not set(builder.encode_response("<think>At 00:05 a red square appears.</think>")) & set(
        builder.banned_token_ids
    )


@settings(max_examples=50)
@given(text=st.text(max_size=60))
def test_a_response_is_encoded_without_loss_and_ends(demo_builder: PromptBuilder, text: str) -> None:
    ids = demo_builder.encode_response(text)
    assert ids.dtype == np.int64 and ids[-1] == demo_builder.eos_token_id
    if not any(token in text for token in demo_builder.tokenizer.all_special_tokens):
        assert demo_builder.tokenizer.decode(ids[:-1]) == text


@pytest.fixture(scope="module")
def demo_builder(tiny_model_dir: Path) -> PromptBuilder:
    return PromptBuilder(learner_configs.model_config(str(tiny_model_dir)))


def test_a_folder_without_a_checkpoint_is_named_with_the_mend(tmp_path: Path, model_config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=r"model.path: .* holds no config.json"):
        PromptBuilder(replace(model_config, path=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ConfigError, match="is a qwen2 model; expected a qwen2_5_vl or qwen3_vl one"):
        PromptBuilder(replace(model_config, path=str(tmp_path)))


# --- Qwen3-VL: each temporal patch apart, its time before it as text ------------------------------------------------


@pytest.fixture
def interleaved(model_config: ModelConfig, tiny_qwen3_vl_dir: Path) -> ModelConfig:
    return replace(model_config, path=str(tiny_qwen3_vl_dir), text_timestamps=True)


def test_at_a_constant_rate_a_qwen3_vl_prompt_is_the_one_that_transformers_makes(interleaved: ModelConfig) -> None:
    """From the frames' numbers in a file of 30 frames a second, as its processor expects them."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    clip, builder = make_clip(fps=2.0), PromptBuilder(interleaved)
    metadata = {"fps": 30, "total_num_frames": 120, "frames_indices": list(range(0, 120, 15)), "duration": 4.0}
    inputs: Any = builder.processor(
        text=[builder.render(QUESTION)],
        videos=[torch.from_numpy(clip.frames)],
        return_tensors="pt",
        videos_kwargs={"do_resize": False, "do_sample_frames": False, "video_metadata": [metadata]},
    )
    prompt = builder.build(make_sample(), clip)
    assert prompt.token_ids.tolist() == inputs["input_ids"][0].tolist()
    video = builder.processor.video_processor
    pixels = normalize_patches(torch.from_numpy(prompt.patches), mean=video.image_mean, std=video.image_std)
    assert torch.allclose(pixels, inputs["pixel_values_videos"], rtol=0, atol=1e-6)
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(interleaved.path))
    named = ("input_ids", "mm_token_type_ids", "video_grid_thw")
    positions, _ = network.model.get_rope_index(**{name: inputs[name] for name in named})
    assert np.array_equal(prompt.position_ids, positions[:, 0].numpy())
    assert prompt.response_start == prompt.position_ids[0, -1] + 1


def test_stamps_tell_presentation_times_at_a_variable_rate(interleaved: ModelConfig) -> None:
    """The mean of each pair of frames, to a tenth of a second, worked by hand."""
    times_s = np.array([0, 0.04, 0.9, 1.5, 7.3, 8.05, 9.97, 10.0])
    clip = replace(make_clip(), timestamps_s=times_s, sample_fps=0.7)
    builder = PromptBuilder(interleaved)
    text = builder.tokenizer.decode(builder.build(make_sample(), clip).token_ids)
    parts = text.replace("<|video_pad|>", "").split("<|vision_start|>")
    assert [part.rsplit("<", 1)[1] for part in parts[:-1]] == [f"{t} seconds>" for t in (0.0, 1.2, 7.7, 10.0)]


def test_without_stamps_a_prompt_is_the_same_but_for_them(interleaved: ModelConfig) -> None:
    clip = make_clip(fps=0.1)
    plain = PromptBuilder(replace(interleaved, text_timestamps=False)).build(make_sample(), clip)
    stamped = PromptBuilder(interleaved).build(make_sample(), clip)
    decode = PromptBuilder(interleaved).tokenizer.decode
    without = re.sub(r"<\d+\.\d seconds>", "", decode(stamped.token_ids))
    assert decode(plain.token_ids) == without != decode(stamped.token_ids)
    assert np.array_equal(plain.patches, stamped.patches)
    assert plain.response_start == stamped.response_start - (len(stamped.token_ids) - len(plain.token_ids))


@pytest.mark.parametrize("is_stamped", [False, True])
def test_tokens_are_counted_without_building_the_prompt(interleaved: ModelConfig, is_stamped: bool) -> None:
    builder = PromptBuilder(replace(interleaved, text_timestamps=is_stamped))
    for fps in (0.05, 0.3, 2.0):
        clip = make_clip(fps=fps)
        ids = builder.build(make_sample(), clip).token_ids
        found = builder.num_tokens(QUESTION, timestamps_s=clip.timestamps_s, height=28, width=42)
        assert found == (len(ids), int((ids == builder.video_token_id).sum()))
