"""The learner's side of one weight update, as the driver holds it (`workers.weights.stream.PolicyWeights`)."""

from __future__ import annotations

from typing import Any, Protocol

from videor2_rl.config.sections import LearnerConfig
from workers.weights.group import GroupAddress
from workers.weights.plan import Bucket, Gathered, WeightPlan


class Ranks(Protocol):
    """What is asked of the learner's ranks, all at once."""

    def run(self, method: str, *args: Any, what: str) -> list[Any]: ...

    def begin(self, method: str, *args: Any) -> list[Any]: ...


class SentBase:
    """Of which version rank 0 keeps everything that was sent; shared by all updates of a learner."""

    def __init__(self) -> None:
        self.version: int | None = None


class LearnerWeights:
    """The current weights of a rank group, under the version that they have."""

    def __init__(self, ranks: Ranks, plan: WeightPlan, config: LearnerConfig, *, base: SentBase) -> None:
        self.plan = plan
        self.deadline_s = config.sync_deadline_s
        self.is_collective = config.sync_transport == "collective"
        self._ranks = ranks
        self._base = base

    @property
    def policy_version(self) -> int:
        return self.plan.policy_version

    @property
    def base_version(self) -> int | None:
        return self._base.version

    def gather(self, index: int, bucket: Bucket, *, only_changes: bool) -> Gathered:
        """On all ranks together; rank 0 holds it, in place of the bucket before."""
        # What is kept changes bucket by bucket.
        self._base.version = None
        arguments = (index, bucket, self.plan.keeps_base, only_changes)
        what = f"gathering bucket {index} of weights {self.policy_version}"
        return self._ranks.run("gather_bucket", *arguments, what=what)[0]

    def send(self) -> list[Any]:
        """To the group; nothing is waited for."""
        return self._ranks.begin("send_bucket")

    def store(self) -> Any:
        """Reference of the payload in the object store, which rank 0 owns."""
        return self._ranks.run("store_bucket", what=f"storing weights {self.policy_version}")[0]

    def open_group(self, num_engines: int) -> tuple[GroupAddress, list[Any]]:
        """Where rank 0 meets the engines; it waits there already."""
        host, port = self._ranks.run("open_group", self.deadline_s, what="opening a group for weights")[0]
        address = GroupAddress(host, port, 1 + num_engines, self.deadline_s)
        return address, self._ranks.begin("join_group", address)

    def end(self, *, is_whole: bool) -> None:
        """Rank 0 lets go of the last bucket."""
        self._ranks.run("drop_bucket", what="ending a weight update")
        if is_whole and self.plan.keeps_base:
            self._base.version = self.policy_version
