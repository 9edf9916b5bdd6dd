"""A run whose rollout workers are killed or frozen every few seconds, beside the same run left alone.

    python -m benchmarks.chaos [--seconds 300] [--every-s 10] [--workers 4] [--standby 1] [--on-update finish]

Loop, window, ledger, pool with its updates, signs of life and Ray's processes are the real ones; a worker sleeps for as
long as an engine would sample, so that two cores hold a cluster, and takes weights of no size. Every fault is a signal
to a process, SIGKILL or SIGSTOP at random, and the table says what became of it. With --on-update continue an update is
taken by all workers at once; with finish each takes the weights by itself when its groups have ended
(`rollout.on_update`). The metrics are held against those of several short runs left alone. It ends with an error where
a group was lost or trained twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray

from benchmarks.simulated_loop import Attending, configured, samples_of, scored_as, train_simulated
from videor2_rl.background import then
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.sections import RolloutConfig
from videor2_rl.judge.counts import CallCounts
from videor2_rl.training.protocols import ScoredGroups, Workers
from videor2_rl.types import Group, PromptHandle, Rollout, SkippedSample, TrainGroup, VideoSample
from workers.liveness import Pulse
from workers.pool import actor_class
from workers.rollout.engine import EngineSpec
from workers.rollout.pool import RolloutPool
from workers.rollout.worker import GenerateRequest
from workers.weights.plan import WeightPlan
from workers.weights.stored import StoredUpdate
from workers.weights.stream import PolicyWeights

GROUP_SIZE, PROMPTS_PER_STEP, STALENESS = 4, 8, 4
TOKEN_S, MEDIAN_TOKENS, SIGMA, MAX_TOKENS = 0.03, 60, 0.6, 400
TRAIN_S = 4.0
ENGINE_S = 2.0
"""An engine takes longer to build; the process and its libraries take what they take."""
ENGINE_SEQS = 8
SYNC_DEADLINE_S = 60.0
POLL_S = 0.02


def lengths_of(number: int) -> list[int]:
    """Tokens of a group's responses."""
    drawn = np.random.default_rng(number).lognormal(np.log(MEDIAN_TOKENS), SIGMA, GROUP_SIZE)
    return np.clip(drawn, 1, MAX_TOKENS).astype(int).tolist()


class Sampler:
    """To the pool what `workers.rollout.worker.RolloutWorker` is, as slow as with an engine; nothing is computed."""

    def __init__(self) -> None:
        self._version, self._next_version = 0, 0

    async def start(self) -> None:
        await asyncio.sleep(ENGINE_S)

    async def pid(self) -> int:
        return os.getpid()

    async def pulse(self, hold_s: float) -> Pulse:
        await asyncio.sleep(hold_s)
        return Pulse()

    async def memory(self) -> dict[str, float]:
        return {}

    async def answers(self) -> None:
        pass

    async def begin_update(self, plan: WeightPlan) -> None:
        self._next_version = plan.policy_version

    async def finish_update(self) -> None:
        self._version = self._next_version

    async def generate(self, request: GenerateRequest, name: str) -> list[Group]:
        """One group, of the sample with this name."""
        (number,) = request.group_ids
        lengths, version = lengths_of(number), self._version
        await asyncio.sleep(max(lengths) * TOKEN_S)
        values = [np.zeros(length, dtype=np.float32) for length in lengths]
        rollouts = tuple(Rollout(np.arange(len(one)), one, "", "stop", version) for one in values)
        return [Group(number, name, rollouts)]


class Rollouts(RolloutPool):
    """The real pool, over samplers."""

    def __init__(self, config: RolloutConfig) -> None:
        self.updates_s: list[float] = []
        """For which each update held the loop."""
        self._sampler = actor_class(Sampler).options(num_cpus=0.05, max_restarts=0)
        super().__init__(EngineSpec(config, "", "float32", "cpu", False, ()), group_size=GROUP_SIZE)

    def update_weights(self, source: PolicyWeights) -> None:
        began = time.monotonic()
        super().update_weights(source)
        self.updates_s.append(time.monotonic() - began)

    def up(self) -> list[Any]:
        """The workers that serve or stand by."""
        states = zip(self.states().values(), self.actors, strict=False)  # one may come in between
        return [actor for state, actor in states if state in ("serving", "standing by")]

    def _create(self, index: int) -> Any:
        return self._sampler.remote()


