"""A run whose rollout workers are killed or frozen every few seconds, beside the same run left alone.

    python -m benchmarks.chaos [--seconds 300] [--every-s 10] [--workers 4] [--standby 1] [--on-update finish]

Loop, window, ledger, pool, signs of life and Ray's processes are the real ones; a worker sleeps for as long as an
engine would sample, so that two cores hold a cluster. Every fault is a signal to a process, SIGKILL or SIGSTOP at
random, and the table says what became of it. With --on-update continue an update waits for all workers, as their
collective does; with finish each takes the weights by itself when its groups have ended (`rollout.on_update`). The
metrics are held against those of several short runs left alone. It ends with an error where a group was lost or trained
twice.
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulated_loop import Attending, configured, samples_of, scored_as, train_simulated
from videor2_rl.background import then
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.judge.counts import CallCounts
from videor2_rl.training.protocols import ScoredGroups, Workers
from videor2_rl.types import Group, PromptHandle, Rollout, SamplingSpec, SkippedSample, TrainGroup, VideoSample
from workers.fetch import LOST, fetch
from workers.liveness import Pulse
from workers.pool import ActorPool, actor_class

GROUP_SIZE, PROMPTS_PER_STEP, STALENESS = 4, 8, 4
TOKEN_S, MEDIAN_TOKENS, SIGMA, MAX_TOKENS = 0.03, 60, 0.6, 400
TRAIN_S = 4.0
ENGINE_S = 2.0
"""An engine takes longer to build; the process and its libraries take what they take."""
POLL_S = 0.02


def lengths_of(number: int) -> list[int]:
    """Tokens of a group's responses."""
    drawn = np.random.default_rng(number).lognormal(np.log(MEDIAN_TOKENS), SIGMA, GROUP_SIZE)
    return np.clip(drawn, 1, MAX_TOKENS).astype(int).tolist()


class Sampler:
    """A Ray actor that samples as slowly as an engine, and holds a policy version."""

    def __init__(self) -> None:
        self._version = 0

    async def start(self) -> int:
        """Its process."""
        await asyncio.sleep(ENGINE_S)
        return os.getpid()

    async def pid(self) -> int:
        return os.getpid()

    async def pulse(self, hold_s: float) -> Pulse:
        await asyncio.sleep(hold_s)
        return Pulse()

    async def memory(self) -> dict[str, float]:
        return {}

    async def load(self, version: int) -> None:
        self._version = version

    async def generate(self, number: int, name: str) -> Group:
        """One group; nothing is computed."""
        lengths, version = lengths_of(number), self._version
        await asyncio.sleep(max(lengths) * TOKEN_S)
        values = [np.zeros(length, dtype=np.float32) for length in lengths]
        rollouts = tuple(Rollout(np.arange(len(one)), one, "", "stop", version) for one in values)
        return Group(number, name, rollouts)


@dataclass
class Rollouts:
    """`workers.rollout.pool.RolloutPool` as far as the loop needs it, over samplers."""

    size: int
    standby: int
    finishes: bool
    """As with `rollout.on_update` finish."""
    version: int = 0
    pids: dict[Any, int] = field(default_factory=dict)
    updates_s: list[float] = field(default_factory=list)
    """For which each update held the loop."""

    def __post_init__(self) -> None:
        sampler = actor_class(Sampler)
        self.pool = ActorPool(
            "rollout",
            size=self.size,
            standby=self.standby,
            create=lambda index: sampler.options(num_cpus=0.05, max_restarts=0).remote(),
            prepare=lambda actor: actor.start.remote(),
            call_deadline_s=None,
            start_deadline_s=300,
            max_in_flight=4,
            max_losses=20,
            holds_joiners=True,
            has_pulse=True,
        )
        self.pool.wait_ready()
        self.admit_joiners()

    def begin_generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> Future[list[Group]]:
        items = [(number, prompt.sample_id) for number, prompt in zip(group_ids, prompts, strict=True)]
        return self.pool.submit_all("generate", items)

    def generate(self, *_: Any, **__: Any) -> list[Group]:
        raise NotImplementedError("nothing is evaluated here")

    def admit_joiners(self) -> None:
        self._bring(self.pool.joiners)

    def update_weights(self, version: int) -> None:
        began = time.monotonic()
        self.version = version
        if self.finishes:
            joiners = self.pool.joiners
            for actor in self.pool.ready:
                if actor not in joiners:
                    drained = self.pool.drain(actor)
                    threading.Thread(target=self._take_when_idle, args=(actor, version, drained), daemon=True).start()
        else:
            self._bring(self.pool.ready)
        self.updates_s.append(time.monotonic() - began)

    def _take_when_idle(self, actor: Any, version: int, drained: Future[None]) -> None:
        drained.result()
        if self.version == version:  # else the next update's thread does it
            self._bring([actor])

    def _bring(self, actors: Sequence[Any]) -> None:
        asked = [(actor, actor.load.remote(self.version), actor.pid.remote()) for actor in actors]
        for actor, loading, pid in asked:
            try:
                fetch(loading, deadline_s=10, what="loading")
                self.pids[actor] = fetch(pid, deadline_s=10, what="a process")
            except LOST as error:
                self.pool.lose(actor, error)
            else:
                self.pool.let_in(actor)

    def metrics(self) -> Mapping[str, float]:
        return {"rollout/workers_replaced": self.pool.replacements}

    def memory(self) -> Mapping[str, float]:
        return {}


