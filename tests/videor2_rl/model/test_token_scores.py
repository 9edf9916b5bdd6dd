"""Scores of tokens in slices of the vocabulary against whole logits in float64, and what they take at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import packed_prompts
import pytest
import torch
from live_storage import LiveStorage
from torch import Tensor

from videor2_rl.model import token_scores as module
from videor2_rl.model.packed_attention import PACKED_GROUPS, register_packed_attention
from videor2_rl.model.packing import PackedBatch, PixelNorm, pack
from videor2_rl.model.token_scores import score_tokens, token_scores

TOKENS, VOCABULARY, HIDDEN = 23, 301, 16
VIDEO_TOKEN = 10


def by_formula(hidden: Tensor, weight: Tensor, target_ids: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, raw log-probs and entropy from whole logits in float64."""
    logits = hidden.double() @ weight.double().T
    rows = torch.arange(len(target_ids))
    tempered = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(tempered.exp() * tempered).sum(-1)
    return tempered[rows, target_ids], torch.log_softmax(logits, dim=-1)[rows, target_ids], entropy


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a head, and targets among which are the first and the last token of the vocabulary."""
    torch.manual_seed(0)
    targets = torch.randint(VOCABULARY, (TOKENS,))
    targets[:2] = torch.tensor([0, VOCABULARY - 1])
    return torch.randn(TOKENS, HIDDEN), torch.randn(VOCABULARY, HIDDEN) / 2, targets


# One slice; a last slice that is shorter; a token of the vocabulary a slice.
SLICES = [1 << 20, TOKENS * 64, 1]


@pytest.mark.parametrize("slice_logits", SLICES)
@pytest.mark.parametrize("temperature", [0.3, 0.9, 1.0, 1.7])
def test_scores_and_gradients_are_those_of_whole_logits(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, slice_logits: int, temperature: float
) -> None:
    monkeypatch.setattr(module, "SLICE_LOGITS", slice_logits)
    hidden, weight, targets = inputs
    hidden.requires_grad_(), weight.requires_grad_()
    scores = token_scores(hidden, weight, targets, temperature=temperature)
    expected = by_formula(hidden, weight, targets, temperature)
    for found, values in zip((scores.log_probs, scores.raw_log_probs, scores.entropy), expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), values, rtol=1e-6, atol=1e-6)
    assert not scores.raw_log_probs.requires_grad and not scores.entropy.requires_grad

    weights = torch.randn(TOKENS)
    gradients = torch.autograd.grad((scores.log_probs * weights).sum(), (hidden, weight))
    wanted = torch.autograd.grad((expected[0] * weights).sum(), (hidden, weight))
    for found, values in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5)


def test_in_float64_gradients_are_those_of_finite_differences(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_LOGITS", 5 * 3)
    hidden, weight, targets = inputs[0][:5].double(), inputs[1][:8].double(), torch.tensor([0, 7, 3, 3, 2])

    def log_probs(hidden: Tensor, weight: Tensor) -> Tensor:
        return token_scores(hidden, weight, targets, temperature=0.7).log_probs

    assert torch.autograd.gradcheck(log_probs, (hidden.requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize("slice_logits", SLICES)
def test_in_bfloat16_only_the_logits_are_rounded(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, slice_logits: int
) -> None:
    monkeypatch.setattr(module, "SLICE_LOGITS", slice_logits)
    hidden, weight = (part.bfloat16().requires_grad_() for part in inputs[:2])
    scores = token_scores(hidden, weight, inputs[2], temperature=0.9)
    logits = (hidden @ weight.T).detach()
    expected = by_formula(logits, torch.eye(VOCABULARY), inputs[2], 0.9)
    for found, values in zip((scores.log_probs, scores.raw_log_probs, scores.entropy), expected, strict=True):
        torch.testing.assert_close(found.double(), values, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(scores.log_probs.sum(), (hidden, weight))
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    wanted = torch.autograd.grad(by_formula(*exact, inputs[2], 0.9)[0].sum(), exact)
    for gradient, values in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient.double(), values, rtol=2e-2, atol=6e-2)


def test_a_float32_head_scores_bfloat16_states_without_rounding_a_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 64, generator=generator).bfloat16()
    weight = torch.randn(300, 64, generator=generator).bfloat16()
    targets = torch.randint(300, (40,), generator=generator)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    off = {
        head: (token_scores(hidden, weight, targets, temperature=1.0, float32_head=head).log_probs - exact).abs().max()
        for head in (False, True)
    }
    assert off[True] < 1e-5
    assert off[False] > 1e-2
    states = hidden.requires_grad_()
    token_scores(states, weight, targets, temperature=1.0, float32_head=True).log_probs.sum().backward()
    double = hidden.detach().double().requires_grad_()
    (double @ weight.double().T).log_softmax(-1).gather(1, targets[:, None]).sum().backward()
    assert states.grad is not None and double.grad is not None
    torch.testing.assert_close(states.grad.double(), double.grad, rtol=2e-2, atol=6e-2)


def test_a_head_or_hidden_states_that_need_no_gradient_get_none(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets = inputs
    token_scores(hidden.requires_grad_(), weight, targets, temperature=1.0).log_probs.sum().backward()
    assert hidden.grad is not None and weight.grad is None
    gradient = hidden.grad.clone()
    token_scores(hidden.detach(), weight.requires_grad_(), targets, temperature=1.0).log_probs.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(hidden.grad, gradient)


@pytest.mark.parametrize("slice_logits", SLICES)
def test_large_logits_do_not_overflow_and_a_nan_stays_in_its_row(
    monkeypatch: pytest.MonkeyPatch, slice_logits: int
) -> None:
    monkeypatch.setattr(module, "SLICE_LOGITS", slice_logits)
    logits = torch.tensor([[1e4, -1e4, 0.0], [-3e38, 1.0, 1.0], [0.0, float("nan"), 0.0], [-5e4, -5e4, -5e4]])
    scores = token_scores(logits, torch.eye(3), torch.tensor([2, 1, 0, 0]), temperature=0.5)
    # 0 x NaN is NaN, so a whole row of the identity's product is.
    expected = [-2e4, -np.log(2), np.nan, -np.log(3)]
    np.testing.assert_allclose(scores.log_probs.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(scores.raw_log_probs.numpy(), [-1e4, *expected[1:]], rtol=1e-6)
    np.testing.assert_allclose(scores.entropy.numpy(), [0, np.log(2), np.nan, np.log(3)], rtol=1e-6)


def make_model(*, vocabulary: int, is_tied: bool = True) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "layer_types": ["full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": is_tied,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 7,
        "fullatt_block_indexes": [0],
    }
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        video_token_id=VIDEO_TOKEN,
        vision_start_token_id=11,
        tie_word_embeddings=is_tied,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    register_packed_attention()
    model.set_attn_implementation({"text_config": PACKED_GROUPS, "vision_config": "sdpa"})
    return model


def make_batch(*, responses: int, length: int, vocabulary: int) -> PackedBatch:
    rng = np.random.default_rng(0)
    prompt = packed_prompts.a_prompt(rng, video_token=VIDEO_TOKEN, frames=1, vocabulary=vocabulary)
    norm = PixelNorm(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return pack([prompt], [[rng.integers(20, vocabulary, length) for _ in range(responses)]], pixel_norm=norm)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_models_scores_and_gradients_are_those_of_its_logits_and_it_gives_logits_again(is_tied: bool) -> None:
    model = make_model(vocabulary=97, is_tied=is_tied)
    batch = make_batch(responses=3, length=4, vocabulary=97)
    logits = model(**batch.model_inputs()).logits[0]
    expected = by_formula(logits, torch.eye(97), batch.target_ids, 0.8)
    expected[0].sum().backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    scores = score_tokens(model, batch, temperature=0.8)
    for found, values in zip((scores.log_probs, scores.raw_log_probs, scores.entropy), expected, strict=True):
        torch.testing.assert_close(found.double(), values, rtol=1e-6, atol=1e-6)
    scores.log_probs.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-5, atol=1e-5, msg=name)
    assert (wanted.get("lm_head.weight") is None) == is_tied

    with pytest.raises(TypeError):
        score_tokens(model, batch, temperature="hot")  # type: ignore[arg-type]
    torch.testing.assert_close(model(**batch.model_inputs()).logits[0], logits, rtol=0, atol=0)


def whole_logits(model: Any, batch: PackedBatch) -> Tensor:
    logits = model(**batch.model_inputs()).logits[0].float()
    return torch.log_softmax(logits / 0.9, dim=-1).gather(1, batch.target_ids[:, None])[:, 0]


def sliced(model: Any, batch: PackedBatch) -> Tensor:
    return score_tokens(model, batch, temperature=0.9).log_probs


@pytest.mark.parametrize(("log_probs", "least", "most"), [(sliced, 0.5, 2.0), (whole_logits, 8.0, 20.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_pass_takes_less_than_2_bytes_for_each_token_and_word_of_the_vocabulary(
    log_probs: Callable[[Any, PackedBatch], Tensor], least: float, most: float, dtype: torch.dtype
) -> None:
    """2,048 response tokens and 32,000 words; all that forward and backward make, gradients included."""
    model = make_model(vocabulary=32_000).to(dtype)
    batch = make_batch(responses=8, length=256, vocabulary=32_000)
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    with LiveStorage(before=[*model.parameters(), *model.buffers(), *tensors]) as tracker:
        (-log_probs(model, batch).mean()).backward()
    taken = tracker.peak / (2048 * 32_000)
    print(f"\n{log_probs.__name__}, {dtype}: {taken:.2f} bytes")
    assert least < taken < most
