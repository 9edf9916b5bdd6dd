from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from videor2_rl.model import packed_attention
from videor2_rl.model.packed_attention import PackedLayout, PaddedBatches, Segment, packed_group_attention

HEAD_DIM = 16
LAYOUTS: dict[str, list[tuple[int, tuple[int, ...]]]] = {
    "one response": [(5, (4,))],
    "no response": [(5, ()), (3, (2, 2))],
    "two uneven": [(7, (3, 6))],
    "a token each": [(1, (1, 1, 1))],
    "eight": [(9, (5, 2, 8, 1, 6, 3, 7, 4))],
    "even": [(6, (4, 4, 4))],
    "longer than a kernel's block": [(70, (40, 65, 1))],
    "four groups": [(5, (3, 6)), (2, (4,)), (11, (1, 1, 9)), (4, (5, 5))],
}


def segments(sizes: Sequence[tuple[int, tuple[int, ...]]]) -> list[Segment]:
    found: list[Segment] = []
    for prompt, responses in sizes:
        found.append(Segment(found[-1].stop if found else 0, prompt, responses))
    return found


def visible(groups: Sequence[Segment]) -> torch.Tensor:
    """[L, L], True where a token (row) may look at another: written token by token from the layout's rule."""
    # Of each token: its group, its response (-1 in the prompt) and its place in the sequence.
    owner = []
    for number, group in enumerate(groups):
        owner += [(number, -1)] * group.prompt_length
        for response, length in enumerate(group.response_lengths):
            owner += [(number, response)] * length
    rows = [
        [a[0] == b[0] and b[1] in (-1, a[1]) and column <= row for column, b in enumerate(owner)]
        for row, a in enumerate(owner)
    ]
    return torch.tensor(rows)


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[1, H, L, D] -> [1, L, H, D] by one masked softmax, heads repeated."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~mask, -torch.inf)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)


Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def states(length: int, *, heads_per_key: int, dtype: torch.dtype = torch.float64) -> Three:
    """Query, key, value as the model's layers give them: [1, L, H, D] in memory."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(1, length, heads, HEAD_DIM) for heads in (2 * heads_per_key, 2, 2)]
    query, key, value = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).transpose(1, 2).requires_grad_()
        for shape in shapes
    )
    return query, key, value


def packed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    return packed_group_attention(torch.nn.Identity(), query, key, value, None, scaling=0.3, packed_layout=layout)[0]


@pytest.mark.parametrize("heads_per_key", [1, 2, 7])
@pytest.mark.parametrize("sizes", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_output_and_gradients_equal_those_of_one_dense_mask(
    sizes: list[tuple[int, tuple[int, ...]]], heads_per_key: int
) -> None:
    groups = segments(sizes)
    inputs = states(groups[-1].stop, heads_per_key=heads_per_key)
    expected = dense(*inputs, visible(groups))
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = packed(*inputs, PackedLayout.of(groups))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    gradients = [torch.autograd.grad((output * weight).sum(), inputs) for output in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    groups = segments([(3, (2, 3)), (2, (1,))])
    layout = PackedLayout.of(groups)
    inputs = states(groups[-1].stop, heads_per_key=2)
    assert torch.autograd.gradcheck(lambda q, k, v: packed(q, k, v, layout), inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_lower_precision_is_as_near_as_it_can_be(dtype: torch.dtype, tolerance: float) -> None:
    groups = segments(LAYOUTS["four groups"])
    query, key, value = (
        tensor.detach().to(dtype).requires_grad_() for tensor in states(groups[-1].stop, heads_per_key=2)
    )
    inputs = query, key, value
    # From the rounded values on, in float64.
    query, key, value = (tensor.detach().double().requires_grad_() for tensor in inputs)
    exact = query, key, value
    outputs = packed(*inputs, PackedLayout.of(groups)), dense(*exact, visible(groups))
    torch.testing.assert_close(outputs[0].double(), outputs[1], rtol=tolerance, atol=tolerance)
    gradients = [
        torch.autograd.grad(output.double().square().sum(), tensors)
        for output, tensors in zip(outputs, (inputs, exact), strict=True)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=4 * tolerance, atol=4 * tolerance)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    groups = segments(LAYOUTS["four groups"])
    layout = PackedLayout.of(groups)
    inputs = states(groups[-1].stop, heads_per_key=2)
    plain = torch.autograd.grad(packed(*inputs, layout).square().sum(), inputs)
    again = torch.autograd.grad(checkpoint(packed, *inputs, layout, use_reentrant=False).square().sum(), inputs)
    for mine, theirs in zip(again, plain, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [5, 1, 4, 2, 30, 24, 23], [1]])
def test_padded_batches_hold_every_token_once_and_little_else(lengths: list[int]) -> None:
    stops = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    spans = [(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]
    batches = PaddedBatches.of(spans)
    tokens = torch.arange(stops[-1])
    rows = [row.tolist() for batch in batches.gather(tokens) for row in batch]
    assert all(row == [*range(row[0], row[0] + len(set(row))), *[row[-1]] * (len(row) - len(set(row)))] for row in rows)
    assert sorted((row[0], row[-1] + 1) for row in rows) == spans
    assert all(len(row) <= 1.25 * len(set(row)) for row in rows)
    with_zeros = [row.tolist() for batch in batches.gather_without_padding(tokens + 1) for row in batch]
    assert with_zeros == [[one + 1 for one in row[: len(set(row))]] + [0] * (len(row) - len(set(row))) for row in rows]
    assert torch.equal(batches.scatter(batches.gather(tokens)), tokens)


@pytest.mark.parametrize("asked", [{"sliding_window": 3}, {"dropout": 0.1}, {"attention_mask": torch.ones(1)}])
def test_what_the_layout_cannot_say_is_refused(asked: dict[str, Any]) -> None:
    inputs = states(2, heads_per_key=1)
    mask = asked.pop("attention_mask", None)
    with pytest.raises(ValueError, match="neither an attention mask nor a sliding window nor dropout"):
        packed_group_attention(
            torch.nn.Identity(),
            *inputs,
            mask,
            scaling=1.0,
            packed_layout=PackedLayout.of([Segment(0, 1, (1,))]),
            **asked,
        )


# On CUDA, without one: the same functions over FlashAttention written out, and over fake tensors.


def flash_forward(query: Any, key: Any, value: Any, *arguments: Any, scale: float, **_: Any) -> Any:
    """What `aten::_flash_attention_forward` computes for runs: [N, H, D] and log-sums [H, N] float32 or better."""
    query_bounds, key_bounds, _, _, _, is_causal = arguments
    repeats = query.shape[1] // key.shape[1]
    outputs, log_sums = [], []
    for rows, keys in runs(query_bounds, key_bounds):
        scores = torch.einsum("qhd,khd->hqk", query[rows], key[keys].repeat_interleave(repeats, dim=1)) * scale
        if is_causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[1:], dtype=torch.bool).tril(), -torch.inf)
        log_sums.append(scores.logsumexp(dim=-1))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[keys].repeat_interleave(repeats, dim=1)))
    return torch.cat(outputs), torch.cat(log_sums, dim=1), None, None, None


def flash_backward(
    grad: Any, query: Any, key: Any, value: Any, output: Any, log_sum: Any, *arguments: Any, scale: float
) -> Any:
    """What `aten::_flash_attention_backward` computes, by FlashAttention's formulas (arXiv:2205.14135, algorithm 4)."""
    query_bounds, key_bounds, _, _, _, is_causal, _, _ = arguments
    repeats = query.shape[1] // key.shape[1]
    grads = [torch.zeros_like(tensor) for tensor in (query, key, value)]
    for rows, keys in runs(query_bounds, key_bounds):
        k, v = (tensor[keys].repeat_interleave(repeats, dim=1) for tensor in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[rows], k) * scale
        weights = (scores - log_sum[:, rows, None]).exp()
        if is_causal:
            weights = weights.tril()
        grad_weights = torch.einsum("qhd,khd->hqk", grad[rows], v)
        delta = (grad[rows] * output[rows]).sum(-1).T
        grad_scores = weights * (grad_weights - delta[..., None]) * scale
        grads[0][rows] = torch.einsum("hqk,khd->qhd", grad_scores, k)
        for place, part in (
            (1, torch.einsum("hqk,qhd->khd", grad_scores, query[rows])),
            (2, torch.einsum("hqk,qhd->khd", weights, grad[rows])),
        ):
            grads[place][keys] = part.unflatten(1, (-1, repeats)).sum(2)
    return tuple(grads)


