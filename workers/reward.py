"""Reward workers: run `rewards/` on whole groups, with sentence encoder and judge, and write the rollout log."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from rewards.reading import group_contexts
from rewards.types import NO_CONTEXT, Context, OfficialConfig, RewardConfig, Scored, Target
from videor2_rl.background import then
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import RewardWorkersConfig
from videor2_rl.dataset import context_of, target_of
from videor2_rl.judge.access import JudgeAccess
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.counts import CallCounts, check_failures, total
from videor2_rl.judge.evidence import gather_evidence
from videor2_rl.training.protocols import ScoredGroups
from videor2_rl.types import Group, PromptHandle, TokenValues, VideoSample
from workers.fetch import LOST, fetch
from workers.liveness import Pulse, pulse_after
from workers.memory import process_memory
from workers.pool import ActorPool, PoolOwner, actor_class

log = logging.getLogger(__name__)

TOKEN_VALUES_S = 60.0
"""A rank that does not give them by then is frozen or lost, and what it found with it."""
GROUPS_AT_ONCE = 16
"""Calls that a worker takes while a judge answers; their requests together are bounded by `judge.calls.concurrency`."""
NOTICE_POLL_S = 2.0
"""Seconds between two looks at what the workers' judge clients have to tell, and at who shares the judge's calls."""


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
            concurrency: this worker's part of the judge's calls under way at a time, until it is told another.
        """
        from videor2_rl.scoring.similarity import SentenceEncoder

        self._config = config
        self._encoder = SentenceEncoder()
        self._scoring = threading.Lock()
        self._notices: list[str] = []
        self._judge = None
        if judge is not None:
            self._judge = JudgeClient(judge.server, judge.calls, concurrency=concurrency, notify=self._notices.append)

    def memory(self) -> dict[str, float]:
        """Of this process, in MiB by kind."""
        return process_memory()

    def pulse(self, hold_s: float) -> Pulse:
        """A sign of life after so many seconds (`workers.pool.PULSE`: beside whatever else goes on here)."""
        return pulse_after(hold_s)

    def ready(self) -> bool:
        """
        Raises:
            ConfigError: a term of one's own is not to be had on this node.
        """
        load_own_terms(self._config)
        # The encoder's first call loads its model; better before the first step than in it.
        self._encoder.similarity(["a"], ["b"])
        return True

    def notices(self) -> list[str]:
        """What the judge's client had to tell since the last call; may be called while `score` runs."""
        count = len(self._notices)
        told = self._notices[:count]
        del self._notices[:count]
        return told

    def take_part(self, concurrency: int) -> None:
        """So many of the judge's calls are this worker's from now on: others came, or left."""
        assert self._judge is not None, "nobody shares what there is not"
        self._judge.resize(concurrency)

    def score(
        self,
        targets: Sequence[Target],
        responses: Sequence[Sequence[str]],
        contexts: Sequence[Sequence[Context]] | None = None,
    ) -> ScoredShare:
        """Score some groups; the judge is asked about all responses at once, the encoder about all sentences.

        Args:
            targets: one for each group.
            responses: for each group its responses' texts.
            contexts: one for each response; None: nothing is known.

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
        of_each = [NO_CONTEXT] * len(flat) if contexts is None else [one for group in contexts for one in group]
        # What waits for the judge waits beside others; the encoder is for one at a time.
        with self._scoring:
            self._encoder.encode(sentences_to_encode(texts, their_targets, self._config, evidences))
            similarity = self._encoder.similarity
            verdicts = [
                score_response(text, target, self._config, similarity=similarity, evidence=evidence, context=context)
                for (text, target), evidence, context in zip(flat, evidences, of_each, strict=True)
            ]
        scores = iter(
            replace(verdict, judge=evidence.judge) for verdict, evidence in zip(verdicts, evidences, strict=True)
        )
        return ScoredShare(
            scored=[[next(scores) for _ in group] for group in responses],
            counts=CallCounts() if self._judge is None else self._judge.take_counts(),
        )

    def write_rollouts(
        self,
        path: Path,
        records: Sequence[Mapping[str, Any]],
        prompts: Sequence[PromptHandle],
        token_values: Sequence[Any],
    ) -> None:
        """Add to the driver's records what only prompts (text, frame times) and learner know; write and index them.

        Args:
            token_values: a reference for each rank; a rank that is lost is done without.
        """
        from videor2_rl.run.rollout_index import index_step
        from videor2_rl.run.rollout_log import write_rollouts

        found: list[TokenValues] = []
        for of_rank in token_values:
            try:
                found += ray.get(of_rank, timeout=TOKEN_VALUES_S)
            except ray.exceptions.RayError as error:
                log.warning("%s lacks entropy and learner's log-probs of some tokens: %s", path.name, error)
        write_rollouts(path, records, ray.get([prompt.ref for prompt in prompts]), token_values=found)
        index_step(path)


class RewardPool(PoolOwner):
    """The reward workers, as the driver sees them."""

    def __init__(self, config: RewardConfig, workers: RewardWorkersConfig, judge: JudgeAccess | None = None) -> None:
        actor = actor_class(RewardWorker)
        self._config = config
        self._told: set[str] = set()
        self._judge = judge

        def create(index: int) -> Any:
            # With a judge a thread more: `notices` answers while all others wait.
            max_concurrency = 1 if judge is None else GROUPS_AT_ONCE + 1
            sized = actor.options(num_cpus=workers.cpus_per_worker, max_concurrency=max_concurrency)
            return sized.remote(config, judge)

        self._pool = ActorPool(
            "reward",
            size=workers.num_workers,
            create=create,
            prepare=lambda handle: handle.ready.remote(),
            # The judge's client has deadlines of its own, and a judge that is away is waited for.
            call_deadline_s=600 if judge is None else None,
            start_deadline_s=600,
            max_in_flight=1 if judge is None else GROUPS_AT_ONCE,
            has_pulse=True,
        )
        self._is_over = threading.Event()
        if judge is not None:
            threading.Thread(target=self._look_after, args=(judge,), name="judge clients", daemon=True).start()

    def begin_score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> Future[ScoredGroups]:
        """For each group its responses' scores, in order; a share of the groups for each worker.

        The future raises JudgeDown where the judge stayed away for longer than `judge.calls.patience_s`.

        Args:
            step: of the training, for terms of one's own; None: nothing trains.
        """
        targets = [target_of(sample) for sample in samples]
        responses = [[rollout.text for rollout in group.rollouts] for group in groups]
        contexts = [
            group_contexts(
                context_of(sample, step=step, group_id=group.group_id),
                texts,
                [rollout.finish_reason for rollout in group.rollouts],
            )
            for group, sample, texts in zip(groups, samples, responses, strict=True)
        ]
        shares = [slice(start, None, self._pool.size) for start in range(min(self._pool.size, len(groups)))]

        def joined(parts: list[ScoredShare]) -> ScoredGroups:
            scored: list[list[Scored]] = [[] for _ in groups]
            for share, part in zip(shares, parts, strict=True):
                scored[share] = part.scored
            return ScoredGroups(scored, total(part.counts for part in parts))

        items = [(targets[part], responses[part], contexts[part]) for part in shares]
        return then(self._pool.submit_all("score", items), joined)

    def check(self, scored: ScoredGroups) -> None:
        """Whether a step's scores are good enough to go on; what terms of one's own failed at is told once.

        Raises:
            JudgeDown: too many of the judge's replies could not be had or read.
        """
        if self._judge is not None:
            self._log_notices()
            limit = self._judge.calls.max_failed_frac
            check_failures(scored.counts, address=self._judge.server.base_url, max_failed_frac=limit)
        for name, sentence in own_term_failures(self._config, scored.scored).items():
            if name not in self._told:
                self._told.add(name)
                log.warning("%s", sentence)

    def score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> list[list[Scored]]:
        """`begin_score`, waited for and checked.

        Raises:
            JudgeDown: as `begin_score` and `check`.
        """
        scored = self.begin_score(groups, samples, step=step).result()
        self.check(scored)
        return scored.scored

    def begin_write_rollouts(
        self,
        path: Path,
        records: Sequence[Mapping[str, Any]],
        prompts: Sequence[PromptHandle],
        *,
        token_values: Sequence[Any],
    ) -> Future[None]:
        """Write a step's file, after what is being scored.

        Args:
            token_values: what the learner's `take_token_values` gave.
        """
        return self._pool.submit("write_rollouts", path, records, prompts, list(token_values))

    def shutdown(self) -> None:
        self._is_over.set()
        self._pool.shutdown()

    def _look_after(self, judge: JudgeAccess) -> None:
        """Share the judge's calls out to the workers that are there, and log what their clients have to tell: their own
        logs stay on their nodes."""
        parts: dict[Any, int] = {}
        while True:
            parts = share_out(self._pool.ready, parts, concurrency=judge.calls.concurrency)
            if self._is_over.wait(NOTICE_POLL_S):
                return
            self._log_notices()

    def _log_notices(self) -> None:
        told: dict[str, None] = {}
        for actor in self._pool.ready:
            try:
                notices = fetch(actor.notices.remote(), deadline_s=10, what="notices", counts=False)
            except LOST:  # the call that scores deals with it
                continue
            told.update(dict.fromkeys(notices))
        for sentence in told:
            log.warning("%s", sentence)


def load_own_terms(config: RewardConfig) -> None:
    """Find out whether this process can call the terms of `reward.extra`.

    Raises:
        ConfigError: it cannot; the message names the term and the node.
    """
    from rewards.terms.extra import load_function

    for name, term in () if isinstance(config, OfficialConfig) else config.extra.items():
        try:
            load_function(term.function)
        except ValueError as error:
            node = socket.gethostname()
            raise ConfigError(f"reward.extra.{name}.function, in a reward worker on {node}: {error}") from None


def own_term_failures(config: RewardConfig, scored: Sequence[Sequence[Scored]]) -> dict[str, str]:
    """Term of `reward.extra` that failed -> a sentence: on how many responses, and the first reason."""
    from rewards.compose import own_terms, term_weights

    weights = term_weights(config)
    responses = [response for group in scored for response in group]
    sentences = {}
    for name in own_terms(config):
        verdicts = [response.terms[name] for response in responses]
        reasons = [str(verdict.detail["reason"]) for verdict in verdicts if verdict.status == "failure"]
        if reasons:
            costs = ", which leave their groups' baselines" if weights[name] != 0 else ""
            sentences[name] = (
                f"reward.extra.{reasons[0]}: failed on {len(reasons)} of {len(responses)} responses{costs}; "
                f"later ones are counted in reward/{name}_failure_frac"
            )
    return sentences


def share_out(workers: Sequence[Any], before: Mapping[Any, int], *, concurrency: int) -> dict[Any, int]:
    """Tell reward workers their parts of the judge's calls where they changed; each worker's part.

    Args:
        workers: those that are ready, `concurrency` at most.
        before: what the last call of this gave.
    """
    count = len(workers)
    parts = {one: share_of(concurrency, index, num_workers=count) for index, one in enumerate(workers)}
    for worker, part in parts.items():
        if before.get(worker) != part:
            worker.take_part.remote(part)
    return parts


def share_of(concurrency: int, index: int, *, num_workers: int) -> int:
    """Worker `index`'s part of the calls under way at a time; the parts add up to `concurrency`."""
    return concurrency // num_workers + (index < concurrency % num_workers)
