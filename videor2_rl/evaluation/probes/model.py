"""A checkpoint in this process, one sample at a time: log-probs of given texts, greedy responses, attention shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videor2_rl.config.sections import ModelConfig
from videor2_rl.evaluation.probes.attention import PROBED, AttentionProbe, AttentionShare, attention_share, register
from videor2_rl.model.packing import PixelNorm, pack
from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.types import Prompt


class ProbedModel:
    """A Hugging Face folder, loaded whole."""

    def __init__(self, config: ModelConfig, *, device: str) -> None:
        """
        Raises:
            ConfigError: the folder holds no Qwen2.5-VL checkpoint.
        """
        from transformers import AutoModelForImageTextToText

        register()
        self.builder = PromptBuilder(config)
        self._model: Any = AutoModelForImageTextToText.from_pretrained(
            config.path,
            dtype=getattr(torch, config.dtype),
            attn_implementation={"": "sdpa", "text_config": PROBED, "vision_config": "sdpa"},
        )
        self._model.to(device).eval()
        self._device = device
        video_processor = self.builder.processor.video_processor
        self._pixel_norm = PixelNorm(tuple(video_processor.image_mean), tuple(video_processor.image_std))

    @torch.no_grad()
    def forced(self, prompt: Prompt, response_ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], AttentionShare]:
        """[T] log-probs of given response tokens, and the attention that they pay to the video."""
        batch = pack([prompt], [[response_ids]], pixel_norm=self._pixel_norm, device=self._device)
        inputs = batch.model_inputs()
        del inputs["packed_layout"]
        probe = AttentionProbe(
            is_video=batch.input_ids[0] == self.builder.video_token_id, response_start=len(prompt.token_ids)
        )
        logits = self._model(**inputs, attention_probe=probe).logits[0].float()
        log_probs = logits.log_softmax(dim=-1).gather(1, batch.target_ids[:, None])[:, 0]
        return log_probs.cpu().numpy(), attention_share(probe)

    def log_prob_of(self, prompt: Prompt, before: str, text: str) -> float:
        """Log-prob in nats of `text` right after the prompt and the response part `before`."""
        encoded = self.builder.tokenizer(before + text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.asarray(encoded["input_ids"], np.int64)
        # A token that begins before `text` and ends in it belongs to it too.
        is_text = np.asarray([end > len(before) for _, end in encoded["offset_mapping"]])
        log_probs, _ = self.forced(prompt, ids)
        return float(log_probs[is_text].sum())

    @torch.no_grad()
    def greedy(self, prompt: Prompt, *, max_tokens: int) -> str:
        """The most likely response, token by token, without tokens that are never sampled."""
        self._model.set_attn_implementation({"text_config": "sdpa"})
        try:
            return self._greedy(prompt, max_tokens=max_tokens)
        finally:
            self._model.set_attn_implementation({"text_config": PROBED})

    def _greedy(self, prompt: Prompt, *, max_tokens: int) -> str:
        # `pack` wants a response; its tokens are cut off again.
        inputs = pack([prompt], [[prompt.token_ids[-1:]]], pixel_norm=self._pixel_norm, device=self._device)
        length = len(prompt.token_ids)
        out = self._model(
            input_ids=inputs.input_ids[:, :length],
            position_ids=inputs.position_ids[..., :length],
            pixel_values_videos=inputs.pixel_values_videos,
            video_grid_thw=inputs.video_grid_thw,
            use_cache=True,
            logits_to_keep=1,
        )
        ids: list[int] = []
        banned = list(self.builder.banned_token_ids)
        for step in range(max_tokens):
            logits = out.logits[0, -1]
            logits[banned] = -torch.inf
            token = int(logits.argmax())
            if token == self.builder.eos_token_id:
                break
            ids.append(token)
            position = torch.full((3, 1, 1), prompt.response_start + step, device=self._device)
            out = self._model(
                input_ids=torch.tensor([[token]], device=self._device),
                position_ids=position,
                past_key_values=out.past_key_values,
                use_cache=True,
            )
        return str(self.builder.tokenizer.decode(ids, skip_special_tokens=True))
