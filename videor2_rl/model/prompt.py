"""A sample and its frames become what the model reads: token ids, patches, grid, times and positions.

One processor call makes all of it, once, for the rollout engine, the learner and the reference alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videor2_rl.config.sections import ModelConfig
from videor2_rl.model.family import family_of
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
            ConfigError: as `family_of`.
        """
        from transformers import AutoProcessor

        self.family = family_of(model)
        self._model = model
        self._max_prompt_tokens = max_prompt_tokens
        self.processor: Any = AutoProcessor.from_pretrained(model.path)
        self.tokenizer: Any = self.processor.tokenizer
        self.eos_token_id: int = self.tokenizer.eos_token_id
        self.video_token_id: int = self.family.video_token_id
        self.banned_token_ids: tuple[int, ...] = banned_token_ids(self.tokenizer)

    def build(self, sample: VideoSample, clip: Clip) -> Prompt:
        """The prompt of one sample.

        Raises:
            VideoError: too_long, when it has more tokens than `max_prompt_tokens`.
        """
        text = self.render(sample.question, sample.system_prompt)
        inputs = self._process(text, clip)
        token_ids = inputs["input_ids"][0].numpy().astype(np.int64)
        if self._max_prompt_tokens is not None and len(token_ids) > self._max_prompt_tokens:
            raise VideoError(
                "too_long",
                f"{sample.video}: the prompt has {len(token_ids)} tokens, at most {self._max_prompt_tokens} fit",
            )
        grid = inputs["video_grid_thw"].numpy().astype(np.int64)
        second_per_grid_s = float(np.float32(self.family.temporal_patch_size / clip.sample_fps))
        return Prompt(
            sample_id=sample.sample_id,
            clip_key=clip.key,
            text=text,
            token_ids=token_ids,
            position_ids=self._positions(token_ids, grid, second_per_grid_s),
            patches=inputs["pixel_values_videos"].numpy(),
            video_grid_thw=grid,
            second_per_grid_s=second_per_grid_s,
            timestamps_s=clip.timestamps_s,
        )

    def _process(self, text: str, clip: Clip) -> Any:
        """Token ids, uint8 patches and their grid, as the checkpoint's processor makes them."""
        import torch

        family = self.family
        metadata = (
            timed_metadata(clip.timestamps_s)
            if family.is_interleaved
            else video_metadata(len(clip.frames), clip.sample_fps)
        )
        inputs = self.processor(
            text=[text],
            videos=[torch.from_numpy(clip.frames)],
            return_tensors="pt",
            videos_kwargs={
                "do_resize": False,
                "do_rescale": False,
                "do_normalize": False,
                "do_sample_frames": False,
                "video_metadata": [metadata],
            },
        )
        patches = inputs["pixel_values_videos"]
        assert patches.dtype == torch.uint8, f"the processor changed uint8 frames to {patches.dtype}"
        if family.is_interleaved and not self._model.text_timestamps:
            steps, height, width = inputs["video_grid_thw"][0].tolist()
            plain = self._interleaved(text, [""] * steps, cells=height * width // family.merge_size**2)
            inputs["input_ids"] = self.tokenizer([plain], return_tensors="pt")["input_ids"]
        return inputs

    def _positions(self, token_ids: NDArray[np.int64], grid: NDArray[np.int64], seconds: float) -> NDArray[np.int64]:
        """[3, P] M-RoPE; in an interleaved prompt every temporal patch is a video of one step."""
        family = self.family
        if family.is_interleaved:
            ((steps, height, width),) = grid
            grid = np.asarray([[1, height, width]] * int(steps), np.int64)
        return mrope_positions(
            token_ids,
            video_token_id=family.video_token_id,
            grids=grid,
            second_per_grid_s=[seconds] * len(grid),
            tokens_per_second=family.tokens_per_second or 0.0,
            merge_size=family.merge_size,
        )

    def _interleaved(self, text: str, stamps: Sequence[str], *, cells: int) -> str:
        """A rendered chat whose video is one picture of `cells` tokens after each of the stamps."""
        processor = self.processor
        start, video, end = processor.vision_start_token, processor.video_token, processor.vision_end_token
        pictures = "".join(f"{stamp}{start}{video * cells}{end}" for stamp in stamps)
        return text.replace(f"{start}{video}{end}", pictures)

    def num_tokens(
        self,
        question: str,
        system_prompt: str | None = None,
        *,
        timestamps_s: NDArray[np.float64],
        height: int,
        width: int,
    ) -> tuple[int, int]:
        """Tokens of the prompt that `build` would make of such frames, and how many of them are the video's.

        Args:
            timestamps_s: [F] of the frames; F is a multiple of the model's temporal patch, as sampling makes it.
            height: in pixels.
            width: in pixels.
        """
        family = self.family
        text, placeholders = self.render(question, system_prompt), 1
        steps = len(timestamps_s) // family.temporal_patch_size
        vision = family.vision_tokens(len(timestamps_s), height, width)
        if family.is_interleaved:
            stamps = text_stamps(timestamps_s, family.temporal_patch_size)
            text = self._interleaved(text, stamps if self._model.text_timestamps else [""] * steps, cells=1)
            placeholders = steps
        # The processor repeats each placeholder.
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) - placeholders + vision, vision

    def render(self, question: str, system_prompt: str | None = None) -> str:
        """The chat up to the response, with one video placeholder; a row's own `system_prompt` comes before ours."""
        parts = [question, self._model.instruction]
        text = "\n".join(part for part in parts if part)
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
        ]
        if system := self._model.system_prompt if system_prompt is None else system_prompt:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
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


def timed_metadata(timestamps_s: NDArray[np.float64]) -> dict[str, Any]:
    """What makes Qwen3-VL's processor write true times, of frames at any rate: it writes index / fps.

    With a microsecond for an index step that is the presentation time. Of the frames of a temporal patch it takes the
    mean of the first and the last, and it writes tenths of a second.
    """
    ticks = np.rint(timestamps_s * 1e6).astype(int).tolist()
    return {"fps": 1e6, "total_num_frames": len(ticks), "frames_indices": ticks, "duration": float(timestamps_s[-1])}


def text_stamps(timestamps_s: NDArray[np.float64], temporal_patch_size: int) -> list[str]:
    """What stands before each temporal patch, as Qwen3-VL's processor writes it; [F] seconds -> F / patch texts."""
    times_s = np.rint(timestamps_s * 1e6) / 1e6
    first, last = times_s[::temporal_patch_size], times_s[temporal_patch_size - 1 :: temporal_patch_size]
    return [f"<{seconds:.1f} seconds>" for seconds in (first + last) / 2]


def mrope_positions(
    token_ids: NDArray[np.int64],
    *,
    video_token_id: int,
    grids: NDArray[np.int64],
    second_per_grid_s: Sequence[float],
    tokens_per_second: float,
    merge_size: int,
) -> NDArray[np.int64]:
    """M-RoPE positions by the formula that Qwen2.5-VL and Qwen3-VL were trained with and that vLLM uses.

    A video token stands at (step * seconds per step * tokens per second, row, column) after the text before it; the
    text after a video goes on at the highest position so far, plus one. Transformers 5.9 derives others for Qwen2.5-VL
    (`get_rope_index` starts the text after the video at its height or width), a silent error; for Qwen3-VL, whose
    temporal patches are each a video of one step, the same.

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
