from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import packed_prompts
import torch

from videor2_rl.demo.model import make_model
from videor2_rl.model.last_layer import trim_last_layer
from videor2_rl.model.packed_attention import PACKED_GROUPS, PackedLayout, Segment, register_packed_attention
from videor2_rl.model.packing import PixelNorm, pack

NORM = PixelNorm(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def test_read_tokens_are_those_that_predict() -> None:
    layout = PackedLayout.of([Segment(0, 4, (3, 1, 2)), Segment(10, 2, (2,))])
    # [p p p p][a a a][b][c c] [q q][d d]
    assert layout.read.tolist() == [3, 4, 5, 8, 11, 12]


def test_the_feed_forward_network_gets_read_tokens_alone_and_logits_stay(tmp_path: Any) -> None:
    from transformers import AutoModelForImageTextToText

    register_packed_attention()
    make_model(tmp_path, seed=0)
    model: Any = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float64)
    model.set_attn_implementation({"text_config": PACKED_GROUPS, "vision_config": "sdpa"})
    rng = np.random.default_rng(0)
    a_prompt = partial(packed_prompts.a_prompt, video_token=model.config.video_token_id, vocabulary=300)
    prompts = [a_prompt(rng, frames=2, text=9), a_prompt(rng, frames=1, text=3)]
    responses = [[rng.integers(20, 300, length) for length in lengths] for lengths in ((4, 2), (3,))]
    batch = pack(prompts, responses, pixel_norm=NORM)

    seen: list[int] = []
    layers = model.model.language_model.layers
    layers[-1].mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    found = []
    for trim in (False, True):
        if trim:
            trim_last_layer(model)
        logits = model(**batch.model_inputs()).logits
        model.zero_grad()
        logits.square().mean().backward()
        found.append((logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    # Of the first group 1 + 3 + 1 tokens, of the second 1 + 2.
    assert seen == [batch.input_ids.shape[1], 8]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-12)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)
