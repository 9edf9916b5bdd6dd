"""Workers that take their time in a virtual clock: engines with heavy-tailed responses, a judge, a learner, faults."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.simulated_loop import Attending, scored_as
from benchmarks.virtual_time import VirtualBackground, VirtualLoop
from rewards.types import Scored
from videor2_rl.background import then
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.judge.counts import CallCounts
from videor2_rl.training.protocols import ScoredGroups, Workers
from videor2_rl.types import (
    Group,
    LostPrompt,
    PromptHandle,
    Rollout,
    SamplingSpec,
    SkippedSample,
    TrainGroup,
    VideoSample,
)
from workers.dispatch import Dispatch
from workers.errors import DeadlineExceeded, WorkerLost
from workers.fetch import pickled_size
from workers.liveness import HOLD_S, Pulse
from workers.slots import Limits


@dataclass(frozen=True)
class Workload:
    """What a run is like; seconds unless named otherwise. A cluster that grows takes larger steps, and its learner
    grows with it."""

    groups_per_worker: int = 8
    """Prompts a step, for each rollout worker."""
    group_size: int = 8
    median_tokens: float = 400.0
    sigma: float = 0.8
    """Of the logarithm of a response's length."""
    max_tokens: int = 2560
    token_s: float = 0.035
    """From a token to the next of the same response."""
    seats: int = 64
    """Responses that an engine samples at once."""
    prepare_s: float = 0.5
    """A clip on a video worker, in the mean."""
    engines_per_video_worker: int = 4
    judge_median_s: float = 1.0
    judge_sigma: float = 0.6
    judge_max_s: float = 10.0
    trained_per_worker_s: float = 2.2
    """Responses that the learner trains on in a second, for each rollout worker."""
    load_s: float = 1.0
    """An update of weights on all workers at once; they sample nothing meanwhile."""
    bring_s: float = 1.0
    """The weights to one worker alone."""
    start_s: float = 60.0
    """An engine from nothing to ready."""
    notice_s: float = 0.25
    """From the end of a process until the driver hears of it."""


START_SPREAD_S = 2 * HOLD_S
"""Processes that start together get ready within so long, and give their signs of life at different times."""


@dataclass(eq=False)
class SimWorker:
    """One actor."""

    seats: list[float]
    """When each is free, a heap."""
    open: set[asyncio.Future[Any]] = field(default_factory=set)
    """What was asked of it and is not answered."""
    freed: float = 0.0
    """When its last call ended."""
    is_frozen: bool = False
    error: Exception | None = None

    def kill(self) -> None:
        """Whoever waits for it hears of it."""
        self.error = WorkerLost("its process died")
        for future in self.open:
            if not future.done():
                future.set_exception(self.error)
        self.open.clear()