@dataclass
class Others(Attending):
    """The other parts; the learner sleeps while it trains, and remembers on what."""

    trained: list[int] = field(default_factory=list)

    def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
        names = [one.sample_id for one in samples]
        return [_done(PromptHandle(name, name, 100, name, num_bytes=1)) for name in names]

    def begin_encode(self, prompts: Sequence[PromptHandle]) -> Future[list[PromptHandle]]:
        return _done(list(prompts))

    def begin_score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> Future[ScoredGroups]:
        scores = [[scored_as(float(place % 2)) for place, _ in enumerate(group.rollouts)] for group in groups]
        return then(_done(scores), lambda found: ScoredGroups(found, CallCounts()))

    def weights(self, policy_version: int) -> Any:
        """Of a model without any."""
        plan = WeightPlan(policy_version, "float32", (), keeps_base=False)
        return StoredUpdate(plan, SYNC_DEADLINE_S, ()).reader()

    def update(
        self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float, is_tempered: bool = False
    ) -> dict[str, float]:
        time.sleep(TRAIN_S)
        self.trained += [group.group_id for group in groups]
        return {"actor/loss": 0.0, "actor/packed_tokens": 0.0}


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@dataclass
class Fault:
    """One signal, and when what followed; seconds after it."""

    kind: str
    noticed_s: float
    """Its calls were issued again at that moment, to whoever had a place."""
    serving_s: float
    """As many served again as before."""


class Striker:
    """Sends signals to workers that serve, until it is told to stop."""

    def __init__(self, rollouts: Rollouts, *, every_s: float, seed: int) -> None:
        self.faults: list[Fault] = []
        self._rollouts, self._every_s, self._rng = rollouts, every_s, random.Random(seed)
        self._over = threading.Event()
        self._watchers: list[threading.Thread] = []

    @contextmanager
    def striking(self) -> Iterator[None]:
        """While the block lasts."""
        thread = threading.Thread(target=self._strike, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            due = time.monotonic() + 120
            for one in [thread, *self._watchers]:
                while one.is_alive() and time.monotonic() < due:
                    self._rollouts.admit_joiners()  # which the loop, that has ended, did
                    one.join(timeout=0.1)

    def _strike(self) -> None:
        kinds = [("killed", signal.SIGKILL), ("frozen", signal.SIGSTOP)]
        while not self._over.wait(self._every_s * self._rng.uniform(0.5, 1.5)):
            up = self._rollouts.up()
            if not up:
                continue
            actor = self._rng.choice(up)
            kind, what = kinds[self._rng.randrange(2)]
            try:
                os.kill(ray.get(actor.pid.remote(), timeout=1.0), what)
            except (ray.exceptions.RayError, TimeoutError, ProcessLookupError):  # it was struck before
                continue
            watcher = threading.Thread(target=self._watch, args=(actor, kind, time.monotonic()), daemon=True)
            self._watchers.append(watcher)
            watcher.start()

    def _watch(self, actor: Any, kind: str, since: float) -> None:
        while actor in self._rollouts.actors:
            time.sleep(POLL_S)
        noticed = time.monotonic()
        while list(self._rollouts.states().values()).count("serving") < self._rollouts.size:
            time.sleep(POLL_S)
        self.faults.append(Fault(kind, noticed - since, time.monotonic() - since))


@dataclass(frozen=True)
class Outcome:
    """A run's."""

    seconds: float
    ledger: str
    staleness_max: float
    faults: Sequence[Fault]
    replaced: int
    held_s: float
    """For which updates held the loop, all together."""
    metrics: Mapping[str, float]
    """Means over the steps after the first `STALENESS` + 1, in which the window is used up."""


COMPARED = ("timing_s/step", "timing_s/wait", "rollout/staleness_mean", "rollout/response_tokens_mean", "reward/mean")


def run_once(
    num_steps: int,
    *,
    workers: int,
    standby: int,
    every_s: float | None,
    on_update: Literal["continue", "finish"],
    seed: int = 0,
) -> Outcome:
    """A run of so many steps.

    Args:
        every_s: seconds between two faults, in the mean; None: none.
    """
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"num_steps": num_steps, "prompts_per_step": PROMPTS_PER_STEP, "group_size": GROUP_SIZE}
        run = configured(Path(folder), max_staleness=STALENESS, num_workers=workers, **sizes)
        engines = replace(run.rollout, standby=standby, on_update=on_update, max_num_seqs=ENGINE_SEQS)
        run = replace(run, rollout=engines)
        rollouts, others = Rollouts(run.rollout), Others()
        parts: Any = (others, others, rollouts, others, others, None)
        striker = Striker(rollouts, every_s=every_s or 1.0, seed=seed)
        try:
            rollouts.wait_ready()
            began = time.monotonic()
            with nullcontext() if every_s is None else striker.striking():
                verdict = train_simulated(run, Workers(*parts), samples_of(run))
                seconds = time.monotonic() - began
        finally:
            rollouts.shutdown()
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    if sorted(others.trained) != list(range(num_steps * PROMPTS_PER_STEP)):
        raise RuntimeError("what the learner was trained on is not every group once")
    staleness, later = max(row["rollout/staleness_max"] for row in rows), rows[STALENESS + 1 :]
    metrics = {name: float(np.mean([row[name] for row in later])) for name in COMPARED}
    held_s = sum(rollouts.updates_s)
    return Outcome(seconds, verdict, staleness, striker.faults, rollouts.replacements, held_s, metrics)


