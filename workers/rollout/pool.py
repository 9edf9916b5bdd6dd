"""The rollout pool: what the driver holds of the rollout workers.

Pixels go from where the `Prompt` lives to the worker; only ids, log-probs and text come back.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import RolloutConfig
from videor2_rl.types import Group, PromptHandle, SamplingSpec
from workers.pool import ActorPool, fetch
from workers.rollout.engine import EngineSpec, rollout_env
from workers.rollout.worker import GenerateRequest, RolloutWorker
from workers.weights.plan import WeightsRefused
from workers.weights.stream import Collective, PolicyWeights, Stored, TransferFailed, stream

log = logging.getLogger(__name__)

START_DEADLINE_S = 1800.0
"""A large checkpoint from a slow disk takes minutes."""
ATTEMPTS_TOGETHER = 2
"""Before each worker gets its weights by itself."""
MAX_CALL_WAVES = 4
"""A call carries at most this many times the sequences that an engine runs at once: that much work is lost with it."""


@dataclass(frozen=True)
class CheckpointFolder:
    """Weights that every worker reads by itself."""

    folder: str
    policy_version: int


class RolloutPool:
    """The driver's side: ordinary methods that block. Lost workers are replaced and bring no group in danger."""

    def __init__(self, spec: EngineSpec) -> None:
        """Start the workers; they build their engines in the background until `wait_ready` or the first call."""
        self._spec = spec
        self._source: PolicyWeights | CheckpointFolder | None = None
        self._collective: Collective | None = None
        self._sync: dict[str, float] = {}
        config = spec.rollout
        self._pool = ActorPool(
            "rollout",
            size=config.num_workers,
            create=self._create,
            prepare=lambda actor: actor.start.remote(),
            admit=self._admit,
            call_deadline_s=config.deadline_s,
            start_deadline_s=START_DEADLINE_S,
        )

    @property
    def policy_version(self) -> int:
        return 0 if self._source is None else self._source.policy_version

    @property
    def actors(self) -> tuple[Any, ...]:
        """The workers' handles at this moment."""
        return self._pool.actors

    @property
    def replacements(self) -> int:
        """Workers lost and replaced since the start."""
        return self._pool.replacements

    def wait_ready(self) -> None:
        """Block until every engine is up."""
        self._pool.wait_ready()

    def generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> list[Group]:
        """One group per prompt, in order. With `rollout.reproducible` the same weights, seed and group ids
        give the same tokens on any worker.

        Raises:
            ConfigError: a prompt leaves no room for the response.
            RuntimeError: workers keep failing.
        """
        config = self._spec.rollout
        for handle in prompts:
            if handle.num_tokens + sampling.max_tokens > config.max_model_tokens:
                raise ConfigError(
                    f"rollout.max_model_tokens: sample {handle.sample_id} has {handle.num_tokens} prompt tokens and "
                    f"may answer with {sampling.max_tokens}; raise {config.max_model_tokens} or use fewer frames"
                )
        version = self.policy_version
        calls = []
        for part in call_parts(
            len(prompts), num_workers=self._pool.size, max_groups=_max_groups(config, sampling.group_size)
        ):
            ids = tuple(group_ids[part.start : part.stop])
            request = GenerateRequest(ids, sampling, seed, version)
            handles = prompts[part.start : part.stop]
            embeddings = [handle.visual for handle in handles if handle.visual is not None]
            calls.append((request, *(handle.ref for handle in handles), *embeddings))
        groups = [group for answer in self._pool.map("generate", calls) for group in answer]
        assert [group.group_id for group in groups] == list(group_ids)
        return groups

    def update_weights(self, source: PolicyWeights) -> None:
        """Bring every worker to the source's weights, and those that replace one later; returns when all have them.

        All at once, once more without those that were lost, then one by one through the object store; a worker that
        takes them neither way is replaced.

        Raises:
            WeightsRefused: they do not fit the model; all workers keep their old weights.
            RuntimeError: workers keep failing.
        """
        before, self._source = self._source, source
        try:
            sent, failures = self._sent(source)
        except WeightsRefused:
            self._source = before
            raise
        seconds = {f"timing_s/sync_{phase}": value for phase, value in sent.items() if phase != "mib"}
        self._sync = {**seconds, "perf/sync_mib": sent["mib"], "rollout/sync_failures": float(failures)}

    def sync_metrics(self) -> dict[str, float]:
        """Of the last update: seconds for each phase, MiB sent, attempts that failed; and workers replaced so far."""
        return {**self._sync, "rollout/workers_replaced": float(self.replacements)}

    def _sent(self, source: PolicyWeights) -> tuple[dict[str, float], int]:
        for failures in range(ATTEMPTS_TOGETHER):
            self._pool.wait_ready()
            way = self._collective_of(self._pool.actors) if source.is_collective else Stored()
            try:
                return stream(source, self._pool.actors, way), failures
            except TransferFailed as error:
                log.warning("sending weights %d to all rollout workers failed: %s", source.policy_version, error)
                self._collective = None
                # Asked of all: where one is lost or stands still, a collective fails on the others too.
                self._pool.replace_silent("answers", deadline_s=source.deadline_s)
        self._pool.wait_ready()
        sent: dict[str, float] = {}
        for actor in self._pool.actors:
            try:
                sent = stream(source, [actor], Stored())
            except TransferFailed as error:
                self._pool.lose(actor, error)
        self._pool.wait_ready()
        return sent or {"mib": 0.0}, ATTEMPTS_TOGETHER

    def _collective_of(self, actors: Sequence[Any]) -> Collective:
        if self._collective is None or self._collective.workers != tuple(actors):
            self._collective = Collective(actors, engines_per_worker=self._spec.rollout.tensor_parallel_size)
        return self._collective

    def load_checkpoint(self, model_path: str, policy_version: int) -> None:
        """Bring every worker to a checkpoint folder of the same architecture, which each of them reads.

        Raises:
            ConfigError, WeightsRefused: as `RolloutWorker.load_folder`; all workers keep their old weights.
        """
        before, self._source = self._source, CheckpointFolder(model_path, policy_version)
        try:
            self._pool.broadcast("load_folder", model_path, policy_version)
        except (ConfigError, WeightsRefused):
            self._source = before
            raise

    def memory(self) -> dict[str, float]:
        """The most that one worker takes, in MiB by kind."""
        return self._pool.memory()

    def shutdown(self) -> None:
        """End every worker and its engine."""
        self._pool.shutdown()

    def _create(self, index: int) -> Any:
        import ray

        config = self._spec.rollout
        return (
            ray.remote(RolloutWorker)
            .options(
                num_cpus=config.cpus_per_worker,
                num_gpus=config.gpus_per_worker,
                max_restarts=0,
                runtime_env={"env_vars": rollout_env(config, self._spec.device)},
            )
            .remote(self._spec)
        )

    def _admit(self, actor: Any) -> None:
        """Bring a worker that joins late to the weights of the others."""
        if isinstance(self._source, CheckpointFolder):
            folder, version = self._source.folder, self._source.policy_version
            fetch(actor.load_folder.remote(folder, version), deadline_s=START_DEADLINE_S, what=f"loading {folder}")
        elif self._source is not None:
            stream(self._source, [actor], Stored())


def _max_groups(config: RolloutConfig, group_size: int) -> int:
    return max(1, MAX_CALL_WAVES * config.max_num_seqs // group_size)


def call_parts(num_prompts: int, *, num_workers: int, max_groups: int) -> list[range]:
    """Consecutive, nearly equal shares of the prompts: one per worker, more where a share would exceed `max_groups`."""
    num_parts = min(num_prompts, max(num_workers, -(-num_prompts // max_groups)))
    bounds = [num_prompts * part // num_parts for part in range(num_parts + 1)] if num_parts else [0]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]
