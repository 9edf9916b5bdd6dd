"""Reward workers: run `rewards/` on whole groups, with sentence encoder and judge, and write the rollout log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from rewards.types import RewardConfig, Scored, Target
from videor2_rl.config.sections import RewardWorkersConfig
from videor2_rl.dataset import target_of
from videor2_rl.judge.access import JudgeAccess
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.counts import CallCounts, check_failures, judge_metrics, total
from videor2_rl.judge.evidence import gather_evidence
from videor2_rl.types import Group, PromptHandle, VideoSample
from workers.pool import LOST, ActorPool, fetch

log = logging.getLogger(__name__)

NOTICE_POLL_S = 2.0
"""Seconds between two looks at what the workers' judge clients have to tell."""


@dataclass(frozen=True)
class ScoredShare:
    """What a worker answers for its share of the groups."""

    scored: list[list[Scored]]
    counts: CallCounts
    """Of its judge client."""


class RewardWorker:
    """Scores responses (Ray actor)."""

    def __init__(self, config: RewardConfig, judge: JudgeAccess | None = None, *, concurrency: int = 1) -> None:
        """
        Args:
            concurrency: this worker's part of the judge's calls under way at a time.
        """
        from videor2_rl.scoring.similarity import SentenceEncoder

        self._config = config
        self._encoder = SentenceEncoder()
        self._notices: list[str] = []
        self._judge = None
        if judge is not None:
            self._judge = JudgeClient(judge.server, judge.calls, concurrency=concurrency, notify=self._notices.append)

    def ready(self) -> bool:
        # The encoder's first call loads its model; better before the first step than in it.
        self._encoder.similarity(["a"], ["b"])
        return True

    def notices(self) -> list[str]:
        """What the judge's client had to tell since the last call; may be called while `score` runs."""
        count = len(self._notices)
        told = self._notices[:count]
        del self._notices[:count]
        return told

    def score(self, targets: Sequence[Target], responses: Sequence[Sequence[str]]) -> ScoredShare:
        """Score some groups; the judge is asked about all responses at once, the encoder about all sentences.

        Args:
            targets: one for each group.
            responses: for each group its responses' texts.

        Raises:
            JudgeDown: the judge stayed away.
        """
        from rewards.compose import score_response, sentences_to_encode
        from rewards.types import NO_EVIDENCE

        flat = [(text, target) for target, group in zip(targets, responses, strict=True) for text in group]
        texts, their_targets = [text for text, _ in flat], [target for _, target in flat]
        evidences = [NO_EVIDENCE] * len(flat)
        if self._judge is not None:
            evidences = gather_evidence(self._judge, texts, their_targets, self._config)
        self._encoder.encode(sentences_to_encode(texts, their_targets, self._config, evidences))
        scores = iter(
            replace(
                score_response(text, target, self._config, similarity=self._encoder.similarity, evidence=evidence),
                judge=evidence.judge,
            )
            for (text, target), evidence in zip(flat, evidences, strict=True)
        )
        return ScoredShare(
            scored=[[next(scores) for _ in group] for group in responses],
            counts=CallCounts() if self._judge is None else self._judge.take_counts(),
        )

    def write_rollouts(self, path: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptHandle]) -> None:
        """Add what only the prompts know (text, frame times) to the driver's records and write them."""
        from videor2_rl.run.rollout_log import write_rollouts

        write_rollouts(path, records, ray.get([prompt.ref for prompt in prompts]))


class RewardPool:
    """The reward workers, as the driver sees them."""

    def __init__(self, config: RewardConfig, workers: RewardWorkersConfig, judge: JudgeAccess | None = None) -> None:
        actor = ray.remote(RewardWorker)
        self._judge = judge
        self._counts = CallCounts()

        def create(index: int) -> Any:
            # Two threads with a judge: `notices` answers while `score` waits.
            sized = actor.options(num_cpus=workers.cpus_per_worker, max_concurrency=1 if judge is None else 2)
            share = 1 if judge is None else share_of(judge.calls.concurrency, index, num_workers=workers.num_workers)
            return sized.remote(config, judge, concurrency=share)

        self._pool = ActorPool(
            "reward",
            size=workers.num_workers,
            create=create,
            prepare=lambda handle: handle.ready.remote(),
            # The judge's client has deadlines of its own, and a judge that is away is waited for.
            call_deadline_s=600 if judge is None else None,
            start_deadline_s=600,
        )

    def score(self, groups: Sequence[Group], samples: Sequence[VideoSample]) -> list[list[Scored]]:
        """For each group its responses' scores, in order; a share of the groups for each worker.

        Raises:
            JudgeDown: the judge stayed away for longer than `judge.calls.patience_s`, or too many of its replies could
                not be had or read.
        """
        targets = [target_of(sample) for sample in samples]
        responses = [[rollout.text for rollout in group.rollouts] for group in groups]
        shares = [slice(start, None, self._pool.size) for start in range(min(self._pool.size, len(groups)))]
        with self._relayed_notices():
            parts = self._pool.map("score", [(targets[share], responses[share]) for share in shares])
        scored: list[list[Scored]] = [[] for _ in groups]
        for share, part in zip(shares, parts, strict=True):
            scored[share] = part.scored
        self._counts = total(part.counts for part in parts)
        if self._judge is not None:
            limit = self._judge.calls.max_failed_frac
            check_failures(self._counts, address=self._judge.server.base_url, max_failed_frac=limit)
        return scored

    def judge_metrics(self) -> dict[str, float]:
        """What the judge was asked in the last call of `score`, and how it went; empty without a judge."""
        return judge_metrics(self._counts)

    def write_rollouts(self, path: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptHandle]) -> None:
        self._pool.map("write_rollouts", [(path, records, prompts)])

    def shutdown(self) -> None:
        self._pool.shutdown()

    @contextmanager
    def _relayed_notices(self) -> Iterator[None]:
        """While the workers score, log what their judge clients have to tell: their own logs stay on their nodes."""
        if self._judge is None:
            yield
            return
        is_over = threading.Event()

        def relay() -> None:
            while not is_over.wait(NOTICE_POLL_S):
                self._log_notices()

        thread = threading.Thread(target=relay, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self._log_notices()

    def _log_notices(self) -> None:
        told: dict[str, None] = {}
        for actor in self._pool.actors:
            try:
                told.update(dict.fromkeys(fetch(actor.notices.remote(), deadline_s=10, what="notices")))
            except LOST:  # the call that scores deals with it
                continue
        for sentence in told:
            log.warning("%s", sentence)


def share_of(concurrency: int, index: int, *, num_workers: int) -> int:
    """Worker `index`'s part of the calls under way at a time; the parts add up to `concurrency`."""
    return concurrency // num_workers + (index < concurrency % num_workers)
