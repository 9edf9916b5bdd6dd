"""All of an update in Ray's object store: each worker takes it when it comes to it, and the learner trains on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workers.weights.group import GroupAddress
from workers.weights.plan import Bucket, Gathered, WeightPlan
from workers.weights.stream import PolicyWeights


@dataclass(frozen=True)
class StoredUpdate:
    """The weights of one version, as the learner had them."""

    plan: WeightPlan
    deadline_s: float
    portions: tuple[tuple[Gathered, Any], ...]
    """Of each bucket what it is, and where its payload lies."""

    @property
    def policy_version(self) -> int:
        return self.plan.policy_version

    def reader(self) -> PolicyWeights:
        """For one use of `stream`."""
        return _Reader(self)


def store_update(source: PolicyWeights) -> StoredUpdate:
    """Put all buckets into the object store; the learner's weights may change afterwards."""
    plan = replace(source.plan, keeps_base=False)
    portions = []
    try:
        for index, bucket in enumerate(plan.buckets):
            gathered = source.gather(index, bucket, only_changes=False)
            portions.append((gathered, source.store()))
    finally:
        source.end(is_whole=False)
    return StoredUpdate(plan, source.deadline_s, tuple(portions))


class _Reader:
    """A stored update as a source of `stream`, by way of the object store alone."""

    is_collective = False
    base_version = None

    def __init__(self, update: StoredUpdate) -> None:
        self._update = update
        self._index = 0
        self.plan = update.plan
        self.deadline_s = update.deadline_s

    @property
    def policy_version(self) -> int:
        return self.plan.policy_version

    def gather(self, index: int, bucket: Bucket, *, only_changes: bool) -> Gathered:
        self._index = index
        return self._update.portions[index][0]

    def store(self) -> Any:
        return self._update.portions[self._index][1]

    def send(self) -> list[Any]:
        raise RuntimeError("a stored update is sent by no group")

    def open_group(self, num_engines: int) -> tuple[GroupAddress, list[Any]]:
        raise RuntimeError("a stored update is sent by no group")

    def end(self, *, is_whole: bool) -> None:
        """The payloads stay until the next update takes this one's place."""
