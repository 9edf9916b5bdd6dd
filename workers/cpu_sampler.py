"""How an engine on CPUs draws tokens: one random number a token, where vLLM draws one for each word of the vocabulary.

vLLM divides the probabilities by exponential noise and takes the largest. On CPUs that noise is most of what sampling
costs, and with a seed for each request it is drawn twice, once for nothing (`TopKTopPSampler.forward_cpu`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def use_one_number_a_token(sampler: Any) -> None:
    """Make vLLM's `TopKTopPSampler` sample so; it keeps its top-k, top-p and log-probs."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    def forward(
        logits: Tensor, generators: Mapping[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        logits = apply_top_k_top_p(logits, k, p)
        returned = None
        if sampler.logprobs_mode == "processed_logits":
            returned = logits
        elif sampler.logprobs_mode == "processed_logprobs":
            returned = logits.log_softmax(dim=-1, dtype=torch.float32)
        return sample(logits, uniforms(len(logits), generators)), returned

    sampler.forward = forward


def uniforms(count: int, generators: Mapping[int, torch.Generator]) -> Tensor:
    """[B] float64 in [0, 1), each of its row's generator where there is one."""
    values = torch.rand(count, dtype=torch.float64)
    for row, generator in generators.items():
        values[row].uniform_(generator=generator)
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
