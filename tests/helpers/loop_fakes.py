"""The GRPO loop over fakes that satisfy its protocols."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rewards.types import Scored, Verdict
from videor2_rl.app import compose_run
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.runs import GrpoRun
from videor2_rl.judge.counts import CallCounts
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum, file_sum
from videor2_rl.run.folder import SkipLedger
from videor2_rl.run.stopping import Stopping
from videor2_rl.run.tracking import Tracker
from videor2_rl.training.gap import check_gap, gap_metrics, gap_of, part_of_gap
from videor2_rl.training.ledger import Ledger, check_ledger, remove_steps_after
from videor2_rl.training.periodic_evaluation import PeriodicEvaluation
from videor2_rl.training.protocols import ScoredGroups, Workers
from videor2_rl.training.trainer import (
    train,
)
from videor2_rl.training.upkeep import Upkeep, progress_of, restore
from videor2_rl.types import (
    Group,
    LogProbs,
    LostPrompt,
    PromptHandle,
    Rollout,
    SamplingSpec,
    SkippedSample,
    TrainGroup,
    VideoSample,
)


def rollout(*, version: int = 0, reason: Any = "stop", log_probs: Sequence[float] = (-1.0, -2.0)) -> Rollout:
    values = np.array(log_probs, dtype=np.float32)
    return Rollout(np.arange(len(values)), values, "text", reason, version)


NO_METRICS = dict.fromkeys(("tac", "tar_precision", "tar_recall", "tar_f1", "format"))


def scored(reward: float | None) -> Scored:
    verdict = Verdict("failure" if reward is None else "score", reward)
    return Scored(reward, {"accuracy": verdict, "temporal_alignment": verdict}, {**NO_METRICS, "accuracy": reward})


@dataclass
class Begun:
    """Log-probs that somebody may ask for later."""

    fakes: Fakes
    values: list[LogProbs]

    def result(self) -> list[LogProbs]:
        self.fakes.calls.append("ref_log_probs")
        return self.values


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@dataclass
class FakeEncoder:
    fakes: Fakes

    def begin_encode(self, prompts: Sequence[PromptHandle]) -> Future[list[PromptHandle]]:
        return done(self.fakes.encode(prompts))

    def metrics(self) -> Mapping[str, float]:
        return {"data/encodings_per_clip": 1.0}


@dataclass
class Fakes:
    """All parts but the encoder in one: one weight that each update adds 1 to, and a log of what was asked."""

    weight: float = 0.0
    served: float = 0.0
    calls: list[str] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)
    skip: frozenset[str] = frozenset()
    fatal: frozenset[str] = frozenset()
    """No engine survives them."""
    gap: float = 0.0
    saving: Path = Path()

    def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
        self.calls.append("prepare")
        return [
            done(
                SkippedSample(s.sample_id, s.video, "empty", "")
                if s.sample_id in self.skip
                else PromptHandle(s.sample_id, s.sample_id, 4, None)
            )
            for s in samples
        ]

    def prepare(self, samples: Sequence[VideoSample]) -> list[PromptHandle | SkippedSample]:
        return [future.result() for future in self.begin_prepare(samples)]

    def prefetch(self, samples: Sequence[VideoSample]) -> None:
        self.calls.append(f"prefetch {','.join(s.sample_id for s in samples)}")

    def decodes_per_clip(self) -> float:
        return 1.0

    def memory(self) -> Mapping[str, float]:
        return {"rss": 5.0}

    def generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> list[Group]:
        self.calls.append(f"generate v{self.served:g} {','.join(p.sample_id for p in prompts)}")
        return [
            Group(i, p.sample_id, tuple(rollout(version=int(self.served)) for _ in range(sampling.group_size)))
            for i, p in zip(group_ids, prompts, strict=True)
        ]

    def begin_generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> Future[list[Group | LostPrompt]]:
        groups = self.generate(prompts, group_ids=group_ids, sampling=sampling, seed=seed)
        return done([LostPrompt(g.sample_id, "4 were lost") if g.sample_id in self.fatal else g for g in groups])

    def admit_joiners(self) -> None:
        self.calls.append("admit_joiners")

    def update_weights(self, source: int) -> None:
        self.calls.append(f"sync v{source}")
        self.served = source

    def metrics(self) -> Mapping[str, float]:
        return {"perf/sync_mib": 8.0}

    def score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> list[list[Scored]]:
        self.calls.append("score")
        self.steps.append(step)
        return [[scored(float(index)) for index in range(len(group.rollouts))] for group in groups]

    def begin_score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> Future[ScoredGroups]:
        return done(ScoredGroups(self.score(groups, samples, step=step), CallCounts(replies=3)))

    def check(self, scored: ScoredGroups) -> None:
        pass

    def begin_write_rollouts(
        self, path: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptHandle], *, token_values: Any
    ) -> Future[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(dict(record)) + "\n" for record in records))
        return done(None)

    def take_token_values(self) -> Sequence[Any]:
        return ()

    def log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]:
        self.calls.append("log_probs")
        return self._log_probs(groups)

    def begin_log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> Begun:
        self.calls.append("begin_log_probs")
        return Begun(self, self._log_probs(groups))

    def _log_probs(self, groups: Sequence[TrainGroup]) -> list[LogProbs]:
        assert all(group.prompt.visual == f"embeddings of {group.prompt.clip_key}" for group in groups)
        values = np.array([-1.0, -2.0 + self.gap], dtype=np.float32)
        return [LogProbs(g.group_id, (values,) * len(g.response_ids), (values,) * len(g.response_ids)) for g in groups]

    def encode(self, prompts: Sequence[PromptHandle]) -> list[PromptHandle]:
        self.calls.append("encode")
        return [replace(prompt, visual=f"embeddings of {prompt.clip_key}") for prompt in prompts]

    def update(
        self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float, is_tempered: bool = False
    ) -> dict[str, float]:
        self.calls.append("update")
        assert all(group.prompt.visual == f"embeddings of {group.prompt.clip_key}" for group in groups)
        gap = {}
        if groups[0].old_log_probs is None:
            found = gap_of([part_of_gap([np.array([0.0, self.gap])], [(0, "s0", 0, np.arange(2))])])
            check_gap(found, algorithm)
            gap = gap_metrics(found)
        self.weight += 1
        return {"actor/loss": self.weight, "actor/packed_tokens": 10.0, **gap}

    def weights(self, policy_version: int) -> int:
        assert policy_version == self.weight
        return policy_version

    def save(self, path: Path) -> None:
        self.calls.append("save")
        (path / "weight").write_text(str(self.weight))
        self.saving = path / "weight"

    def finish_save(self) -> Mapping[str, FileSum]:
        self.calls.append("finish_save")
        return {"weight": file_sum(self.saving)}

    def load(self, path: Path) -> None:
        self.weight = float((path / "weight").read_text())

    def export(self, path: Path) -> None:
        raise NotImplementedError

    def workers(self, *, with_reference: bool = True) -> Workers:
        return Workers(self, FakeEncoder(self), self, self, self, self if with_reference else None)


def configure(tmp_path: Path, *overrides: str) -> GrpoRun:
    defaults = ["model.path=m", "data.train_file=t", "data.media_dir=d", f"output_dir={tmp_path}"]
    sizes = ["algorithm.num_steps=6", "algorithm.prompts_per_step=2", "algorithm.group_size=2"]
    run = compose_run("grpo", GrpoRun, [*defaults, *sizes, "checkpoint.every_steps=2", *overrides])
    return run.with_importance_cap()


def samples(count: int) -> list[VideoSample]:
    return [VideoSample(f"s{index}", f"/clips/{index}.mp4", "?", "<answer>A</answer>") for index in range(count)]


def run_loop(run: GrpoRun, fakes: Fakes, *, num_samples: int = 8) -> None:
    run_dir = Path(run.output_dir)
    checkpoints = Checkpoints(run_dir, keep=run.checkpoint.keep)
    workers = fakes.workers(with_reference=run.algorithm.kl_coefficient > 0)
    newest = checkpoints.newest()
    start = progress_of(newest)
    restore(workers, newest)
    logging, steps = run.logging, run.algorithm.num_steps
    remove_steps_after(run_dir, start.step)
    ledger = Ledger(None if newest is None else newest.state["ledger"])
    skips = SkipLedger(run_dir, num_samples=num_samples, max_frac=run.data.max_skipped_frac, keep=start.skipped)
    with (
        Stopping(limit_s=60, max_hours=run.checkpoint.max_hours) as stopping,
        Tracker(run_dir, logging, total_steps=steps, first_step=start.step + 1) as tracker,
        checkpoints.completed(),
    ):
        upkeep = Upkeep(
            run,
            workers,
            start=start,
            num_samples=num_samples,
            checkpoints=checkpoints,
            tracker=tracker,
            ledger=ledger,
            skips=skips,
            received_bytes=lambda: 7,
            evaluation=evaluation(run, fakes) if run.evaluation.every_steps else None,
            stopping=stopping,
        )
        with upkeep.saved_if_stopped():
            train(run, workers, samples(num_samples), start=start, ledger=ledger, upkeep=upkeep)
    check_ledger(run_dir, num_prompts=steps * run.algorithm.prompts_per_step)


def evaluation(run: GrpoRun, fakes: Fakes) -> PeriodicEvaluation:
    return PeriodicEvaluation(
        run.evaluation,
        [replace(sample, sample_id=f"held-{sample.sample_id}") for sample in samples(2)],
        run_dir=Path(run.output_dir),
        videos=fakes,
        rollouts=fakes,
        rewards=fakes,
        max_tokens=8,
        max_skipped_frac=0.5,
        seed=0,
        card={},
    )
