"""Tensors in place of a learner's ranks: the sender is the learner's own, and so is what the driver holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from learner_configs import learner_config

from videor2_rl.model.weights import ExpectedWeights
from workers.learner.policy_weights import LearnerWeights, SentBase
from workers.weights.group import GroupAddress
from workers.weights.plan import Bucket, Gathered, WeightPlan, buckets_of
from workers.weights.sender import WeightSender


class TensorRank:
    """Rank 0 of a learner whose weights are given; an ordinary object, or a Ray actor."""

    def __init__(self, dtype: str = "float32") -> None:
        self.sender = WeightSender(dtype=getattr(torch, dtype), device=torch.device("cpu"))
        self.tensors: Mapping[str, torch.Tensor] = {}
        self.damaged: int | None = None

    def hold(self, tensors: Mapping[str, torch.Tensor], damaged: int | None = None) -> None:
        """Take new weights; one byte of the bucket `damaged` changes after its digest was taken."""
        self.tensors, self.damaged = dict(tensors), damaged

    def gather_bucket(self, index: int, bucket: Bucket, keeps_base: bool, only_changes: bool) -> Gathered:
        named = ((name, self.tensors[name]) for name in bucket.names)
        gathered = self.sender.fill(index, bucket, named, keeps_base=keeps_base, only_changes=only_changes)
        if index == self.damaged:
            assert self.sender._payload is not None
            self.sender._payload[gathered.num_bytes // 2] ^= 1
        return gathered

    def send_bucket(self) -> None:
        self.sender.send()

    def store_bucket(self) -> Any:
        return self.sender.stored()

    def drop_bucket(self) -> None:
        self.sender.drop()

    def open_group(self, deadline_s: float) -> tuple[str, int]:
        return "127.0.0.1", self.sender.open("127.0.0.1", deadline_s=deadline_s)

    def join_group(self, address: GroupAddress) -> None:
        self.sender.join(address)


class StoringRank(TensorRank):
    """As an actor."""

    def store_bucket(self) -> Any:
        import ray

        return ray.put(self.sender.stored())


class LocalRanks:
    """What `LearnerWeights` needs of a rank group, over one object in this process."""

    def __init__(self, rank: TensorRank) -> None:
        self._rank = rank

    def run(self, method: str, *args: Any, what: str) -> list[Any]:
        return [getattr(self._rank, method)(*args)]


class ActorRanks:
    """What `LearnerWeights` needs of a rank group, over one actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, method: str, *args: Any) -> list[Any]:
        return [getattr(self.actor, method).remote(*args)]

    def run(self, method: str, *args: Any, what: str) -> list[Any]:
        import ray

        return [ray.get(ref) for ref in self.begin(method, *args)]


class Source:
    """Makes updates of given tensors."""

    def __init__(self, ranks: Any, expected: ExpectedWeights, *, dtype: str = "float32", **learner: Any) -> None:
        self._ranks, self._expected, self._dtype = ranks, expected, dtype
        self._config = learner_config(**learner)
        self._base = SentBase()

    def weights(self, version: int, *, names: Any = None, max_bytes: int = 64 << 10) -> LearnerWeights:
        """Of all names, or of some, in small buckets."""
        changed = self._expected.shapes if names is None else names
        size = getattr(torch, self._dtype).itemsize
        buckets = buckets_of(self._expected, changed, max_bytes=max_bytes, bytes_per_value=size)
        plan = WeightPlan(version, self._dtype, buckets, keeps_base=self._config.sync == "delta")
        return LearnerWeights(self._ranks, plan, self._config, base=self._base)


def load(
    engine: Any,
    rank: TensorRank,
    update: LearnerWeights,
    tensors: Mapping[str, torch.Tensor],
    damaged: int | None = None,
) -> None:
    """Bring a worker without Ray to given weights, a bucket after the other, by files."""
    rank.hold(tensors, damaged)
    base = engine.run(engine.worker.begin_update(update.plan))
    only_changes = update.base_version is not None and base == update.base_version
    for index, bucket in enumerate(update.plan.buckets):
        gathered = update.gather(index, bucket, only_changes=only_changes)
        engine.run(engine.worker.receive_bucket(index, gathered, update.store()))
    engine.run(engine.worker.finish_update())
    update.end(is_whole=True)


def rank_actor() -> Any:
    """A Ray actor in place of a learner's rank."""
    import sys

    import ray

    # Ray's workers do not find the tests' helpers.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ray.remote(num_cpus=0)(StoringRank).remote()