def runs(query_bounds: torch.Tensor, key_bounds: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    bounds = (query_bounds.tolist(), key_bounds.tolist())
    yield from zip(*([slice(*pair) for pair in pairwise(ends)] for ends in bounds), strict=True)


@pytest.mark.parametrize("heads_per_key", [1, 7])
@pytest.mark.parametrize("sizes", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_two_calls_for_cuda_are_right_given_what_flash_attention_computes(
    sizes: list[tuple[int, tuple[int, ...]]], heads_per_key: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernels exist on GPUs alone; everything around them runs here.
    monkeypatch.setattr(packed_attention, "flash_forward", flash_forward)
    monkeypatch.setattr(packed_attention, "flash_backward", flash_backward)
    groups = segments(sizes)
    inputs = states(groups[-1].stop, heads_per_key=heads_per_key)
    expected = dense(*inputs, visible(groups))
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layout = PackedLayout.of(groups)
    query, key, value = (tensor.detach()[0].transpose(0, 1) for tensor in inputs)
    rows = query, key, value
    output, log_sum = packed_attention.varlen_forward(*rows, layout=layout, scale=0.3)
    torch.testing.assert_close(output[None], expected, rtol=0, atol=1e-13)
    found = packed_attention.varlen_backward(weight[0], *rows, output, log_sum, layout=layout, scale=0.3)
    for mine, theirs in zip(found, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(mine.transpose(0, 1)[None], theirs, rtol=0, atol=1e-12)


class Largest(TorchDispatchMode):
    """The number of values of the largest tensor that any op puts out, and the names of all ops."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        outputs = found if isinstance(found, tuple | list) else [found]
        self.numel = max([self.numel, *(one.numel() for one in outputs if isinstance(one, torch.Tensor))])
        self.names.append(str(func))
        return found


def on_fake_cuda(run: Callable[[], None]) -> Largest:
    with FakeTensorMode(allow_non_fake_inputs=True), Largest() as seen:
        run()
    return seen


def test_on_cuda_two_kernel_calls_do_all_groups_and_nothing_is_larger_than_the_queries() -> None:
    groups = segments([(3000, (400, 700, 350)), (1200, (100,)), (900, (64,) * 8)])
    length, heads, key_heads, size = groups[-1].stop, 28, 4, 128

    def run() -> None:
        query, key, value = (
            torch.empty(length, count, size, dtype=torch.bfloat16, device="cuda")
            for count in (heads, key_heads, key_heads)
        )
        layout = PackedLayout.of(groups, "cuda")
        output, log_sum = packed_attention.varlen_forward(query, key, value, layout=layout, scale=0.1)
        assert output.shape == query.shape and output.dtype == torch.bfloat16 and output.device.type == "cuda"
        assert log_sum.shape == (heads, length) and log_sum.dtype == torch.float32
        grads = packed_attention.varlen_backward(output, query, key, value, output, log_sum, layout=layout, scale=0.1)
        assert [(one.shape, one.dtype) for one in grads] == [(one.shape, one.dtype) for one in (query, key, value)]

    seen = on_fake_cuda(run)
    assert seen.names.count("aten._flash_attention_forward.default") == 2
    assert seen.names.count("aten._flash_attention_backward.default") == 2
    assert seen.numel == length * heads * size