class SimActors:
    """`workers.slots.Actors` in virtual time."""

    lost = (WorkerLost, DeadlineExceeded)
    has_pulse = True

    def __init__(
        self, loop: VirtualLoop, *, seats: int, start_s: float, work: Callable[..., tuple[float, Any]], seed: int
    ) -> None:
        """
        Args:
            start_s: from nothing to ready; no two are ready at the same moment.
            work: worker and arguments of a call -> when it ends on the loop's clock, and its result.
        """
        self._loop = loop
        self._rng = random.Random(seed)
        self._seats = seats
        self._start_s = start_s
        self._work = work
        self.alive: list[SimWorker] = []
        self.held_s = 0.0
        """Time in which nothing was sampled, so far."""

    def create(self, index: int) -> SimWorker:
        worker = SimWorker([0.0] * self._seats)
        self.alive.append(worker)
        return worker

    def prepare(self, actor: SimWorker) -> asyncio.Future[Any]:
        return self._opened(actor, self._loop.time() + self._start_s + self._rng.uniform(0, START_SPREAD_S), None)

    def begin(self, actor: SimWorker, method: str, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        with self._loop.uncounted():
            ends, result = self._work(actor, *args)
            return self._opened(actor, ends, result)

    async def answer(self, ref: asyncio.Future[Any], *, deadline_s: float | None, what: str) -> Any:
        value = await ref
        pickled_size(value)  # as the driver counts what it receives
        return value

    def cancel(self, ref: asyncio.Future[Any]) -> None:
        pass

    def kill(self, actor: SimWorker) -> None:
        if actor in self.alive:
            self.alive.remove(actor)

    def is_hopeless(self, error: Exception) -> bool:
        return False

    async def pulse(self, actor: SimWorker) -> Pulse:
        return await self._opened(actor, self._loop.time() + HOLD_S, Pulse())

    def _opened(self, actor: SimWorker, ends: float, value: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if actor.error is not None:
            future.set_exception(actor.error)
            return future
        actor.open.add(future)
        self._loop.call_at(ends, self._arrive, actor, future, ends, value, self.held_s)
        return future

    def _arrive(self, actor: SimWorker, future: Any, ends: float, value: Any, held_s: float) -> None:
        if future.done() or actor.is_frozen:
            return
        if self.held_s > held_s and not isinstance(value, Pulse):
            ends += self.held_s - held_s
            self._loop.call_at(ends, self._arrive, actor, future, ends, value, self.held_s)
            return
        actor.freed = ends
        actor.open.discard(future)
        future.set_result(value)


class SimRollouts:
    """The rollout pool: the real dispatch over simulated engines."""

    def __init__(self, loop: VirtualLoop, work: Workload, *, num_workers: int, streams: bool, seed: int) -> None:
        self._loop, self._work, self._streams, self._seed = loop, work, streams, seed
        self._background = VirtualBackground(loop)
        self.actors = SimActors(loop, seats=work.seats, start_s=work.start_s, work=self._sample, seed=seed)
        max_in_flight = 1 + 2 * work.seats // work.group_size if streams else 1
        limits = Limits(None, 1800.0, max_in_flight=max_in_flight)
        self.pool = Dispatch("rollout", self.actors, limits, holds_joiners=True, standby=0)
        self.version = 0
        self.dispatched_s: list[float] = []
        """From the moment a call could go to a worker until it did."""
        self._begun: set[tuple[int, ...]] = set()
        self._tokens = np.zeros(work.max_tokens, dtype=np.int64)
        self._log_probs = np.zeros(work.max_tokens, dtype=np.float32)
        self._background.run(self._fill(num_workers))

    async def _fill(self, num_workers: int) -> None:
        self.pool.resize(num_workers)
        await self.pool.until(self.pool.is_whole)
        for slot in self.pool.slots:
            self.pool.let_in(slot.actor)
        self.pool.take_busy_frac()

    def begin_generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> Future[list[Group | LostPrompt]]:
        size = 1 if self._streams else -(-len(prompts) // self.pool.size)
        parts = [slice(start, start + size) for start in range(0, len(prompts), size)]
        asked = self._loop.time()
        calls = [(tuple(group_ids[part]), tuple(p.sample_id for p in prompts[part]), asked) for part in parts]
        done = self._background.begin(self.pool.call_all("generate", calls))
        return then(done, lambda answers: [group for answer in answers for group in answer])

    def generate(self, *_: Any, **__: Any) -> list[Group]:
        raise NotImplementedError("nothing is evaluated here")

    def _sample(
        self, worker: SimWorker, numbers: tuple[int, ...], names: Sequence[str], asked: float
    ) -> tuple[float, list[Group]]:
        now = self._loop.time()
        if numbers not in self._begun:
            # Of what was lost with a worker the wait is another one.
            self._begun.add(numbers)
            self.dispatched_s.append(now - max(asked, worker.freed))
        ends, groups = now, []
        for number, name in zip(numbers, names, strict=True):
            lengths = response_lengths(self._work, number, seed=self._seed)
            for length in lengths:
                seat = max(now, heapq.heappop(worker.seats)) + length * self._work.token_s
                heapq.heappush(worker.seats, seat)
                ends = max(ends, seat)
            rollouts = [Rollout(self._tokens[:n], self._log_probs[:n], "", "stop", self.version) for n in lengths]
            groups.append(Group(number, name, tuple(rollouts)))
        return ends, groups

    def admit_joiners(self) -> None:
        for slot in list(self.pool.slots):
            if slot.is_ready and not slot.has_joined:
                self._loop.wait(self._work.bring_s)
                self._loop.do(partial(self.pool.let_in, slot.actor))

    def update_weights(self, version: int) -> None:
        ready = [slot.actor for slot in self.pool.slots if slot.is_ready]
        self._loop.wait(self._work.load_s)
        self.actors.held_s += self._work.load_s
        self.version = version
        for slot in self.pool.slots:
            if not slot.has_joined and slot.actor in ready:
                self._loop.do(partial(self.pool.let_in, slot.actor))

    def metrics(self) -> Mapping[str, float]:
        return {"perf/rollout_idle_frac": 1 - self._loop.do(self.pool.take_busy_frac)}

    def memory(self) -> Mapping[str, float]:
        return {}

    async def strike(self, times: Sequence[float], *, rng: random.Random) -> None:
        """At each time a worker that serves is killed or frozen, by turns."""
        for number, due in enumerate(times):
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            serving = [slot.actor for slot in self.pool.slots if slot.has_joined and not slot.actor.is_frozen]
            if not serving:
                continue
            worker = rng.choice(serving)
            if number % 2:
                worker.is_frozen = True
            else:
                self._loop.call_later(self._work.notice_s, worker.kill)


def response_lengths(work: Workload, number: int, *, seed: int) -> list[int]:
    """Tokens of a group's responses: the same whoever samples them, and whenever."""
    drawn = np.random.default_rng((seed, number)).lognormal(np.log(work.median_tokens), work.sigma, work.group_size)
    return np.clip(drawn, 1, work.max_tokens).astype(int).tolist()


class SimOthers(Attending):
    """Video and reward workers, encoder and learner."""

    def __init__(self, loop: VirtualLoop, work: Workload, *, num_workers: int, seed: int) -> None:
        self._loop, self._work, self._num_workers = loop, work, num_workers
        self._background = VirtualBackground(loop)
        self._rng = random.Random(seed)
        self._rewards = Dispatch(
            "reward",
            SimActors(loop, seats=1, start_s=1.0, work=self._judge, seed=seed),
            Limits(None, 600.0),
            holds_joiners=False,
            standby=0,
        )
        scores = [scored_as(float(place % 2)) for place in range(work.group_size)]
        self._scores = scores
        self._videos = [0.0] * max(1, num_workers // work.engines_per_video_worker)
        """When each video worker is free, a heap."""
        self.version = 0
        self.trained_s = 0.0
        self._background.run(self._fill())

    async def _fill(self) -> None:
        self._rewards.resize(self._num_workers)
        await self._rewards.until(self._rewards.is_whole)

    def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
        handles = [PromptHandle(one.sample_id, one.sample_id, 1500, None, num_bytes=1) for one in samples]
        return [self._background.begin(self._prepared(handle)) for handle in handles]

    async def _prepared(self, handle: PromptHandle) -> PromptHandle:
        now = self._loop.time()
        ends = max(now, heapq.heappop(self._videos)) + self._rng.expovariate(1 / self._work.prepare_s)
        heapq.heappush(self._videos, ends)
        await asyncio.sleep(ends - now)
        return handle

    def begin_encode(self, prompts: Sequence[PromptHandle]) -> Future[list[PromptHandle]]:
        done: Future[list[PromptHandle]] = Future()
        done.set_result(list(prompts))
        return done

    def _judge(self, worker: SimWorker, num_groups: int) -> tuple[float, list[list[Scored]]]:
        work = self._work
        takes_s = max(
            min(work.judge_max_s, self._rng.lognormvariate(np.log(work.judge_median_s), work.judge_sigma))
            for _ in range(num_groups)
        )
        return self._loop.time() + takes_s, [self._scores] * num_groups

    def begin_score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> Future[ScoredGroups]:
        size = -(-len(groups) // self._num_workers)
        items = [(len(groups[start : start + size]),) for start in range(0, len(groups), size)]
        done = self._background.begin(self._rewards.call_all("score", items))
        return then(done, lambda parts: ScoredGroups([scores for part in parts for scores in part], CallCounts()))

    def update(
        self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float, is_tempered: bool = False
    ) -> dict[str, float]:
        """Holds the loop's clock as long as a learner would train."""
        seconds = len(groups) * self._work.group_size / (self._work.trained_per_worker_s * self._num_workers)
        self._loop.wait(seconds)
        self.trained_s += seconds
        self.version += 1
        return {"actor/loss": 0.0, "actor/packed_tokens": 0.0}

    def workers(self, rollouts: SimRollouts) -> Workers:
        """For the loop."""
        learner: Any = self
        return Workers(self, self, rollouts, self, learner, None)
