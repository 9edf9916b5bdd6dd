"""Several groups as one sequence: what the model's forward takes, and per-response values back out of it.

[prompt a][response a1]...[response aG][prompt b][response b1]...: a prompt and its pixels stand once for all of its
responses, each response attends to its prompt and itself (`packed_attention`), and its positions restart after the
prompt. Supervised fine-tuning is the same with one response per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from videor2_rl.model.packed_attention import PackedLayout, Segment
from videor2_rl.model.prompt import normalize_patches

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from videor2_rl.types import Prompt, TrainGroup


@dataclass(frozen=True)
class PixelNorm:
    """The checkpoint's normalisation of pixels scaled to 0-1, one value per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class PackedBatch:
    """Groups packed into one sequence of L tokens with S response tokens from B responses."""

    input_ids: Tensor
    """[1, L] int64."""
    position_ids: Tensor
    """[3, 1, L] int64, M-RoPE by the original formula; every response restarts at its prompt's end."""
    pixel_values_videos: Tensor | None
    """[N, patch values] float32, the clips of all groups one after the other, each once; None with embeddings."""
    video_grid_thw: Tensor
    """[number of clips, 3] int64."""
    layout: PackedLayout
    """One segment per group."""
    predict_index: Tensor
    """[S] int64: the token whose hidden state predicts each response token."""
    target_ids: Tensor
    """[S] int64: the response tokens."""
    response_lengths: tuple[int, ...]
    """[B] in the order of the groups and their responses; they sum to S."""
    video_embeddings: Tensor | None = None
    """[merged patches, E] what the vision tower makes of the clips, in their order (`videor2_rl.model.visual`)."""

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments of the model's forward; its logits come back as [1, S, V].

        With `video_embeddings` the forward must run in `videor2_rl.model.visual.without_tower`.
        """
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "pixel_values_videos": self.pixel_values_videos if self.video_embeddings is None else self.video_embeddings,
            "video_grid_thw": self.video_grid_thw,
            "logits_to_keep": self.predict_index,
            "packed_layout": self.layout,
            "use_cache": False,
        }


def pack(
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[NDArray[np.int64]]],
    *,
    pixel_norm: PixelNorm,
    device: torch.device | str | int = "cpu",
    video_embeddings: Sequence[Tensor] | None = None,
) -> PackedBatch:
    """One sequence of all groups.

    Args:
        prompts: one per group.
        responses: for each group its responses' token ids, [T_g] with T_g >= 1.
        pixel_norm: how the checkpoint normalises pixels.
        device: where the tensors go; patches travel as uint8.
        video_embeddings: each prompt's, to take the place of its pixels; None: the pixels themselves.

    Raises:
        ValueError: there is no group, or a response is empty.
    """
    if not prompts:
        raise ValueError("expected at least one group to pack")
    input_ids: list[NDArray[np.int64]] = []
    position_ids: list[NDArray[np.int64]] = []
    predict_index: list[NDArray[np.int64]] = []
    segments: list[Segment] = []
    start = 0
    for prompt, group in zip(prompts, responses, strict=True):
        segment = Segment(start, len(prompt.token_ids), tuple(len(ids) for ids in group))
        if min(segment.response_lengths, default=1) < 1:
            raise ValueError(f"a response to sample {prompt.sample_id} has no tokens")
        input_ids += [prompt.token_ids, *group]
        position_ids += [prompt.position_ids, *(_positions(prompt, length) for length in segment.response_lengths)]
        predict_index.append(_predict_index(segment))
        segments.append(segment)
        start = segment.stop
    pixels, embeddings = None, None
    if video_embeddings is None:
        patches = torch.cat([torch.tensor(prompt.patches) for prompt in prompts]).to(device)
        pixels = normalize_patches(patches, mean=pixel_norm.mean, std=pixel_norm.std)
    else:
        embeddings = torch.cat(list(video_embeddings)).to(device)
    return PackedBatch(
        input_ids=torch.tensor(np.concatenate(input_ids))[None].to(device),
        position_ids=torch.tensor(np.concatenate(position_ids, axis=1))[:, None].to(device),
        pixel_values_videos=pixels,
        video_embeddings=embeddings,
        video_grid_thw=torch.tensor(np.concatenate([prompt.video_grid_thw for prompt in prompts])).to(device),
        layout=PackedLayout.of(segments, device),
        predict_index=torch.tensor(np.concatenate(predict_index)).to(device),
        target_ids=torch.tensor(np.concatenate([ids for group in responses for ids in group])).to(device),
        response_lengths=tuple(length for segment in segments for length in segment.response_lengths),
    )


def _positions(prompt: Prompt, length: int) -> NDArray[np.int64]:
    """[3, T]: text positions, equal in all three rows, counted on from the prompt's end."""
    positions = np.arange(prompt.response_start, prompt.response_start + length, dtype=np.int64)
    return np.broadcast_to(positions, (3, length))


