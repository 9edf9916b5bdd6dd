"""The learner as the driver sees it: ordinary methods over verl training workers, no pixels, no token is copied twice.

The driver plans which rank computes which groups; ranks fetch the prompts themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.sections import LearnerConfig, ModelConfig
from videor2_rl.model.packing import MicroBatch, even_micro_batches, only_in_loss, split_groups
from videor2_rl.model.weights import expected_weights
from videor2_rl.run.files import FileSum
from videor2_rl.training.gap import check_gap, gap_metrics
from videor2_rl.types import LogProbs, TrainGroup
from workers.learner.encoder import Encoder
from workers.learner.policy_weights import LearnerWeights, SentBase
from workers.learner.ranks import DEADLINE_S, RankGroup
from workers.learner.verl_config import UpdateSpec, check_algorithm, learner_worker_config
from workers.memory import most
from workers.weights.plan import WeightPlan, buckets_of, trained_names


def plan(groups: Sequence[TrainGroup], *, num_ranks: int, max_tokens: int) -> list[list[MicroBatch]]:
    """Which rank computes which groups in which passes: balanced by tokens, equally many passes each.

    Raises:
        ValueError: there is no group.
    """
    if len(groups) <= num_ranks:
        shares = [[group] for group in groups] + [[] for _ in range(num_ranks - len(groups))]
    else:
        from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

        lengths = [group.num_tokens for group in groups]
        parts = get_seqlen_balanced_partitions(lengths, k_partitions=num_ranks, equal_size=False)
        shares = [[groups[index] for index in part] for part in parts]
    return even_micro_batches(shares, max_tokens=max_tokens)


def encodes_once(config: LearnerConfig, model: ModelConfig) -> bool:
    """Whether clips' visual embeddings are computed once: they never change, and there is room for them."""
    return model.has_frozen_vision and config.visual_cache_mib > 0


def log_probs_on(
    ranks: RankGroup,
    groups: Sequence[TrainGroup],
    *,
    temperature: float,
    max_tokens: int,
    use_adapter: bool = True,
) -> list[LogProbs]:
    """Log-probs of the groups' responses, computed by all ranks together; in the order of the groups."""
    parts = split_groups(groups, max_tokens=max_tokens, num_ranks=ranks.num_ranks)
    numbered = iter(range(sum(map(len, parts))))
    numbers = [[next(numbered) for _ in of_group] for of_group in parts]
    flat = [
        replace(part, group_id=number)
        for of_group, its_numbers in zip(parts, numbers, strict=True)
        for part, number in zip(of_group, its_numbers, strict=True)
    ]
    shares = plan(flat, num_ranks=ranks.num_ranks, max_tokens=max_tokens)
    answers = ranks.run("log_probs", shares, temperature, use_adapter, what=f"log-probs of {len(groups)} groups")
    found = {log_probs.group_id: log_probs for share in answers for log_probs in share}
    return [
        joined([found[number] for number in its_numbers], group_id=group.group_id)
        for group, its_numbers in zip(groups, numbers, strict=True)
    ]


def joined(parts: Sequence[LogProbs], *, group_id: int) -> LogProbs:
    """The log-probs of a group from those of its parts, in order."""
    return LogProbs(
        group_id,
        tuple(values for part in parts for values in part.at_temperature),
        tuple(values for part in parts for values in part.raw),
    )


