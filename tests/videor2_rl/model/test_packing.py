from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import packed_prompts
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videor2_rl.model.last_layer import trim_last_layer
from videor2_rl.model.packed_attention import PACKED_GROUPS, PackedLayout, Segment, register_packed_attention
from videor2_rl.model.packing import (
    PixelNorm,
    even_micro_batches,
    micro_batches,
    only_in_loss,
    pack,
    response_mask,
    split_groups,
    to_padded,
)
from videor2_rl.model.token_scores import score_tokens
from videor2_rl.types import Prompt, PromptHandle, TrainGroup

VIDEO_TOKEN, VOCABULARY = 10, 96
NORM = PixelNorm(mean=(0.48, 0.45, 0.40), std=(0.26, 0.25, 0.27))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def model(request: pytest.FixtureRequest) -> Any:
    """Two query heads to a key head; a Qwen2.5-VL with windowed and full vision attention, or a Qwen3-VL with two
    DeepStack levels: vision features that are added to the outputs of the first layers."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    config = qwen3_vl() if request.param == "qwen3_vl" else qwen2_5_vl()
    return AutoModelForImageTextToText.from_config(config).eval()


TOKENS = {"image_token_id": 9, "video_token_id": VIDEO_TOKEN, "vision_start_token_id": 7, "vision_end_token_id": 8}


def qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig

    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "layer_types": ["full_attention"] * 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "initializer_range": 0.2,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
        "window_size": 28,
        "patch_size": 7,
        "initializer_range": 0.2,
    }
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, **TOKENS, tie_word_embeddings=True, initializer_range=0.2
    )


def qwen3_vl() -> Any:
    from transformers import Qwen3VLConfig

    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]},
        "initializer_range": 0.2,
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 25,
        "patch_size": 7,
        "initializer_range": 0.2,
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, **TOKENS, tie_word_embeddings=True)


a_prompt = partial(packed_prompts.a_prompt, video_token=VIDEO_TOKEN, vocabulary=VOCABULARY)


def some_responses(rng: np.random.Generator, lengths: list[int]) -> list[np.ndarray]:
    return [rng.integers(20, VOCABULARY, length) for length in lengths]


def separate_log_probs(model: Any, prompt: Prompt, response: np.ndarray) -> torch.Tensor:
    """The same by transformers alone: one ordinary sequence, SDPA, pixels normalised channel by channel."""
    pixels = torch.tensor(prompt.patches).float() / 255
    pixels = torch.cat(
        [(part - m) / s for part, m, s in zip(pixels.chunk(3, dim=1), NORM.mean, NORM.std, strict=True)], dim=1
    )
    ids = torch.tensor(np.concatenate([prompt.token_ids, response]))
    text = prompt.position_ids.max() + 1 + np.arange(len(response))
    positions = torch.tensor(np.concatenate([prompt.position_ids, np.tile(text, (3, 1))], axis=1))
    model.set_attn_implementation("sdpa")
    logits = model(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        position_ids=positions[:, None],
        pixel_values_videos=pixels,
        video_grid_thw=torch.tensor(prompt.video_grid_thw),
        use_cache=False,
    ).logits[0]
    start = len(prompt.token_ids)
    log_probs = torch.log_softmax(logits[start - 1 : -1], dim=-1)
    return log_probs.gather(1, ids[start:, None])[:, 0]


def packed_log_probs(
    model: Any, prompts: Sequence[Prompt], responses: Sequence[Sequence[np.ndarray]]
) -> list[torch.Tensor]:
    """Log-probs of all responses in order, through one packed sequence."""
    register_packed_attention()
    trim_last_layer(model)
    model.set_attn_implementation({"text_config": PACKED_GROUPS, "vision_config": "sdpa"})
    batch = pack(prompts, responses, pixel_norm=NORM)
    scores = score_tokens(model, batch, temperature=1.0)
    return list(scores.log_probs.split(list(batch.response_lengths)))


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


CASES = {
    "one response": [[6]],
    "two uneven": [[4, 7]],
    "five with a single token": [[1, 9, 3, 3, 5]],
    "eight": [[5, 2, 8, 1, 6, 3, 7, 4]],
    "eight even": [[4] * 8],
    "three groups": [[3, 6], [5], [1, 1, 4, 2, 7]],
}


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
def test_packed_groups_equal_separate_sequences(model: Any, lengths: list[list[int]], checkpointing: bool) -> None:
    rng = np.random.default_rng(1)
    sizes = [
        {"frames": 2, "side": 2, "text": 6},
        {"frames": 3, "side": 3, "text": 1},
        {"frames": 1, "side": 2, "text": 9},
    ]
    prompts = [a_prompt(rng, **size) for size in sizes[: len(lengths)]]
    responses = [some_responses(rng, group) for group in lengths]
    weights = [torch.tensor(rng.normal(size=length)).float() for group in lengths for length in group]

    separate = [
        separate_log_probs(model, prompt, response)
        for prompt, group in zip(prompts, responses, strict=True)
        for response in group
    ]
    expected = gradients(model, torch.stack([(w * v).sum() for w, v in zip(weights, separate, strict=True)]).sum())
    try:
        if checkpointing:
            model.train()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        packed = packed_log_probs(model, prompts, responses)
        found = gradients(model, torch.stack([(w * v).sum() for w, v in zip(weights, packed, strict=True)]).sum())
    finally:
        model.gradient_checkpointing_disable()
        model.eval()

    for one, other in zip(separate, packed, strict=True):
        # Twenty roundings of a log-prob of -7: which way they go is the processor's.
        torch.testing.assert_close(other, one, atol=1e-5, rtol=2e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # A key's bias shifts all scores of a query alike, so its gradient is rounding noise around 0.
        scale = max(gradient.norm(), 1e-3 * max(g.norm() for g in expected.values()))
        assert (found[name] - gradient).norm() / scale < 1e-5, name


@pytest.mark.parametrize("where", ["prompt", "response"])
def test_nan_in_one_group_does_not_reach_another(model: Any, where: str) -> None:
    rng = np.random.default_rng(2)
    prompts = [a_prompt(rng, frames=2, side=2, text=4) for _ in range(3)]
    responses = [some_responses(rng, [3, 5]) for _ in range(3)]
    poisoned = VOCABULARY - 1
    for prompt, group in zip(prompts, responses, strict=True):
        prompt.token_ids[prompt.token_ids == poisoned] = 30
        for response in group:
            response[response == poisoned] = 30
    clean = packed_log_probs(model, prompts, responses)
    if where == "prompt":
        prompts[1].token_ids[-1] = poisoned
    else:
        responses[1][0][1] = poisoned
    embedded: list[torch.Tensor] = []

    def poison(_: torch.nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        embedded.append(torch.where((args[0] == poisoned)[..., None], torch.nan, out))
        return embedded[0]

    hook = model.get_input_embeddings().register_forward_hook(poison)
    try:
        dirty = packed_log_probs(model, prompts, responses)
        gradient = torch.autograd.grad(dirty[0].sum() + dirty[5].sum(), embedded[0])[0][0]
    finally:
        hook.remove()
    assert dirty[2].isnan().any()
    assert dirty[3].isnan().any() == (where == "prompt"), "siblings see the prompt but not one another"
    for index in (0, 1, 4, 5):
        torch.testing.assert_close(dirty[index], clean[index], atol=1e-6, rtol=0)
    length = len(prompts[0].token_ids) + 8
    assert gradient[:length].abs().sum() > 0
    assert not gradient[:length].isnan().any()
    assert not gradient[2 * length :].isnan().any()


def test_order_of_groups_does_not_change_their_log_probs(model: Any) -> None:
    rng = np.random.default_rng(3)
    prompts = [a_prompt(rng, frames=n, side=2, text=4) for n in (1, 2, 3)]
    responses = [some_responses(rng, [n, n + 2]) for n in (1, 4, 2)]
    forward = packed_log_probs(model, prompts, responses)
    backward = packed_log_probs(model, prompts[::-1], responses[::-1])
    for one, other in zip(forward, [backward[i] for i in (4, 5, 2, 3, 0, 1)], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_clip_is_encoded_once_per_group(model: Any) -> None:
    rng = np.random.default_rng(4)
    prompt = a_prompt(rng, frames=2, side=2, text=4)
    seen = []
    hook = model.model.visual.register_forward_hook(
        lambda _, args, kwargs, out: seen.append(args[0].shape[0]), with_kwargs=True
    )
    try:
        packed_log_probs(model, [prompt], [some_responses(rng, [3] * 8)])
    finally:
        hook.remove()
    assert seen == [len(prompt.patches)]


def test_layout_of_a_packed_group() -> None:
    rng = np.random.default_rng(5)
    prompt = a_prompt(rng, frames=1, side=1, text=2)
    assert len(prompt.token_ids) == 6
    assert prompt.response_start == 6
    batch = pack([prompt], [[np.array([21, 22]), np.array([23])]], pixel_norm=NORM)
    assert batch.input_ids[0, 6:].tolist() == [21, 22, 23]
    assert batch.position_ids[:, 0, 6:].tolist() == [[6, 7, 6]] * 3
    assert batch.predict_index.tolist() == [5, 6, 5]
    assert batch.target_ids.tolist() == [21, 22, 23]
    assert batch.layout.segments == (Segment(0, 6, (2, 1)),)
    assert batch.pixel_values_videos is not None and batch.pixel_values_videos.dtype == torch.float32


def test_empty_responses_and_empty_batches_are_refused() -> None:
    prompt = a_prompt(np.random.default_rng(6), frames=1, side=1, text=2)
    with pytest.raises(ValueError, match="no tokens"):
        pack([prompt], [[np.array([], dtype=np.int64)]], pixel_norm=NORM)
    with pytest.raises(ValueError, match="at least one group"):
        pack([], [], pixel_norm=NORM)
    with pytest.raises(ValueError, match="at least one group"):
        even_micro_batches([[], []], max_tokens=10)


def test_padding_puts_zeros_after_each_response() -> None:
    assert to_padded(torch.tensor([1.0, 2.0, 3.0]), [1, 2]).tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert response_mask([1, 2]).tolist() == [[True, False], [True, True]]


def a_group(group_id: int, *, prompt_tokens: int, lengths: tuple[int, ...] = (1,)) -> TrainGroup:
    handle = PromptHandle("s", "c", prompt_tokens, None)
    return TrainGroup(group_id, handle, tuple(np.arange(n) for n in lengths))


def test_responses_out_of_the_loss_are_left_out() -> None:
    group = replace(
        a_group(0, prompt_tokens=3, lengths=(2, 5, 1)),
        advantages=np.array([1.0, 2.0, 3.0], dtype=np.float32),
        in_loss=np.array([True, False, True]),
        accuracies=np.array([0.25, 0.5, 0.75], dtype=np.float32),
        old_log_probs=tuple(np.full(n, n, dtype=np.float32) for n in (2, 5, 1)),
        rollout_log_probs=tuple(np.full(n, -n, dtype=np.float32) for n in (2, 5, 1)),
    )
    kept = only_in_loss(group)
    assert kept.rollout_log_probs is not None and kept.accuracies is not None
    assert [values.tolist() for values in kept.rollout_log_probs] == [[-2.0, -2.0], [-1.0]]
    assert kept.accuracies.tolist() == [0.25, 0.75]
    assert kept.in_loss is None
    assert [len(ids) for ids in kept.response_ids] == [2, 1]
    assert kept.advantages is not None and kept.advantages.tolist() == [1.0, 3.0]
    assert kept.old_log_probs is not None
    assert [values[0] for values in kept.old_log_probs] == [2.0, 1.0]
    assert kept.ref_log_probs is None
    assert kept.num_tokens == 6
    # Wherever its part of the group goes, a response knows its place.
    [parts] = split_groups([kept], max_tokens=5, num_ranks=1)
    assert [[part.place_of(n) for n in range(len(part.response_ids))] for part in parts] == [[0], [2]]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    num_ranks=st.integers(1, 4),
    max_tokens=st.integers(1, 60),
)
def test_micro_batches_hold_every_group_once_and_are_equally_many_on_every_rank(
    sizes: list[int], num_ranks: int, max_tokens: int
) -> None:
    groups = [a_group(index, prompt_tokens=size - 1) for index, size in enumerate(sizes)]
    shares = [groups[rank::num_ranks] for rank in range(num_ranks)]
    ranks = even_micro_batches(shares, max_tokens=max_tokens)
    assert len({len(batches) for batches in ranks}) == 1
    counted = [group.group_id for batches in ranks for batch in batches if batch.counts for group in batch.groups]
    assert sorted(counted) == list(range(len(groups)))
    for batch in (batch for batches in ranks for batch in batches):
        assert len(batch.groups) == 1 or sum(group.num_tokens for group in batch.groups) <= max_tokens
    assert [g.group_id for pack_ in micro_batches(groups, max_tokens=max_tokens) for g in pack_] == list(
        range(len(groups))
    )


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=6)), min_size=1),
    num_ranks=st.integers(1, 12),
    max_tokens=st.integers(1, 60),
)
def test_parts_of_groups_hold_every_response_once_in_order(
    groups: list[tuple[int, list[int]]], num_ranks: int, max_tokens: int
) -> None:
    whole = [
        replace(a_group(index, prompt_tokens=prompt, lengths=tuple(lengths)), advantages=np.arange(float(len(lengths))))
        for index, (prompt, lengths) in enumerate(groups)
    ]
    parts = split_groups(whole, max_tokens=max_tokens, num_ranks=num_ranks)
    for group, of_group in zip(whole, parts, strict=True):
        assert [id(ids) for part in of_group for ids in part.response_ids] == [id(ids) for ids in group.response_ids]
        assert group.advantages is not None
        assert np.concatenate([part.advantages for part in of_group]).tolist() == group.advantages.tolist()
        assert all(part.num_tokens <= max_tokens or len(part.response_ids) == 1 for part in of_group)
    num_parts, num_responses = sum(map(len, parts)), sum(len(lengths) for _, lengths in groups)
    assert num_parts >= min(num_ranks, num_responses)
    if num_ranks <= len(whole) and all(group.num_tokens <= max_tokens for group in whole):
        assert num_parts == len(whole)


def test_a_pack_is_filled_to_its_last_token() -> None:
    groups = [a_group(index, prompt_tokens=size - 1) for index, size in enumerate((4, 6, 1, 10, 11))]
    packs = [[group.group_id for group in pack_] for pack_ in micro_batches(groups, max_tokens=10)]
    assert packs == [[0, 1], [2], [3], [4]]


def test_a_group_is_split_only_where_it_must_and_parts_are_filled_to_their_last_token() -> None:
    whole = replace(
        a_group(0, prompt_tokens=3, lengths=(2, 3, 5, 1)),
        old_log_probs=tuple(np.full(n, n, dtype=np.float32) for n in (2, 3, 5, 1)),
        ref_log_probs=tuple(np.full(n, 10 + n, dtype=np.float32) for n in (2, 3, 5, 1)),
        rollout_log_probs=tuple(np.full(n, 20 + n, dtype=np.float32) for n in (2, 3, 5, 1)),
    )
    assert split_groups([whole], max_tokens=14, num_ranks=1) == [[whole]]
    [parts] = split_groups([whole], max_tokens=8, num_ranks=1)
    assert [[len(ids) for ids in part.response_ids] for part in parts] == [[2, 3], [5], [1]]
    for name, more in (("old_log_probs", 0), ("ref_log_probs", 10), ("rollout_log_probs", 20)):
        values = [[float(one[0]) for one in getattr(part, name)] for part in parts]
        assert values == [[2.0 + more, 3.0 + more], [5.0 + more], [1.0 + more]]
        assert [[len(one) for one in getattr(part, name)] for part in parts] == [[2, 3], [5], [1]]


def test_more_ranks_than_groups_halve_the_largest_part() -> None:
    small, large = a_group(0, prompt_tokens=1, lengths=(1, 1)), a_group(1, prompt_tokens=1, lengths=(2, 2, 2, 2, 2))
    parts = split_groups([small, large], max_tokens=100, num_ranks=4)
    assert [[len(part.response_ids) for part in of_group] for of_group in parts] == [[2], [2, 1, 2]]


def test_padded_repeats_are_the_smallest_group() -> None:
    small, large = a_group(0, prompt_tokens=4), a_group(1, prompt_tokens=50)
    ranks = even_micro_batches([[large, small], []], max_tokens=10)
    assert [[(b.groups[0].group_id, b.counts) for b in batches] for batches in ranks] == [
        [(1, True), (0, True)],
        [(0, False), (0, False)],
    ]


def test_attention_refuses_masks_and_windows() -> None:
    from videor2_rl.model.packed_attention import packed_group_attention

    states = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="sliding window"):
        packed_group_attention(
            torch.nn.Identity(),
            states,
            states,
            states,
            None,
            scaling=1.0,
            packed_layout=PackedLayout.of([Segment(0, 1, (1,))]),
            sliding_window=3,
        )
