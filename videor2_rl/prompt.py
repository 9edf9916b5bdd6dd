"""A sample and its frames become what the model reads: token ids, patches, grid, times and positions.

One processor call makes all of it, once, for the rollout engine, the learner and the reference alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videor2_rl.config import ConfigError, ModelConfig
from videor2_rl.types import Clip, Prompt, VideoSample
from videor2_rl.video.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class PromptBuilder:
    """Loads tokenizer and processor of a checkpoint once, and builds prompts with them."""

    def __init__(self, model: ModelConfig, *, max_prompt_tokens: int | None = None) -> None:
        """`max_prompt_tokens`: None leaves prompts as long as they are.

        Raises:
            ConfigError: the folder holds no checkpoint of a Qwen2.5-VL with its processor.
        """
        from transformers import AutoConfig, AutoProcessor

        if not (Path(model.path) / "config.json").is_file():
            raise ConfigError(f"model.path: {model.path} holds no config.json; name the folder of a checkpoint")
        config = AutoConfig.from_pretrained(model.path)
        if config.model_type != "qwen2_5_vl":
            raise ConfigError(f"model.path: {model.path} is a {config.model_type} model; expected a qwen2_5_vl one")
        self._model = model
        self._max_prompt_tokens = max_prompt_tokens
        self.processor: Any = AutoProcessor.from_pretrained(model.path)
        self.tokenizer: Any = self.processor.tokenizer
        self.eos_token_id: int = self.tokenizer.eos_token_id
        self.video_token_id: int = config.video_token_id
        self.tokens_per_second: float = config.vision_config.tokens_per_second
        self.merge_size: int = self.processor.video_processor.merge_size
        self.banned_token_ids: tuple[int, ...] = banned_token_ids(self.tokenizer)

    def build(self, sample: VideoSample, clip: Clip) -> Prompt:
        """The prompt of one sample.

        Raises:
            VideoError: too_long, when it has more tokens than `max_prompt_tokens`.
        """
        import torch

        text = self.render(sample.question)
        inputs = self.processor(
            text=[text],
            videos=[torch.from_numpy(clip.frames)],
            return_tensors="pt",
            videos_kwargs={
                "do_resize": False,
                "do_rescale": False,
                "do_normalize": False,
                "do_sample_frames": False,
                "video_metadata": [video_metadata(len(clip.frames), clip.sample_fps)],
            },
        )
        token_ids = inputs["input_ids"][0].numpy().astype(np.int64)
        if self._max_prompt_tokens is not None and len(token_ids) > self._max_prompt_tokens:
            raise VideoError(
                "too_long",
                f"{sample.video}: the prompt has {len(token_ids)} tokens, at most {self._max_prompt_tokens} fit",
            )
        patches = inputs["pixel_values_videos"]
        assert patches.dtype == torch.uint8, f"the processor changed uint8 frames to {patches.dtype}"
        grid = inputs["video_grid_thw"].numpy().astype(np.int64)
        second_per_grid_s = float(np.float32(inputs["second_per_grid_ts"][0]))
        return Prompt(
            sample_id=sample.sample_id,
            clip_key=clip.key,
            text=text,
            token_ids=token_ids,
            position_ids=mrope_positions(
                token_ids,
                video_token_id=self.video_token_id,
                grids=grid,
                second_per_grid_s=[second_per_grid_s],
                tokens_per_second=self.tokens_per_second,
                merge_size=self.merge_size,
            ),
            patches=patches.numpy(),
            video_grid_thw=grid,
            second_per_grid_s=second_per_grid_s,
            timestamps_s=clip.timestamps_s,
        )

    def num_tokens(self, question: str, *, frames: int, height: int, width: int) -> tuple[int, int]:
        """Tokens of the prompt that `build` would make of such frames (pixels), and how many of them are the video's.

        `frames` is a multiple of the model's temporal patch, as sampling makes it.
        """
        video = self.processor.video_processor
        steps = frames // video.temporal_patch_size
        vision = steps * (height // video.patch_size) * (width // video.patch_size) // self.merge_size**2
        text = self.tokenizer(self.render(question), add_special_tokens=False)["input_ids"]
        # The text holds one placeholder, which the processor repeats.
        return len(text) - 1 + vision, vision

    def render(self, question: str) -> str:
        """The chat up to the response, with one video placeholder."""
        parts = [question, self._model.instruction]
        text = "\n".join(part for part in parts if part)
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
        ]
        if self._model.system_prompt:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self._model.system_prompt}]})
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def encode_response(self, text: str) -> NDArray[np.int64]:
        """[T] token ids of a response as the policy should write it, the end token included."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray([*ids, self.eos_token_id], np.int64)