def compared(calm: Sequence[Outcome], struck: Outcome) -> list[str]:
    """Markdown: each metric of the disturbed run beside the least and the most of those left alone."""
    lines = [f"| metric, a mean over steps | {len(calm)} runs left alone | disturbed |", "|---|---:|---:|"]
    for name in COMPARED:
        values = [one.metrics[name] for one in calm]
        lines.append(f"| `{name}` | {min(values):.3f} to {max(values):.3f} | {struck.metrics[name]:.3f} |")
    return lines


def report(calm: Outcome, struck: Outcome, others: Sequence[Outcome]) -> str:
    """Markdown: the faults by kind, both runs, and the metrics beside the spread of all runs left alone.

    Args:
        others: further runs left alone.
    """
    lines = ["| fault | times | noticed, work issued again after | all serving again after |", "|---|---:|---:|---:|"]
    for kind in ("killed", "frozen"):
        its = [fault for fault in struck.faults if fault.kind == kind]
        if its:
            noticed = [fault.noticed_s for fault in its]
            serving = [fault.serving_s for fault in its]
            lines.append(
                f"| {kind} | {len(its)} | {np.median(noticed):.2f} s, at most {max(noticed):.2f} s "
                f"| {np.median(serving):.2f} s, at most {max(serving):.2f} s |"
            )
    lines += [
        "",
        f"undisturbed: {calm.seconds:.0f} s; {calm.ledger}; staleness at most {calm.staleness_max:g}",
        f"disturbed: {struck.seconds:.0f} s, {struck.replaced} workers replaced; {struck.ledger}; staleness at most "
        f"{struck.staleness_max:g}",
        f"effective training time: {calm.seconds / struck.seconds:.1%}; updates held the loop for "
        f"{struck.held_s:.0f} s, undisturbed for {calm.held_s:.0f} s",
        "",
        *compared([calm, *others], struck),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="of the undisturbed run, about")
    parser.add_argument("--every-s", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--standby", type=int, default=1)
    parser.add_argument("--on-update", choices=["continue", "finish"], default="continue")
    parser.add_argument("--others", type=int, default=2, help="further undisturbed runs, of a fifth of the length")
    parser.add_argument("--temp-dir", default=None, help="Ray's, a short path")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, _temp_dir=arguments.temp_dir)
    steps = round(arguments.seconds / TRAIN_S)
    sizes = {"workers": arguments.workers, "standby": arguments.standby, "on_update": arguments.on_update}
    calm = run_once(steps, **sizes, every_s=None)
    struck = run_once(steps, **sizes, every_s=arguments.every_s)
    short = max(steps // 5, STALENESS + 3)
    others = [run_once(short, **sizes, every_s=None) for _ in range(arguments.others)]
    print(report(calm, struck, others))


if __name__ == "__main__":
    main()
