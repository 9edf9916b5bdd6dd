"""The rollout pool: what the driver holds of the rollout workers.

Pixels go from where the `Prompt` lives to the worker; only ids, log-probs and text come back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import RolloutConfig
from videor2_rl.types import Group, PromptHandle, SamplingSpec, WeightSnapshot
from workers.pool import ActorPool, fetch
from workers.rollout.engine import EngineSpec, rollout_env
from workers.rollout.worker import GenerateRequest, RolloutWorker
from workers.weights.sync import pack_checkpoint

START_DEADLINE_S = 1800.0
"""A large checkpoint from a slow disk takes minutes."""
MAX_CALL_WAVES = 4
"""A call carries at most this many times the sequences that an engine runs at once: that much work is lost with it."""


class RolloutPool:
    """The driver's side: ordinary methods that block. Lost workers are replaced and bring no group in danger."""

    def __init__(self, spec: EngineSpec) -> None:
        """Start the workers; they build their engines in the background until `wait_ready` or the first call."""
        self._spec = spec
        self._snapshot: WeightSnapshot | None = None
        config = spec.rollout
        self._pool = ActorPool(
            "rollout",
            size=config.num_workers,
            create=self._create,
            prepare=self._prepare,
            call_deadline_s=config.deadline_s,
            start_deadline_s=START_DEADLINE_S,
        )

    @property
    def policy_version(self) -> int:
        return 0 if self._snapshot is None else self._snapshot.policy_version

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

    def update_weights(self, snapshot: WeightSnapshot) -> dict[str, float]:
        """Bring every worker to `snapshot` and remember it for replacements; returns when all have acknowledged.

        Returns:
            Metrics: the slowest worker's seconds for each phase, and the workers replaced since the start.

        Raises:
            WeightsRefused: the snapshot is incomplete or damaged; all workers keep their old weights.
        """
        before, self._snapshot = self._snapshot, snapshot
        try:
            answers = self._pool.broadcast("load_weights", replace(snapshot, ref=None), snapshot.ref)
        except BaseException:
            self._snapshot = before
            raise
        phases = answers[0] if answers else {}
        slowest = {f"timing_s/sync_{name}": max(answer[name] for answer in answers) for name in phases}
        return {**slowest, "rollout/workers_replaced": float(self.replacements)}

    def load_checkpoint(self, model_path: str, policy_version: int) -> dict[str, float]:
        """`update_weights` from a checkpoint folder of the same architecture, read by a Ray task."""
        import ray

        task: Any = ray.remote(pack_checkpoint)
        described, data = task.options(num_returns=2, num_cpus=0).remote(model_path, policy_version)
        snapshot = fetch(described, deadline_s=START_DEADLINE_S, what=f"reading the checkpoint {model_path}")
        return self.update_weights(replace(snapshot, ref=data))

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

    def _prepare(self, actor: Any) -> Any:
        if self._snapshot is None:
            return actor.start.remote()
        return actor.start.remote(replace(self._snapshot, ref=None), self._snapshot.ref)


def _max_groups(config: RolloutConfig, group_size: int) -> int:
    return max(1, MAX_CALL_WAVES * config.max_num_seqs // group_size)


def call_parts(num_prompts: int, *, num_workers: int, max_groups: int) -> list[range]:
    """Consecutive, nearly equal shares of the prompts: one per worker, more where a share would exceed `max_groups`."""
    num_parts = min(num_prompts, max(num_workers, -(-num_prompts // max_groups)))
    bounds = [num_prompts * part // num_parts for part in range(num_parts + 1)] if num_parts else [0]
    return [range(start, stop) for start, stop in itertools.pairwise(bounds)]
