"""One run that is killed 200 times at random moments, and goes on each time from what is on the disk.

python kill_points.py FOLDER SEED LIVES

Loop, window, ledger, checkpoints and logs are the real ones; the workers are threads that take a while, longer for
longer responses, and get ready in any order. A life is a forked process that ends by `os._exit`, as SIGKILL would end
it. What the model has learned is a list of the numbers that it was trained on: it lies in the checkpoints alone, so
that it tells what was lost or trained twice whatever the ledger says. The last line printed is JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from loop_fakes import FakeEncoder, Fakes, configure, run_loop

from videor2_rl.config.runs import GrpoRun
from videor2_rl.run import checkpoint
from videor2_rl.run.files import FileSum
from videor2_rl.training import upkeep
from videor2_rl.training.ledger import StepEnds, append_step, read_ends
from videor2_rl.training.protocols import ScoredGroups, Workers
from videor2_rl.types import Group, LostPrompt, PromptHandle, Rollout, SkippedSample, TrainGroup, VideoSample

NUM_STEPS, PROMPTS_PER_STEP, GROUP_SIZE, NUM_SAMPLES = 400, 3, 2, 90
SKIPPED = frozenset({"s7", "s31", "s32", "s33"})
PLACES = ("prepare", "encode", "generate", "score", "update", "updated", "sync", "synced", "save", "latest", "ledger")
KILLED = 77


def length_of(number: int, place: int) -> int:
    """Tokens of a response: most are short, a few are long."""
    return min(200, 1 + int(np.random.default_rng((number, place)).pareto(1.2) * 4))


@dataclass
class Life:
    """Ends the process the `count`-th time that something happens at `place`."""

    place: str
    count: int

    def at(self, place: str) -> None:
        if place == self.place:
            self.count -= 1
            if self.count == 0:
                os._exit(KILLED)


@dataclass
class Simulated(Fakes):
    """Workers that take their time."""

    life: Life = field(default_factory=lambda: Life("", 0))
    trained: list[int] = field(default_factory=list)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8))

    def _later(self, place: str, wait_s: float, value: Any) -> Future[Any]:
        def work() -> Any:
            time.sleep(wait_s)
            self.life.at(place)
            return value

        return self.threads.submit(work)

    def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
        return [self._later("prepare", 1e-4, outcome) for outcome in map(Future.result, super().begin_prepare(samples))]

    def begin_generate(self, prompts: Sequence[PromptHandle], **request: Any) -> Future[list[Group | LostPrompt]]:
        ids = request["group_ids"]
        groups = [self._group(number, prompt) for number, prompt in zip(ids, prompts, strict=True)]
        longest = max(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
        return self._later("generate", longest * 2e-5, groups)

    def _group(self, number: int, prompt: PromptHandle) -> Group:
        rollouts = []
        for place in range(GROUP_SIZE):
            values = np.zeros(length_of(number, place), dtype=np.float32)
            rollouts.append(Rollout(np.arange(len(values)), values, "", "stop", int(self.served)))
        return Group(number, prompt.sample_id, tuple(rollouts))

    def begin_score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], **known: Any
    ) -> Future[ScoredGroups]:
        # Some groups are all right, and are filtered.
        found = super().begin_score(groups, samples, **known).result()
        scored = [
            [scores[1] for _ in scores] if group.group_id % 11 == 5 else scores
            for group, scores in zip(groups, found.scored, strict=True)
        ]
        return self._later("score", 1e-4, replace(found, scored=scored))

    def update(self, groups: Sequence[TrainGroup], **settings: Any) -> dict[str, float]:
        self.life.at("update")
        self.trained += [group.group_id for group in groups]
        self.weight += 1
        self.life.at("updated")
        return {"actor/loss": 0.0, "actor/packed_tokens": 1.0}

    def update_weights(self, source: int) -> None:
        self.life.at("sync")
        super().update_weights(source)
        self.life.at("synced")

    def save(self, path: Path) -> None:
        (path / "weight").write_text(json.dumps({"weight": self.weight, "trained": self.trained}))
        self.saving = path / "weight"

    def finish_save(self) -> Mapping[str, FileSum]:
        self.life.at("save")
        return super().finish_save()

    def load(self, path: Path) -> None:
        state = json.loads((path / "weight").read_text())
        self.weight, self.trained = state["weight"], state["trained"]

    def workers(self, *, with_reference: bool = True) -> Workers:
        return Workers(self, SlowEncoder(self), self, self, self, None)


@dataclass
class SlowEncoder(FakeEncoder):
    def begin_encode(self, prompts: Sequence[PromptHandle]) -> Future[list[PromptHandle]]:
        assert isinstance(self.fakes, Simulated)
        return self.fakes._later("encode", 1e-4, self.fakes.encode(prompts))


def live(run: GrpoRun, life: Life) -> None:
    """One process's part of the run."""
    move, write_line = checkpoint.write_text_atomic, append_step

    def write_text_atomic(path: Path, text: str) -> None:
        life.at("latest")
        move(path, text)

    def append(run_dir: Path, step: int, ends: StepEnds) -> None:
        write_line(run_dir, step, ends)
        life.at("ledger")

    checkpoint.write_text_atomic = write_text_atomic
    upkeep.append_step = append
    run_loop(run, Simulated(skip=SKIPPED, life=life), num_samples=NUM_SAMPLES)


def configured(folder: Path) -> GrpoRun:
    sizes = [f"algorithm.num_steps={NUM_STEPS}", f"algorithm.prompts_per_step={PROMPTS_PER_STEP}"]
    staleness = ["algorithm.max_staleness=2", "algorithm.lookahead=3", "rollout.top_k=0"]
    others = ["algorithm.kl_coefficient=0", "checkpoint.every_steps=2", "algorithm.filter_zero_variance=true"]
    others += [f"algorithm.group_size={GROUP_SIZE}", "logging.rollouts=false", "data.max_skipped_frac=0.5"]
    return configure(folder, *sizes, *staleness, *others)


def fork(run: GrpoRun, life: Life) -> int:
    pid = os.fork()
    if pid == 0:
        log = os.open(f"{run.output_dir}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            live(run, life)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, seed: int, lives: int) -> None:
    run, rng = configured(folder), random.Random(seed)
    killed: Counter[str] = Counter()
    while sum(killed.values()) < lives:
        # Most lives are short, so that the run still has a way to go at the last kill.
        life = Life(rng.choice(PLACES), rng.choice((1, 1, 1, 2, 3)))
        code = fork(run, life)
        assert code in (0, KILLED), folder.with_suffix(".log").read_text()[-3000:]
        if code == 0:
            break
        killed[life.place] += 1
    if sum(killed.values()) == lives:
        assert fork(run, Life("", 0)) == 0, folder.with_suffix(".log").read_text()[-3000:]
    newest = checkpoint.Checkpoints(folder, keep=2).newest()
    assert newest is not None
    trained = json.loads((newest.path / "weight").read_text())["trained"]
    ends = [ends for _, ends in read_ends(folder)]
    print(
        json.dumps(
            {
                "killed": killed,
                "trained": trained,
                "trained_by_the_ledger": sorted(number for one in ends for number in one.trained),
                "skipped": sorted(number for one in ends for number in one.skipped),
                "filtered": sorted(number for one in ends for number in one.filtered),
                "lengths": [length_of(number, place) for number in trained for place in range(GROUP_SIZE)],
                "num_prompts": NUM_STEPS * PROMPTS_PER_STEP,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
