"""The papers' formulas: one response's or token's loss, on float64 scalars, without masks or padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.types import TrainGroup


def ppo(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def ppo_tokens(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """GRPO (arXiv:2402.03300) and what differs from it by its clip, baseline or mean alone."""
    return [ppo((n - o).exp(), advantage, low, high) for n, o in zip(new, old, strict=True)]


def gspo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2507.18071: the ratio of the sequences to the power of 1 / length."""
    ratio = ((new.sum() - old.sum()) / len(new)).exp()
    return [ppo(ratio, advantage, low, high)] * len(new)


def gmpo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2507.20673: the geometric mean of tokens that are clipped where it lowers the objective."""
    product = torch.ones((), dtype=torch.float64)
    for n, o in zip(new, old, strict=True):
        ratio = (n - o).exp()
        clipped = ratio.clamp(math.exp(-low), math.exp(high))
        product = product * (torch.minimum(ratio, clipped) if advantage > 0 else torch.maximum(ratio, clipped))
    return [-advantage * product ** (1 / len(new))] * len(new)


def cispo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2506.13585: the clipped ratio weighs the gradient and has none."""
    return [-(n - o).exp().clamp(1 - low, 1 + high).item() * advantage * n for n, o in zip(new, old, strict=True)]


def gpg(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2504.02546: the policy gradient itself."""
    return [-advantage * n for n in new]


def sapo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2511.20347: a sigmoid of the ratio with temperature 1 for gains and 1.05 for losses."""
    tau = 1.0 if advantage > 0 else 1.05
    return [-advantage * 4 / tau / (1 + (-tau * ((n - o).exp() - 1)).exp()) for n, o in zip(new, old, strict=True)]


def dppo(diverges: Callable[[float, float, float, float], bool]) -> Callable[..., list[Tensor]]:
    """arXiv:2602.04879: REINFORCE by the ratio, without the tokens that moved too far in the advantage's direction."""

    def tokens(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
        found = []
        for n, o in zip(new, old, strict=True):
            p, q = n.exp().item(), o.exp().item()
            is_off = diverges(p, q, low, high) and (p > q if advantage > 0 else p < q)
            found.append(n * 0 if is_off else -advantage * (p / q) * n)
        return found

    return tokens


def binary_kl(p: float, q: float) -> float:
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


LOSSES: dict[str, Callable[..., list[Tensor]]] = {
    "vanilla": ppo_tokens,
    "gspo": gspo,
    "geo_mean": gmpo,
    "cispo": cispo,
    "gpg": gpg,
    "sapo": sapo,
    "dppo_tv": dppo(lambda p, q, low, high: abs(p - q) > (high if p > q else low)),
    "dppo_kl": dppo(lambda p, q, low, high: binary_kl(p, q) > (high if p > q else low)),
}


def mean_of(responses: list[list[Tensor]], aggregation: str) -> Tensor:
    """The aggregations by their names in verl; 16 is the longest response that may be generated."""
    tokens = [token for response in responses for token in response]
    if aggregation == "token-mean":
        return torch.stack(tokens).mean()
    if aggregation == "seq-mean-token-mean":
        return torch.stack([torch.stack(response).mean() for response in responses]).mean()
    divisor = 16 if aggregation == "seq-mean-token-sum-norm" else 1
    return torch.stack(tokens).sum() / divisor / len(responses)


def by_formula(groups: list[TrainGroup], logits: dict[int, Tensor], algorithm: AlgorithmConfig) -> Any:
    """Policy loss, whole loss and the gradient of the whole loss with respect to the logits."""
    leaves = {group_id: values.double().requires_grad_() for group_id, values in logits.items()}
    policy, penalties = [], []
    for group in groups:
        assert group.advantages is not None and group.old_log_probs is not None and group.ref_log_probs is not None
        rows = iter((leaves[group.group_id] / 0.7).log_softmax(-1))
        for index, ids in enumerate(group.response_ids):
            new = torch.stack([next(rows)[token] for token in ids])
            rollouts = group.rollout_log_probs or group.old_log_probs
            old, ref, rollout = (
                torch.tensor(values[index]).double() for values in (group.old_log_probs, group.ref_log_probs, rollouts)
            )
            advantage = float(group.advantages[index])
            losses = LOSSES[algorithm.policy_loss](new, old, advantage, algorithm.clip_low, algorithm.clip_high)
            weights = (old - rollout).exp().clamp(max=algorithm.cap)
            if algorithm.policy_loss == "geo_mean":
                weights = torch.full_like(weights, weights.log().mean().exp().item())
            policy.append([loss * weight for loss, weight in zip(losses, weights, strict=True)])
            penalties.append([(r - n).exp() - (r - n) - 1 for n, r in zip(new, ref, strict=True)])
    pg_loss = mean_of(policy, algorithm.loss_aggregation)
    loss = pg_loss + algorithm.kl_coefficient * mean_of(penalties, algorithm.loss_aggregation)
    loss.backward()
    return pg_loss.item(), loss.item(), {group_id: leaf.grad for group_id, leaf in leaves.items()}
