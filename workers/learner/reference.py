"""The frozen reference policy as the driver sees it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from videor2_rl.config.sections import ModelConfig, ReferenceConfig
from videor2_rl.types import LogProbs, TrainGroup
from workers.learner.encoder import Encoder
from workers.learner.learner import Learner, log_probs_on
from workers.learner.ranks import DEADLINE_S, RankGroup
from workers.learner.verl_config import reference_worker_config
from workers.memory import most
from workers.merger import Merger


class BaseOfAdapter:
    """The reference of a policy that trains a LoRA adapter: the same ranks with the adapter off, no second model.

    It stays the model that training began with only while nothing but the adapter trains.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._merger = Merger(
            self._log_probs,
            is_full=lambda _, groups: _num_tokens(groups) >= learner.tokens_per_pass,
            name="reference",
        )

    def begin_log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> Future[list[LogProbs]]:
        """Log-probs of all responses, in the order of `groups`; as the reference's own ranks do it."""
        return self._merger.begin(temperature, groups)

    def _log_probs(self, temperature: float, groups: Sequence[TrainGroup]) -> list[LogProbs]:
        return self._learner.base_log_probs(groups, temperature=temperature)

    def memory(self) -> dict[str, float]:
        """None of its own."""
        return {}


class Reference:
    """Forward-only ranks that keep the weights of `model.path`."""

    def __init__(
        self,
        config: ReferenceConfig,
        model: ModelConfig,
        *,
        backend: str,
        max_tokens_per_micro_batch: int,
        visual_cache_mib: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Start the ranks, which load `model.path` in the background.

        Args:
            backend: the learner's, so that both compute the same numbers.
            max_tokens_per_micro_batch: tokens of packed groups in one forward pass.
            visual_cache_mib: of visual embeddings that `encoder` keeps; None: it leaves prompts as they are.
        """
        self._max_tokens = max_tokens_per_micro_batch
        self._start = partial(
            RankGroup,
            "reference",
            reference_worker_config(model, backend=backend, cpu_offload=config.cpu_offload),
            num_ranks=config.num_ranks,
            cpus_per_rank=config.cpus_per_rank,
            gpus_per_rank=config.gpus_per_rank,
            seed=0,
            deadline_s=deadline_s,
        )
        self._ranks = self._start()
        self._encodes = visual_cache_mib is not None
        ranks = self._ranks if self._encodes else None
        self.encoder = Encoder(ranks, cache_mib=visual_cache_mib or 0)
        self._merger = Merger(
            self._log_probs,
            is_full=lambda asked, groups: _num_tokens(groups) >= max_tokens_per_micro_batch * asked[0].num_ranks,
            name="reference",
        )

    def begin_log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> Future[list[LogProbs]]:
        """Log-probs of all responses, in the order of `groups`.

        Groups that wait for the ranks share a call, as many as fill a pass on each.
        """
        return self._merger.begin((self._ranks, temperature), groups)

    def _log_probs(self, asked: tuple[RankGroup, float], groups: Sequence[TrainGroup]) -> list[LogProbs]:
        ranks, temperature = asked
        return log_probs_on(ranks, groups, temperature=temperature, max_tokens=self._max_tokens)

    def memory(self) -> dict[str, float]:
        """The most that one rank takes, in MiB by kind."""
        return most(self._ranks.run("memory", what="asking for memory"))

    def wait_ready(self) -> None:
        """Block until every rank holds the model; other calls do so by themselves."""
        self._ranks.wait_ready()

    def rebuild_if_lost(self) -> None:
        """Start all ranks anew where any of them is gone."""
        if not self._ranks.is_lost():
            return
        self._ranks.shutdown()
        self._ranks = self._start()
        self.encoder.take(self._ranks if self._encodes else None)
        self._ranks.wait_ready()

    def shutdown(self) -> None:
        """Kill the ranks."""
        self.encoder.shutdown()
        self._merger.shutdown()
        self._ranks.shutdown()


def _num_tokens(groups: Sequence[TrainGroup]) -> int:
    return sum(group.num_tokens for group in groups)
