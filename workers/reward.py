"""Reward workers: run `rewards/` on whole groups, with the sentence encoder, and write the rollout log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from rewards.types import RewardConfig, Scored, Target
from videor2_rl.config import RewardWorkersConfig
from videor2_rl.dataset import target_of
from videor2_rl.types import Group, PromptHandle, VideoSample
from workers.pool import ActorPool


class RewardWorker:
    """Scores responses (Ray actor)."""

    def __init__(self, config: RewardConfig) -> None:
        from videor2_rl.similarity import SentenceEncoder

        self._config = config
        self._encoder = SentenceEncoder()

    def ready(self) -> bool:
        # The encoder's first call loads its model; better before the first step than in it.
        self._encoder.similarity(["a"], ["b"])
        return True

    def score(self, targets: Sequence[Target], responses: Sequence[Sequence[str]]) -> list[list[Scored]]:
        """Score some groups; all their sentences go through the encoder in one batch.

        Args:
            targets: one for each group.
            responses: for each group its responses' texts.
        """
        from rewards.compose import score_response, sentences_to_encode

        flat = [(text, target) for target, group in zip(targets, responses, strict=True) for text in group]
        texts, their_targets = [text for text, _ in flat], [target for _, target in flat]
        self._encoder.encode(sentences_to_encode(texts, their_targets, self._config))
        return [
            [score_response(text, target, self._config, similarity=self._encoder.similarity) for text in group]
            for target, group in zip(targets, responses, strict=True)
        ]

    def write_rollouts(self, path: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptHandle]) -> None:
        """Add what only the prompts know (text, frame times) to the driver's records and write them."""
        from videor2_rl.rollout_log import write_rollouts

        write_rollouts(path, records, ray.get([prompt.ref for prompt in prompts]))


class RewardPool:
    """The reward workers, as the driver sees them."""

    def __init__(self, config: RewardConfig, workers: RewardWorkersConfig) -> None:
        actor = ray.remote(RewardWorker)
        self._pool = ActorPool(
            "reward",
            size=workers.num_workers,
            create=lambda index: actor.options(num_cpus=workers.cpus_per_worker).remote(config),
            prepare=lambda handle: handle.ready.remote(),
            call_deadline_s=600,
            start_deadline_s=600,
        )

    def score(self, groups: Sequence[Group], samples: Sequence[VideoSample]) -> list[list[Scored]]:
        """For each group its responses' scores, in order; a share of the groups for each worker."""
        targets = [target_of(sample) for sample in samples]
        responses = [[rollout.text for rollout in group.rollouts] for group in groups]
        shares = [slice(start, None, self._pool.size) for start in range(min(self._pool.size, len(groups)))]
        parts = self._pool.map("score", [(targets[share], responses[share]) for share in shares])
        scored: list[list[Scored]] = [[] for _ in groups]
        for share, part in zip(shares, parts, strict=True):
            scored[share] = part
        return scored

    def write_rollouts(self, path: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptHandle]) -> None:
        self._pool.map("write_rollouts", [(path, records, prompts)])

    def shutdown(self) -> None:
        self._pool.shutdown()