def video_metadata(num_frames: int, sample_fps: float) -> dict[str, Any]:
    """What tells the processor, and vLLM's, the frame rate; its `fps` argument alone is ignored by both."""
    return {
        "fps": sample_fps,
        "total_num_frames": num_frames,
        "frames_indices": list(range(num_frames)),
        "duration": num_frames / sample_fps,
    }


def mrope_positions(
    token_ids: NDArray[np.int64],
    *,
    video_token_id: int,
    grids: NDArray[np.int64],
    second_per_grid_s: Sequence[float],
    tokens_per_second: float,
    merge_size: int,
) -> NDArray[np.int64]:
    """M-RoPE positions by the formula that Qwen2.5-VL was trained with and that vLLM uses.

    A video token stands at (step * seconds per step * tokens per second, row, column) after the text before it; the
    text after a video goes on at the highest position so far, plus one. Transformers 5.9 derives others
    (`get_rope_index` starts the text after the video at its height or width), a silent error.

    Args:
        token_ids: [P], with one `video_token_id` per merged patch.
        grids: [V, 3] patches in time, height and width of each video, before merging.
        second_per_grid_s: V times between two temporal steps; float32 values, for vLLM reads them as such.

    Returns:
        [3, P] int64: time, height, width.

    Raises:
        ValueError: the number of video tokens does not fit the grids.
    """
    cells = [(int(t), int(h) // merge_size, int(w) // merge_size) for t, h, w in grids]
    found, expected = int((token_ids == video_token_id).sum()), sum(t * h * w for t, h, w in cells)
    if found != expected:
        raise ValueError(f"{found} video tokens in the prompt, but its grids have {expected} cells")
    parts: list[NDArray[np.int64]] = []
    done, position = 0, 0
    for (t, h, w), seconds in zip(cells, second_per_grid_s, strict=True):
        start = done + int(np.argmax(token_ids[done:] == video_token_id))
        parts.append(_text_positions(start - done, position))
        position += start - done
        steps, rows, columns = np.indices((t, h, w)).reshape(3, -1)
        times = (steps * (seconds * tokens_per_second)).astype(np.int64)
        parts.append(np.stack([times, rows, columns]) + position)
        position = int(parts[-1].max()) + 1
        done = start + t * h * w
    parts.append(_text_positions(len(token_ids) - done, position))
    return np.concatenate(parts, axis=1).astype(np.int64)


def normalize_patches(patches: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std of flattened uint8 patches; float32, as the processor gives them.

    Args:
        patches: [N, C * temporal_patch * patch * patch] uint8, the channel slowest within a row.
        mean: C values, of colours from 0 to 1.
        std: C values.
    """
    import torch

    channels = patches.float().view(len(patches), len(mean), -1)
    # The processor's own arithmetic: rescaling is folded into mean and std.
    scaled_mean = torch.tensor(mean, device=patches.device).view(1, -1, 1) * 255
    scaled_std = torch.tensor(std, device=patches.device).view(1, -1, 1) * 255
    return ((channels - scaled_mean) / scaled_std).view(len(patches), -1)


def banned_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that must never be sampled: every added one but the end token.

    A sampled vision placeholder has no pixels, and the learner's forward pass fails on it.
    """
    added = {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = added | {int(i) for i in tokenizer.all_special_ids}
    return tuple(sorted(special - {int(tokenizer.eos_token_id)}))


def _text_positions(length: int, start: int) -> NDArray[np.int64]:
    return np.broadcast_to(np.arange(start, start + length), (3, length))