@dataclass
class Others(Attending):
    """The other parts; the learner sleeps while it trains, and remembers on what."""

    trained: list[int] = field(default_factory=list)

    def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
        return [_done(PromptHandle(one.sample_id, one.sample_id, 100, None, num_bytes=1)) for one in samples]

    def begin_encode(self, prompts: Sequence[PromptHandle]) -> Future[list[PromptHandle]]:
        return _done(list(prompts))

    def begin_score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> Future[ScoredGroups]:
        scores = [[scored_as(float(place % 2)) for place, _ in enumerate(group.rollouts)] for group in groups]
        return then(_done(scores), lambda found: ScoredGroups(found, CallCounts()))

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
            known = [actor for actor in self._rollouts.pool.ready if actor in self._rollouts.pids]
            if not known:
                continue
            actor = self._rng.choice(known)
            kind, what = kinds[self._rng.randrange(2)]
            try:
                os.kill(self._rollouts.pids[actor], what)
            except ProcessLookupError:
                continue
            watcher = threading.Thread(target=self._watch, args=(actor, kind, time.monotonic()), daemon=True)
            self._watchers.append(watcher)
            watcher.start()

    def _watch(self, actor: Any, kind: str, since: float) -> None:
        while actor in self._rollouts.pool.actors:
            time.sleep(POLL_S)
        noticed = time.monotonic()
        while list(self._rollouts.pool.states().values()).count("serving") < self._rollouts.size:
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
    num_steps: int, *, workers: int, standby: int, every_s: float | None, finishes: bool, seed: int = 0
) -> Outcome:
    """A run of so many steps.

    Args:
        every_s: seconds between two faults, in the mean; None: none.
    """
    rollouts, others = Rollouts(workers, standby, finishes), Others()
    parts: Any = (others, others, rollouts, others, others, None)
    striker = Striker(rollouts, every_s=every_s or 1.0, seed=seed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            sizes = {"num_steps": num_steps, "prompts_per_step": PROMPTS_PER_STEP, "group_size": GROUP_SIZE}
            run = configured(Path(folder), max_staleness=STALENESS, num_workers=workers, **sizes)
            began = time.monotonic()
            if every_s is None:
                verdict = train_simulated(run, Workers(*parts), samples_of(run))
            else:
                with striker.striking():
                    verdict = train_simulated(run, Workers(*parts), samples_of(run))
                    seconds = time.monotonic() - began
            seconds = time.monotonic() - began if every_s is None else seconds
            rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    finally:
        rollouts.pool.shutdown()
    if sorted(others.trained) != list(range(num_steps * PROMPTS_PER_STEP)):
        raise RuntimeError("what the learner was trained on is not every group once")
    staleness, later = max(row["rollout/staleness_max"] for row in rows), rows[STALENESS + 1 :]
    metrics = {name: float(np.mean([row[name] for row in later])) for name in COMPARED}
    held_s = sum(rollouts.updates_s)
    return Outcome(seconds, verdict, staleness, striker.faults, rollouts.pool.replacements, held_s, metrics)


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
    import ray

    logging.basicConfig(level=logging.WARNING)
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, _temp_dir=arguments.temp_dir)
    steps = round(arguments.seconds / TRAIN_S)
    finishes = arguments.on_update == "finish"
    sizes = {"workers": arguments.workers, "standby": arguments.standby, "finishes": finishes}
    calm = run_once(steps, **sizes, every_s=None)
    struck = run_once(steps, **sizes, every_s=arguments.every_s)
    short = max(steps // 5, STALENESS + 3)
    others = [run_once(short, **sizes, every_s=None) for _ in range(arguments.others)]
    print(report(calm, struck, others))


if __name__ == "__main__":
    main()
