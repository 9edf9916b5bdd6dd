"""What GRPO and its variants are told: batches, staleness, advantages, loss, correction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rewards.types import Section

DEFAULT_IMPORTANCE_CAP = 2.0
AdvantageName: TypeAlias = Literal["grpo", "dr_grpo", "rloo", "reinforce_plus_plus_baseline", "opo", "mapo", "bnpo"]
LossAggregation: TypeAlias = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]


@dataclass(frozen=True)
class AlgorithmConfig(Section):
    """GRPO and its variants."""

    num_steps: int
    """0: one epoch."""
    prompts_per_step: int
    max_staleness: int
    """Steps that may train between the moment a prompt sets out and the step that takes it. 0: synchronous. Above, up
    to (max_staleness + 1) x prompts_per_step groups are on their way while the learner trains."""
    lookahead: int
    """So many younger groups may be trained before the oldest one that is not ready; 0: in strict order."""
    group_size: int
    updates_per_batch: int
    """Optimiser steps on each batch of rollouts; the batch is split into this many parts by prompt."""
    advantage: AdvantageName
    """How a reward compares with its group's; papers and formulas: `videor2_rl.training.advantage`."""
    policy_loss: str
    """Name in verl's policy-loss registry: vanilla, gspo, geo_mean, ..."""
    clip_low: float
    """The ratio counts at least 1 - this; geo_mean: its logarithm at least minus this; gpg and sapo do not clip."""
    clip_high: float
    """The ratio counts at most 1 + this; geo_mean: its logarithm at most this."""
    ratio_cap: float | None
    """vanilla: the ratio counts at most this where the advantage is negative (dual clip, arXiv:1912.09729); dppo_tv and
    dppo_kl: anywhere (arXiv:2602.04879). None: as it is."""
    loss_aggregation: LossAggregation
    kl_coefficient: float
    """0 switches the reference off."""
    kl_estimator: Literal["kl", "abs", "mse", "low_var_kl"]
    filter_zero_variance: bool
    """Leave out groups whose responses in the loss are all equally accurate, as DAPO does (arXiv:2503.14476). What the
    other terms pay does not count: it would keep groups in which every answer is right or every answer is wrong."""
    mask_truncated: bool
    """Keep responses cut at the token limit out of the loss."""
    importance_cap: float | Literal["auto"] | None
    """Weigh each token by learner / rollout probability, at most this (truncated importance sampling). auto: 2 where
    the two differ by design (with max_staleness above 0, and everywhere but in float32 on CPUs) and the whole softmax
    is sampled. None: off."""
    importance_level: Literal["token", "sequence"]
    """Whose probabilities are compared: each token's, or the whole response's, which its tokens then share."""
    importance_beyond: Literal["truncate", "mask"]
    """What becomes of weights above the cap: they count as the cap, or their tokens leave the loss, as do those with
    weights below 1 / cap."""
    max_log_prob_gap_mean: float
    max_log_prob_gap_tail: float
    """The run stops when vLLM's and the learner's log-probs of the sampled tokens differ by more nats than this in the
    mean, or at the 99.9 % quantile; with one update a batch, of those in the loss."""

    @property
    def cap(self) -> float | None:
        """`importance_cap` of a run whose "auto" was resolved."""
        assert self.importance_cap != "auto"
        return self.importance_cap

    def with_steps(self, num_samples: int) -> AlgorithmConfig:
        """The same with its number of steps, if that is 0: an epoch, without a last step of fewer prompts."""
        return replace(self, num_steps=self.num_steps or max(1, num_samples // self.prompts_per_step))
