"""Losses of one micro-batch of packed groups, by verl's core algorithms, and the sums behind the metrics.

Every loss is divided by counts of the whole global batch and multiplied by the number of ranks, since FSDP averages
gradients over ranks: how a batch is split never changes the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn, kl_penalty

from videor2_rl.model.packing import MicroBatch, PackedBatch, response_mask, to_padded
from videor2_rl.model.token_scores import TokenScores
from videor2_rl.training.gap import Gap, GapPart, gap_of, part_of_gap
from videor2_rl.types import TokenValues
from workers.learner.verl_config import UpdateSpec

if TYPE_CHECKING:
    from torch import Tensor
    from verl.workers.config import ActorConfig


MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class LossSums:
    """What one micro-batch, rank or batch contributes to the metrics."""

    sums: dict[str, float]
    """Losses, normalised over the global batch and times the number of ranks; all else summed over tokens."""
    maxima: dict[str, float]


def add(parts: Sequence[LossSums]) -> LossSums:
    """The contributions together; at least one."""
    return LossSums(
        {name: sum(part.sums[name] for part in parts) for name in parts[0].sums},
        {name: max(part.maxima[name] for part in parts) for name in parts[0].maxima},
    )


def policy_loss(
    scores: TokenScores, batch: PackedBatch, micro_batch: MicroBatch, *, spec: UpdateSpec, config: ActorConfig
) -> tuple[Tensor, dict[str, Any]]:
    """Policy loss plus KL penalty.

    Args:
        scores: of the response tokens, at `spec.temperature`.
        batch: the packed groups.
        micro_batch: their advantages and log-probs; every response in it is in the loss. Without old log-probs these
            scores are the old ones too, and those of the rollouts must be there to be compared with.
        spec: what all ranks agree on.
        config: `verl_config.actor_config(spec)`.

    Returns:
        The loss, and its `LossSums` as tensors still on the device.
    """
    lengths, device = batch.response_lengths, scores.log_probs.device
    groups = micro_batch.groups
    mask = response_mask(lengths, device=device) & micro_batch.counts

    def padded(values: Sequence[Sequence[np.ndarray] | None]) -> Tensor:
        flat = np.concatenate([array for group in values if group is not None for array in group])
        # Some of verl's losses multiply by the mask, which would let a NaN through.
        return torch.where(mask, to_padded(torch.from_numpy(flat).to(device), lengths), 0.0)

    log_probs = to_padded(scores.log_probs, lengths)
    is_old = groups[0].old_log_probs is None
    old_log_probs = log_probs.detach() if is_old else padded([group.old_log_probs for group in groups])
    per_response = torch.cat([torch.tensor(group.advantages) for group in groups]).to(device)
    advantages = torch.where(mask, per_response[:, None], 0.0)
    weights, importance = None, {}
    if spec.algorithm.cap is not None and groups[0].rollout_log_probs is not None:
        log_ratios = old_log_probs - padded([group.rollout_log_probs for group in groups])
        ratios = importance_ratios(log_ratios, mask, level=spec.algorithm.importance_level)
        importance = {"ratio": ratios.sum(), "square": (ratios**2).sum(), "tokens": mask.sum()}
        weights, mask = importance_weights(
            ratios, mask, cap=spec.algorithm.cap, beyond=spec.algorithm.importance_beyond
        )
    pg_loss, pg_metrics = get_policy_loss_fn(spec.algorithm.policy_loss)(
        old_log_prob=old_log_probs,
        log_prob=log_probs,
        advantages=advantages,
        response_mask=mask.float(),
        loss_agg_mode=spec.algorithm.loss_aggregation,
        config=config,
        rollout_is_weights=weights,
    )
    if spec.algorithm.policy_loss == "geo_mean":
        # verl averages this one loss over the micro-batch's responses instead of the global batch's.
        pg_loss = pg_loss * len(lengths) * spec.num_ranks / spec.batch_responses
    loss = pg_loss
    token_values = {
        "ratio": (log_probs - old_log_probs).detach().exp(),
        "entropy": to_padded(scores.entropy, lengths),
    }
    if spec.algorithm.kl_coefficient > 0:
        ref_log_probs = padded([group.ref_log_probs for group in groups])
        kl = kl_penalty(log_probs, ref_log_probs, spec.algorithm.kl_estimator)  # type: ignore[arg-type]
        kl_loss = agg_loss(kl, mask.float(), spec.algorithm.loss_aggregation, **config.global_batch_info)
        loss = loss + spec.algorithm.kl_coefficient * kl_loss
        token_values["kl"] = kl.detach()
    if weights is not None:
        token_values["importance_weight"] = weights
    found = _policy_sums(loss, pg_loss, pg_metrics, token_values=token_values, mask=mask)
    found["sums"] |= {f"importance_{name}": value for name, value in importance.items()}
    tokens: dict[str, Any] = {"entropy": scores.entropy}
    if not is_old:
        return loss, {**found, "tokens": tokens}
    own = tokens["log_probs"] = (scores.log_probs if spec.is_tempered else scores.raw_log_probs).detach()
    return loss, {**found, "tokens": tokens, "gap": _gap(own, micro_batch) if micro_batch.counts else None}


def importance_ratios(log_ratios: Tensor, mask: Tensor, *, level: Literal["token", "sequence"]) -> Tensor:
    """Probability under the learner over that under the policy that sampled, [B, T]; 0 outside of the mask.

    Args:
        log_ratios: [B, T] of the tokens.
        level: sequence: of the whole response, the same for all of its tokens.
    """
    log_ratios = torch.where(mask, log_ratios.detach(), 0.0)
    if level == "sequence":
        log_ratios = log_ratios.sum(dim=1, keepdim=True).expand_as(log_ratios)
    # Beyond this nothing is told apart any more, and a square would be infinite.
    return torch.where(mask, log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), 0.0)


def importance_weights(
    ratios: Tensor, mask: Tensor, *, cap: float, beyond: Literal["truncate", "mask"]
) -> tuple[Tensor, Tensor]:
    """What weighs each token's loss, and which tokens are left in it, both [B, T].

    truncate: at most the cap (truncated importance sampling, arXiv:2505.24034). mask: tokens with ratios above the cap
    or below 1 / cap are left out (as IcePop's, arXiv:2510.18855, with bounds that are each other's inverse).
    """
    if beyond == "truncate":
        return ratios.clamp(max=cap), mask
    kept = mask & (ratios <= cap) & (ratios >= 1 / cap)
    return torch.where(kept, ratios, 0.0), kept


def _gap(own: Tensor, micro_batch: MicroBatch) -> GapPart | None:
    """Of the learner's log-probs [S] of the responses' tokens to those that the engine sampled with; without the
    responses that another policy sampled."""
    flat = own.double().cpu().numpy()
    differences, places, start = [], [], 0
    for group in micro_batch.groups:
        assert group.rollout_log_probs is not None
        is_fresh = np.ones(len(group.response_ids), bool) if group.is_fresh is None else group.is_fresh
        for response, (ids, sampled) in enumerate(zip(group.response_ids, group.rollout_log_probs, strict=True)):
            if is_fresh[response]:
                differences.append(flat[start : start + len(ids)] - np.asarray(sampled, np.float64))
                places.append((group.group_id, group.prompt.sample_id, group.place_of(response), ids))
            start += len(ids)
    return part_of_gap(differences, places)


def _policy_sums(
    loss: Tensor, pg_loss: Tensor, pg_metrics: dict[str, float], *, token_values: dict[str, Tensor], mask: Tensor
) -> dict[str, dict[str, Tensor]]:
    tokens = mask.sum()
    sums = {"loss": loss.detach(), "pg_loss": pg_loss.detach(), "tokens": tokens}
    sums |= {name: torch.where(mask, values, 0.0).sum() for name, values in token_values.items()}
    # verl gives means over the micro-batch's tokens; what a loss does not clip it does not report.
    for name, key in (("clip_frac", "actor/pg_clipfrac"), ("dual_clip_frac", "actor/pg_clipfrac_lower")):
        sums[name] = tokens * pg_metrics.get(key, 0.0)
    maxima = {}
    # As infinity a NaN outlives every comparison.
    ratio = torch.where(token_values["ratio"].isnan(), torch.inf, token_values["ratio"])
    maxima["ratio"] = torch.where(mask, ratio, 0.0).max()
    return {"sums": sums, "maxima": maxima}


def gap_on_all_ranks(parts: Sequence[dict[str, Any]]) -> Gap | None:
    """The gap over all micro-batches of all ranks; a collective, some kilobytes a rank."""
    gathered: list[list[GapPart | None]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, [part["gap"] for part in parts])
    return gap_of([part for rank in gathered for part in rank])


def token_values(micro_batch: MicroBatch, tokens: Mapping[str, Tensor]) -> list[TokenValues]:
    """What the policy loss found for each response of a micro-batch.

    Args:
        tokens: `entropy` and, where they are the old ones, `log_probs`: [S] of the responses one after the other.
    """
    flat = {name: values.float().cpu().numpy() for name, values in tokens.items()}
    found, start = [], 0
    for group in micro_batch.groups:
        for response, ids in enumerate(group.response_ids):
            own = {name: values[start : start + len(ids)].copy() for name, values in flat.items()}
            found.append(TokenValues(group.group_id, group.place_of(response), own["entropy"], own.get("log_probs")))
            start += len(ids)
    return found


def sft_loss(
    scores: TokenScores, batch: PackedBatch, micro_batch: MicroBatch, *, batch_tokens: int, num_ranks: int
) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """Mean negative log-likelihood over the response tokens of the global batch, times `num_ranks`.

    Args:
        scores: of the response tokens, at temperature 1.
    """
    nll = -scores.log_probs.sum() * float(micro_batch.counts)
    loss = nll / batch_tokens * num_ranks
    tokens = torch.tensor(len(batch.target_ids) if micro_batch.counts else 0)
    return loss, {"sums": {"loss": loss.detach(), "tokens": tokens}, "maxima": {}}


def to_sums(parts: Sequence[dict[str, dict[str, Tensor]]]) -> LossSums:
    """The micro-batches' tensors of one rank, fetched from the device at once at the end of the step."""
    return add(
        [
            LossSums(
                {name: float(value) for name, value in part["sums"].items()},
                {name: float(value) for name, value in part["maxima"].items()},
            )
            for part in parts
        ]
    )


