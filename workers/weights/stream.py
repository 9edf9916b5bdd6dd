"""An update of the engines' weights as the driver leads it: a bucket is gathered on all ranks, sent, loaded; the next.

The ranks gather among themselves before rank 0 sends, and nothing else of theirs runs meanwhile: two groups whose
collectives overlap can wait for each other. Two ways lead to the engines: the collective of `group.py`, to all at once,
or Ray's object store, for a worker that joins late and where the collective failed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from workers.fetch import DeadlineExceeded, WorkerLost, fetch
from workers.weights.group import GroupAddress
from workers.weights.plan import Bucket, Gathered, WeightPlan, WeightsRefused


class TransferFailed(WorkerLost):
    """Names the worker and what it failed at; no worker of the update serves anything until one succeeds."""


class PolicyWeights(Protocol):
    """The learner's side of one update; its weights stay as they are while the update lasts."""

    plan: WeightPlan
    deadline_s: float
    """Seconds that one phase of one bucket may take."""
    is_collective: bool
    """The group is tried first."""

    @property
    def policy_version(self) -> int: ...

    @property
    def base_version(self) -> int | None:
        """Of which the learner keeps the values that were sent last, completely."""
        ...

    def gather(self, index: int, bucket: Bucket, *, only_changes: bool) -> Gathered:
        """A collective of the ranks; the bucket before is forgotten."""
        ...

    def send(self) -> list[Any]:
        """References that resolve when the bucket was sent to the group."""
        ...

    def store(self) -> Any:
        """Reference of the bucket's payload in the object store, uint8 [num_bytes]."""
        ...

    def open_group(self, num_engines: int) -> tuple[GroupAddress, list[Any]]:
        """Where the group meets, and references that resolve when the learner has met it."""
        ...

    def end(self, *, is_whole: bool) -> None:
        """The update ended; whole: every receiver has acknowledged it."""
        ...


class Collective:
    """The group of the learner and these workers, made by the first update after any of them changed."""

    def __init__(self, workers: Sequence[Any], *, engines_per_worker: int) -> None:
        self.workers = tuple(workers)
        self._engines_per_worker = engines_per_worker
        self._has_met = False

    def meet(self, source: PolicyWeights) -> None:
        """Nothing where all have met before."""
        if self._has_met:
            return
        address, learner = source.open_group(len(self.workers) * self._engines_per_worker)
        refs = [
            worker.join_group.remote(address, 1 + index * self._engines_per_worker)
            for index, worker in enumerate(self.workers)
        ]
        await_workers(refs, "meeting the learner", deadline_s=2 * source.deadline_s, others=learner)
        self._has_met = True

    def move(self, source: PolicyWeights, index: int, gathered: Gathered, workers: Sequence[Any]) -> None:
        """To all workers at once."""
        sending = source.send()
        refs = [worker.receive_bucket.remote(index, gathered) for worker in workers]
        # The group's own deadline ends first and says more.
        await_workers(refs, f"receiving bucket {index}", deadline_s=2 * source.deadline_s, others=sending)


class Stored:
    """Through Ray's object store, one bucket there at a time."""

    def meet(self, source: PolicyWeights) -> None:
        """Nobody has to be met."""

    def move(self, source: PolicyWeights, index: int, gathered: Gathered, workers: Sequence[Any]) -> None:
        """To each worker by itself."""
        payload = source.store()
        refs = [worker.receive_bucket.remote(index, gathered, payload) for worker in workers]
        await_workers(refs, f"receiving bucket {index}", deadline_s=source.deadline_s)


def stream(source: PolicyWeights, workers: Sequence[Any], way: Collective | Stored) -> dict[str, float]:
    """Bring the workers to the source's weights; returns seconds for each phase, and `mib` sent.

    Args:
        workers: handles of `RolloutWorker` actors.

    Raises:
        WeightsRefused: the plan does not fit the model; no worker was touched.
        TransferFailed: a worker or the sender failed; none of the workers serves until an update succeeds.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    plan, is_whole, num_bytes = source.plan, False, 0

    def timed(phase: str, since: float) -> float:
        now = time.perf_counter()
        seconds[phase] += now - since
        return now

    try:
        clock = time.perf_counter()
        way.meet(source)
        refs = [worker.begin_update.remote(plan) for worker in workers]
        bases = await_workers(refs, "beginning the update", deadline_s=source.deadline_s)
        only_changes = plan.keeps_base and source.base_version is not None and set(bases) == {source.base_version}
        clock = timed("begin", clock)
        for index, bucket in enumerate(plan.buckets):
            gathered = source.gather(index, bucket, only_changes=only_changes)
            clock = timed("gather", clock)
            way.move(source, index, gathered, workers)
            clock = timed("move", clock)
            num_bytes += gathered.num_bytes
        refs = [worker.finish_update.remote() for worker in workers]
        await_workers(refs, "finishing the update", deadline_s=source.deadline_s)
        timed("finish", clock)
        is_whole = True
    finally:
        source.end(is_whole=is_whole)
    return {**seconds, "mib": num_bytes / 2**20}


def await_workers(refs: Sequence[Any], what: str, *, deadline_s: float, others: Sequence[Any] = ()) -> list[Any]:
    """Each worker's answer, in order; the first failure ends the wait, for the others would wait for it.

    Args:
        others: of the learner's ranks, waited for as well.

    Raises:
        WeightsRefused: as a worker raised it.
        TransferFailed: names the worker, or the learner, and what it was asked.
    """
    import ray

    due = time.monotonic() + deadline_s
    names = {ref: index for index, ref in enumerate(refs)}
    pending, answers = [*refs, *others], {}
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, due - time.monotonic()))
        for ref in done or pending[:1]:
            worker = names.get(ref)
            who = "the learner" if worker is None else f"rollout worker {worker}"
            try:
                if not done:
                    raise DeadlineExceeded(f"no answer within {deadline_s:g} s")
                answers[ref] = fetch(ref, what=f"{what} on {who}")
            except WeightsRefused:
                raise
            except (ray.exceptions.RayError, RuntimeError) as error:
                message = " ".join(str(getattr(error, "cause", None) or error).split())
                raise TransferFailed(f"{what} failed on {who}: {message[:500]}") from error
    return [answers[ref] for ref in refs]