def _predict_index(segment: Segment) -> NDArray[np.int64]:
    """[sum of T_g]: the prompt's last token predicts every response's first, each response token its next."""
    index: list[NDArray[np.int64]] = []
    start = segment.response_start
    for length in segment.response_lengths:
        index.append(np.arange(start - 1, start - 1 + length, dtype=np.int64))
        index[-1][0] = segment.response_start - 1
        start += length
    return np.concatenate(index)


def to_padded(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """[S] values of B responses one after the other -> [B, longest], zeros after each response."""
    return torch.nn.utils.rnn.pad_sequence(list(values.split(list(lengths))), batch_first=True)


def response_mask(lengths: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """[B, longest] bool, True on the tokens that exist."""
    steps = torch.arange(max(lengths), device=device)
    return steps[None] < torch.tensor(list(lengths), device=device)[:, None]


def only_in_loss(group: TrainGroup) -> TrainGroup:
    """The group without the responses kept out of the loss: they need not be computed at all."""
    if group.in_loss is None:
        return group
    return replace(_select(group, np.flatnonzero(group.in_loss)), in_loss=None)


def _select(group: TrainGroup, kept: Sequence[int] | NDArray[np.intp]) -> TrainGroup:
    """The group with the responses of these indices alone."""

    def select(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else tuple(values[i] for i in kept)

    return replace(
        group,
        response_ids=tuple(group.response_ids[i] for i in kept),
        advantages=None if group.advantages is None else group.advantages[kept],
        in_loss=None if group.in_loss is None else group.in_loss[kept],
        accuracies=None if group.accuracies is None else group.accuracies[kept],
        old_log_probs=select(group.old_log_probs),
        ref_log_probs=select(group.ref_log_probs),
        rollout_log_probs=select(group.rollout_log_probs),
        is_fresh=None if group.is_fresh is None else group.is_fresh[kept],
        places=np.array([group.place_of(int(i)) for i in kept], dtype=np.int64),
    )


def split_groups(groups: Sequence[TrainGroup], *, max_tokens: int, num_ranks: int) -> list[list[TrainGroup]]:
    """Each group as parts that repeat the prompt and share out the responses; most groups stay whole.

    A group is split where it does not fit into one pass, and where there are fewer groups than ranks. Losses are
    normalised over the whole batch, so this changes no gradient.

    Args:
        max_tokens: of a part, if one response is not more by itself.
        num_ranks: as many parts in all, if there are enough responses.
    """
    parts = [_parts_that_fit(group, max_tokens=max_tokens) for group in groups]
    while sum(map(len, parts)) < num_ranks:
        places = [(row, column) for row, of_group in enumerate(parts) for column in range(len(of_group))]
        divisible = [place for place in places if len(parts[place[0]][place[1]].response_ids) > 1]
        if not divisible:
            break
        row, column = max(divisible, key=lambda place: parts[place[0]][place[1]].num_tokens)
        whole = parts[row][column]
        half, count = (len(whole.response_ids) + 1) // 2, len(whole.response_ids)
        parts[row][column : column + 1] = [_select(whole, range(half)), _select(whole, range(half, count))]
    return parts


def _parts_that_fit(group: TrainGroup, *, max_tokens: int) -> list[TrainGroup]:
    if group.num_tokens <= max_tokens:
        return [group]
    members: list[list[int]] = []
    size = 0
    for index, ids in enumerate(group.response_ids):
        if not members or size + len(ids) > max_tokens:
            members.append([])
            size = group.prompt.num_tokens
        members[-1].append(index)
        size += len(ids)
    return [_select(group, indices) for indices in members]


@dataclass(frozen=True)
class MicroBatch:
    """Groups of one forward pass."""

    groups: tuple[TrainGroup, ...]
    counts: bool = True
    """False: a repeat that weighs nothing, so that every rank takes part in equally many collectives."""


def micro_batches(groups: Sequence[TrainGroup], *, max_tokens: int) -> list[list[TrainGroup]]:
    """Groups, in order, into packs of up to `max_tokens` tokens each; a single larger group goes alone."""
    batches: list[list[TrainGroup]] = []
    room = 0
    for group in groups:
        if not batches or group.num_tokens > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(group)
        room -= group.num_tokens
    return batches


def even_micro_batches(shares: Sequence[Sequence[TrainGroup]], *, max_tokens: int) -> list[list[MicroBatch]]:
    """Each rank's share as micro-batches, equally many on every rank.

    Shorter lists are filled up with repeats of the smallest group, which weigh nothing.

    Raises:
        ValueError: there is no group at all.
    """
    groups = [group for share in shares for group in share]
    if not groups:
        raise ValueError("expected at least one group")
    filler = MicroBatch((min(groups, key=lambda group: group.num_tokens),), counts=False)
    ranks = [[MicroBatch(tuple(pack)) for pack in micro_batches(share, max_tokens=max_tokens)] for share in shares]
    most = max(len(batches) for batches in ranks)
    return [batches + [filler] * (most - len(batches)) for batches in ranks]
