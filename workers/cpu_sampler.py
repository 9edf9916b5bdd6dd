"""How an engine on CPUs draws tokens: one random number a token, where vLLM draws one for each word of the vocabulary.

vLLM divides the probabilities by exponential noise and takes the largest. On CPUs that noise is most of what sampling
costs, and with a seed for each request it is drawn twice, once for nothing (`TopKTopPSampler.forward_cpu`).

Where a prompt does not fit into one step, vLLM samples a token behind its first part, discards it, and turns the
request's generator back by what a CUDA kernel has used; a generator on a CPU cannot do that and ends the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class SeededNumbers:
    """The random numbers of one request; the last one can be taken back."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._last = 0.0
        self._is_back = False

    def draw(self) -> float:
        """In [0, 1)."""
        if not self._is_back:
            self._last = float(torch.rand((), dtype=torch.float64, generator=self._generator))
        self._is_back = False
        return self._last

    def get_offset(self) -> int:
        """Asked by vLLM for a CUDA generator's place."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Told by vLLM where it discards a token: its number comes again."""
        self._is_back = True


class SeededRows(dict[int, SeededNumbers]):
    """vLLM's generators by row of the batch, in which it puts them by itself."""

    def __setitem__(self, row: int, numbers: torch.Generator | SeededNumbers) -> None:
        super().__setitem__(row, numbers if isinstance(numbers, SeededNumbers) else SeededNumbers(numbers))


def use_one_number_a_token(model_runner: Any) -> None:
    """Make the sampler of vLLM's model runner sample so; it keeps its top-k, top-p and log-probs."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    sampler = model_runner.sampler.topk_topp_sampler
    assert not model_runner.input_batch.generators, "requests are under way"
    model_runner.input_batch.generators = SeededRows()

    def forward(
        logits: Tensor, generators: Mapping[int, SeededNumbers], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        logits = apply_top_k_top_p(logits, k, p)
        returned = None
        if sampler.logprobs_mode == "processed_logits":
            returned = logits
        elif sampler.logprobs_mode == "processed_logprobs":
            returned = logits.log_softmax(dim=-1, dtype=torch.float32)
        return sample(logits, uniforms(len(logits), generators)), returned

    sampler.forward = forward


def uniforms(count: int, seeded: Mapping[int, SeededNumbers]) -> Tensor:
    """[B] float64 in [0, 1), each of its row's numbers where it has its own."""
    values = torch.rand(count, dtype=torch.float64)
    for row, numbers in seeded.items():
        values[row] = numbers.draw()
    return values


def sample(logits: Tensor, numbers: Tensor) -> Tensor:
    """The token at which the cumulated probability passes the row's number.

    Args:
        logits: [B, V]; -inf is never sampled.
        numbers: [B] float64 in [0, 1).

    Returns:
        [B] int64.
    """
    cumulated = logits.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    # Of the whole as it was summed up, which differs from 1 in its last bits.
    bounds = numbers.unsqueeze(1) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, bounds, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