def update_metrics(ranks: Sequence[LossSums]) -> dict[str, float]:
    """Metrics of a policy update over all ranks, named `actor/...`.

    `loss` and `pg_loss` as differentiated; `ratio_mean`, `kl`, `entropy`, `importance_weight`, `clip_frac` and
    `dual_clip_frac` are means over the response tokens in the loss, `ratio_max` their maximum, `tokens` their count.
    Of the importance ratios r before cap and mask, over all n response tokens, `importance_ratio` is the mean,
    `effective_sample_frac` (sum r)^2 / (n sum r^2), which is 1 where rollouts are of the policy that trains, and
    `importance_masked_frac` the share of tokens that they left out.
    """
    total = add(ranks)
    sums = dict(total.sums)
    tokens = sums.pop("tokens")
    metrics = {f"actor/{name}": sums.pop(name) / len(ranks) for name in ("loss", "pg_loss")}
    metrics["actor/ratio_mean"] = sums.pop("ratio") / max(tokens, 1)
    metrics["actor/ratio_max"] = total.maxima["ratio"]
    if "importance_tokens" in sums:
        count, ratio, square = (sums.pop(f"importance_{name}") for name in ("tokens", "ratio", "square"))
        metrics["actor/importance_ratio"] = ratio / count
        metrics["actor/effective_sample_frac"] = ratio**2 / (count * square)
        metrics["actor/importance_masked_frac"] = 1 - tokens / count
    metrics |= {f"actor/{name}": value / max(tokens, 1) for name, value in sums.items()}
    return metrics | {"actor/tokens": tokens}


def sft_metrics(ranks: Sequence[LossSums]) -> dict[str, float]:
    """Metrics of a supervised step over all ranks: `sft/loss` in nats per response token, `sft/tokens`."""
    total = add(ranks)
    return {"sft/loss": total.sums["loss"] / len(ranks), "sft/tokens": total.sums["tokens"]}