class Learner:
    """The policy in training."""

    def __init__(
        self,
        config: LearnerConfig,
        model: ModelConfig,
        *,
        total_steps: int,
        seed: int,
        max_response_tokens: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Start the ranks, which load `model.path` in the background.

        Args:
            total_steps: optimiser steps of the whole run, for the schedule.
            max_response_tokens: needed by algorithm.loss_aggregation=seq-mean-token-sum-norm only.
        """
        self._max_tokens = config.max_tokens_per_micro_batch
        self._max_response_tokens = max_response_tokens
        self._model = model
        self._config = config
        self._sent = SentBase()
        self._start = partial(
            RankGroup,
            "learner",
            learner_worker_config(config, model, total_steps=total_steps),
            num_ranks=config.num_ranks,
            cpus_per_rank=config.cpus_per_rank,
            gpus_per_rank=config.gpus_per_rank,
            seed=seed,
            deadline_s=deadline_s,
        )
        self._ranks = self._start()
        self.encoder = Encoder(self._ranks if encodes_once(config, model) else None, cache_mib=config.visual_cache_mib)

    @property
    def tokens_per_pass(self) -> int:
        """Of packed groups, on all ranks together."""
        return self._max_tokens * self._ranks.num_ranks

    def log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]:
        """Log-probs of all responses under the current weights, in the order of `groups`."""
        return log_probs_on(self._ranks, groups, temperature=temperature, max_tokens=self._max_tokens)

    def base_log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]:
        """Log-probs with the LoRA adapter switched off: those of the model that training began with."""
        return log_probs_on(
            self._ranks, groups, temperature=temperature, max_tokens=self._max_tokens, use_adapter=False
        )

    def update(
        self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float, is_tempered: bool = False
    ) -> dict[str, float]:
        """One optimiser step on the responses in the loss; metrics named `actor/...`.

        Args:
            groups: with advantages and, where the KL coefficient is above 0, reference log-probs. Old log-probs on all
                or on none: those of the update's own forward pass are the old ones then, and the rollouts' must be
                there. Where `algorithm.importance_cap` is set, these weigh the loss, at the training temperature.
            is_tempered: the rollouts' log-probs are of the softmax at `temperature`, else of that at 1.

        Raises:
            LogProbGapError: without old log-probs, the rollouts' are too far from the learner's on the tokens in the
                loss (`check_gap`); the weights are what they were.
            ValueError: no response is in the loss.
            ConfigError: the algorithm would not be normalised over the global batch.
        """
        check_algorithm(algorithm, max_response_tokens=self._max_response_tokens)
        kept = [group for group in map(only_in_loss, groups) if group.response_ids]
        if not kept:
            raise ValueError(f"none of the {len(groups)} groups has a response in the loss")
        shares = self._plan(kept)
        lengths = [len(ids) for group in kept for ids in group.response_ids]
        spec = UpdateSpec(
            algorithm=algorithm,
            temperature=temperature,
            is_tempered=is_tempered,
            batch_tokens=sum(lengths),
            batch_responses=len(lengths),
            num_ranks=self._ranks.num_ranks,
            max_response_tokens=self._max_response_tokens,
        )
        results = self._ranks.run("update", shares, spec, what="the policy update")
        from workers.learner.losses import update_metrics

        common = dict(results[0][1])
        gap = common.pop("gap", None)
        check_gap(gap, algorithm)
        metrics = {**update_metrics([sums for sums, _ in results]), **gap_metrics(gap)}
        shared = {f"actor/{name}": value for name, value in common.items()}
        packed = sum(group.num_tokens for share in shares for batch in share if batch.counts for group in batch.groups)
        return {**metrics, **shared, "actor/packed_tokens": float(packed)}

    def take_token_values(self) -> list[Any]:
        """References to lists of `TokenValues`: what the updates since the last call found for each response's tokens.

        They stay where they are until somebody asks: the driver has no use for them.
        """
        return self._ranks.begin("take_token_values")

    def sft_step(self, groups: Sequence[TrainGroup]) -> dict[str, float]:
        """One optimiser step on the mean negative log-likelihood of all response tokens; metrics named `sft/...`."""
        from workers.learner.losses import sft_metrics

        tokens = _response_tokens(groups)
        results = self._ranks.run("sft_step", self._plan(groups), tokens, self._ranks.num_ranks, what="the SFT step")
        shared = {f"sft/{name}": value for name, value in results[0][1].items()}
        return {**sft_metrics([sums for sums, _ in results]), **shared}

    def sft_loss(self, groups: Sequence[TrainGroup]) -> float:
        """Mean negative log-likelihood of all response tokens, in nats, without training."""
        from workers.learner.losses import sft_metrics

        tokens = _response_tokens(groups)
        results = self._ranks.run("sft_loss", self._plan(groups), tokens, self._ranks.num_ranks, what="the SFT loss")
        return sft_metrics(results)["sft/loss"]

    def weights(self, policy_version: int) -> LearnerWeights:
        """The weights as they are now, for the rollout workers: what training changes of them, none that is frozen.

        They are read while an update goes on; the learner must not train meanwhile.
        """
        expected = expected_weights(self._model.path)
        buckets = buckets_of(
            expected,
            trained_names(expected.shapes, self._model),
            max_bytes=self._config.sync_bucket_mib << 20,
            bytes_per_value=self._model.bytes_per_value,
        )
        plan = WeightPlan(policy_version, self._model.dtype, buckets, keeps_base=self._config.sync == "delta")
        return LearnerWeights(self._ranks, plan, self._config, base=self._sent)

    def export(self, path: Path) -> None:
        """Write an ordinary Hugging Face folder; complete or not at all."""
        self._ranks.run("export", str(path), what="the export")

    def save(self, path: Path) -> None:
        """Copy what training changes on all ranks to host memory, and begin to write it into the folder.

        Training and sampling may go on meanwhile; `finish_save` must be called before the next `save`.
        """
        self._ranks.run("save", str(path), what="saving")

    def finish_save(self) -> dict[str, FileSum]:
        """Wait until all ranks have written what `save` began; the files by their names in the folder."""
        return {name: found for files in self._ranks.run("finish_save", what="saving") for name, found in files.items()}

    def load(self, path: Path) -> None:
        """Restore what `save` wrote, with any number of ranks."""
        self._ranks.run("load", str(path), what="loading")

    def memory(self) -> dict[str, float]:
        """The most that one rank takes, in MiB by kind."""
        return most(self._ranks.run("memory", what="asking for memory"))

    def wait_ready(self) -> None:
        """Block until every rank holds the model; other calls do so by themselves."""
        self._ranks.wait_ready()

    def rebuild(self) -> None:
        """Start all ranks anew, whichever were lost; they hold the weights of `model.path` until `load`."""
        self._ranks.shutdown()
        self._ranks = self._start()
        self._sent = SentBase()
        self.encoder.take(self._ranks if encodes_once(self._config, self._model) else None)
        self._ranks.wait_ready()

    def shutdown(self) -> None:
        """Kill the ranks."""
        self.encoder.shutdown()
        self._ranks.shutdown()

    def _plan(self, groups: Sequence[TrainGroup]) -> list[list[MicroBatch]]:
        parts = split_groups(groups, max_tokens=self._max_tokens, num_ranks=self._ranks.num_ranks)
        flat = [part for of_group in parts for part in of_group]
        return plan(flat, num_ranks=self._ranks.num_ranks, max_tokens=self._max_tokens)


def _response_tokens(groups: Sequence[TrainGroup]) -> int:
    return sum(len(ids) for group in groups for ids in group.response_ids)
