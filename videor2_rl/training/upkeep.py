"""What a run does besides learning, each part where it belongs in a step: evaluations, checkpoints, metrics, logs.

A checkpoint is written while the next step's rollouts are generated and scored, and completed before the next update.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from videor2_rl.config.runs import GrpoRun
from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.judge.counts import judge_metrics
from videor2_rl.run.checkpoint import Checkpoint, Checkpoints
from videor2_rl.run.folder import SkipLedger
from videor2_rl.run.rollout_log import rollout_records
from videor2_rl.run.stopping import Stopped, Stopping
from videor2_rl.run.tracking import PhaseTimer, Tracker
from videor2_rl.training.batch import Batch
from videor2_rl.training.collector import collect_if_due
from videor2_rl.training.ledger import Ledger, StepEnds, append_step, close_step
from videor2_rl.training.metrics import grpo_metrics
from videor2_rl.training.periodic_evaluation import PeriodicEvaluation
from videor2_rl.training.protocols import Measured, Workers
from videor2_rl.types import LogProbs, SkippedSample, TrainGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands between two steps."""

    step: int
    """Steps done."""
    policy_version: int
    """Optimiser steps in the policy's weights."""
    skipped: int
    """Samples that could not be used so far."""


@dataclass(frozen=True)
class StepOutcome:
    """What a step went through, for its metrics and its rollout log."""

    batch: Batch
    train_groups: Sequence[TrainGroup]
    old_log_probs: Sequence[LogProbs]
    """Empty where the update found them itself: their gap is then among its metrics."""
    metrics: Future[dict[str, float]]
    """Of the batch: what `begin_metrics` gave."""
    updates: Sequence[Mapping[str, float]]
    """Metrics of each optimiser step."""
    ends: StepEnds


class Upkeep:
    """In the order of a step; the loop calls each method once in it."""

    def __init__(
        self,
        run: GrpoRun,
        workers: Workers,
        *,
        start: Progress,
        num_samples: int,
        checkpoints: Checkpoints,
        tracker: Tracker,
        ledger: Ledger,
        skips: SkipLedger,
        received_bytes: Callable[[], int],
        evaluation: PeriodicEvaluation | None,
        stopping: Stopping,
    ) -> None:
        """
        Args:
            start: where the run stands.
            num_samples: training rows, an epoch.
            checkpoints: where state goes every `checkpoint.every_steps` steps.
            tracker: gets each step's metrics.
            ledger: of the prompts; each step closes its own.
            skips: gets the samples that cannot be used.
            received_bytes: bytes that reached this process since it was last called.
            evaluation: of the policy that a step begins with, and of the last one; None: never.
            stopping: when the run is to end early.
        """
        self._progress = start
        self._last_step_s = 0.0
        self._stopping = stopping
        self._run = run
        self._workers = workers
        self._num_samples = num_samples
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._ledger = ledger
        self._skips = skips
        self._received_bytes = received_bytes
        self._evaluation = evaluation
        self._evaluated: dict[str, float] = {}
        self._writing: Future[None] | None = None
        self._counting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._memory = MemoryWatch(workers)
        self._snapshot_s = 0.0

    @property
    def skipped(self) -> int:
        """Samples that could not be used so far."""
        return self._skips.count

    @contextmanager
    def saved_if_stopped(self) -> Iterator[None]:
        """Around all steps: a run that is stopped writes a checkpoint of its last whole step."""
        try:
            yield
        except Stopped as stop:
            if stop.may_save:
                self._save_now()
            raise

    def before_step(self) -> None:
        """Raises Stopped where there is no time for another step."""
        self._stopping.before_step(self._last_step_s)

    def skip(self, sample: SkippedSample) -> None:
        """Record a sample that cannot be used.

        Raises:
            ConfigError: they are too many.
        """
        self._skips.skip(sample)

    def evaluate_if_due(self, progress: Progress, timer: PhaseTimer) -> None:
        """Respond to the held-out prompts; they are scored while the step's rollouts are generated."""
        if self._evaluation is not None and self._evaluation.is_due(progress.step):
            with timer.phase("evaluate"):
                self._evaluation.generate(progress.step)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Around the wait for a step's scores: what was learned since the last checkpoint stays if the judge goes."""
        try:
            self._evaluated = {} if self._evaluation is None else self._evaluation.metrics()
            yield
        except JudgeDown:
            self._save_now()
            raise

    def complete_checkpoint(self, timer: PhaseTimer) -> None:
        """The checkpoint under way becomes the newest, before an update changes what it is written from."""
        with timer.phase("save"):
            self._checkpoints.complete()

    def undivided(self) -> AbstractContextManager[None]:
        """Around what makes a step whole: who stops the run waits for its end."""
        return self._stopping.undivided()

    def begin_metrics(self, batch: Batch, old: Sequence[LogProbs], ref: Sequence[LogProbs]) -> Future[dict[str, float]]:
        """What can be counted of a batch is counted while the learner trains on it: of thousands of responses it takes
        a while, in which the learner would wait.

        Args:
            old: log-probs of the learner before the update; empty where the update finds them itself.
            ref: of the reference; empty without one.
        """
        return self._counting.submit(
            grpo_metrics,
            batch.groups,
            batch.scored.scored,
            log_probs=old,
            ref_log_probs=ref,
            is_tempered=self._run.rollout.is_tempered,
            policy_version=self._progress.policy_version,
        )

    def finish_step(self, progress: Progress, outcome: StepOutcome, timer: PhaseTimer) -> None:
        """Log rollouts and metrics, evaluate after the last step, and begin a checkpoint where one is due."""
        run, workers, batch = self._run, self._workers, outcome.batch
        self._progress = progress
        if not batch.groups:
            logger.warning("step %d: none of its samples can be used (skipped.jsonl says why)", progress.step)
        close_step(self._ledger, outcome.ends)
        append_step(Path(run.output_dir), progress.step, outcome.ends)
        self._write_rollouts(progress, outcome)
        if self._evaluation is not None and progress.step == run.algorithm.num_steps:
            with timer.phase("evaluate_last"):
                self._evaluation.generate(progress.step)
            self._evaluated |= final_metrics(self._evaluation)
        metrics = {
            **outcome.metrics.result(),
            **mean_of(outcome.updates),
            **self._evaluated,
            **judge_metrics(batch.scored.counts),
            **workers.encoder.metrics(),
            **workers.rollouts.metrics(),
            "actor/policy_version": progress.policy_version,
            "data/decodes_per_clip": workers.videos.decodes_per_clip(),
            "data/skipped": progress.skipped,
            "data/in_flight": self._ledger.in_flight,
            "data/filtered": len(outcome.ends.filtered),
            "data/epoch": progress.step * run.algorithm.prompts_per_step / self._num_samples,
            "perf/driver_received_bytes": self._received_bytes(),
            **self._memory.taken(),
            "timing_s/snapshot": self._snapshot_s,
            **timings(outcome, timer.metrics(), is_synchronous=run.algorithm.max_staleness == 0),
        }
        self._tracker.log(progress.step, metrics)
        self._last_step_s = metrics["timing_s/step"]
        # After the metrics: a run killed in between writes this step's row again, and never lacks one.
        self._snapshot_s = self._save_if_due(progress)
        collect_if_due(progress.step)

    def _write_rollouts(self, progress: Progress, outcome: StepOutcome) -> None:
        """Begin to write a step's rollouts, behind what is being scored; those of the last step are waited for."""
        batch, logging_config = outcome.batch, self._run.logging
        token_values = self._workers.learner.take_token_values()
        if batch.groups and (logging_config.rollouts or logging_config.trackers):
            is_tempered = self._run.rollout.is_tempered
            known = {one.group_id: one.at_temperature if is_tempered else one.raw for one in outcome.old_log_probs}
            records = rollout_records(
                batch.groups, batch.samples, batch.scored.scored, outcome.train_groups, learner_log_probs=known
            )
            self._tracker.log_rollouts(progress.step, records)
            if logging_config.rollouts:
                self._await_rollouts()
                path = Path(self._run.output_dir) / "rollouts" / f"step_{progress.step:06d}.jsonl"
                self._writing = self._workers.rewards.begin_write_rollouts(
                    path, records, batch.prompts, token_values=token_values
                )
        if progress.step == self._run.algorithm.num_steps:
            self._await_rollouts()

    def _await_rollouts(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _save_if_due(self, progress: Progress) -> float:
        """Begin a checkpoint; returns the seconds that taking the state took."""
        every = self._run.checkpoint.every_steps
        if every == 0 or (progress.step % every and progress.step != self._run.algorithm.num_steps):
            return 0.0
        started = time.perf_counter()
        self._begin_checkpoint(progress)
        return time.perf_counter() - started

    def _save_now(self) -> None:
        """Write a checkpoint of the whole steps so far unless there is one, or the run keeps none."""
        step = self._progress.step
        if self._run.checkpoint.every_steps and step > 0 and not self._checkpoints.has(step):
            self._begin_checkpoint(self._progress)
        self._checkpoints.complete()

    def _begin_checkpoint(self, progress: Progress) -> None:
        """What is on its way beyond the ledger's frontier is issued again by a run that goes on from here: samples and
        seeds follow from the numbers."""
        self._await_rollouts()
        state = {
            "policy_version": progress.policy_version,
            "skipped": progress.skipped,
            "ledger": self._ledger.state(),
        }
        self._checkpoints.begin(progress.step, state, self._workers.learner)


def timings(outcome: StepOutcome, measured: Mapping[str, float], *, is_synchronous: bool) -> dict[str, float]:
    """Where a step's time went, and tokens a second: sampled while the step's groups were sampled; trained, a prompt
    once for all its responses, while updating.

    In the synchronous loop the wait for groups is what their parts took one after the other (`timing_s/prepare`, ...).
    Where they overlap with training, `timing_s/wait` is what is left of it, `timing_s/group_<part>` what each part took
    of a group's way, and a learner that waits is idle.

    Args:
        measured: of the main thread, `timing_s/step` among them.
    """
    timings, batch = dict(measured), outcome.batch
    step_s = timings["timing_s/step"]
    if is_synchronous:
        del timings["timing_s/wait"]
        timings |= {f"timing_s/{name}": seconds for name, seconds in batch.seconds.items()}
        sampling_s = batch.seconds.get("generate", 0.0)
    else:
        timings |= {f"timing_s/group_{name}": seconds for name, seconds in batch.seconds.items()}
        sampling_s = step_s
    busy = sum(timings.get(f"timing_s/{name}", 0.0) for name in ("old_log_probs", "update"))
    timings["perf/learner_idle_frac"] = 1 - busy / max(step_s, 1e-9)
    if sampling_s:
        mean = outcome.metrics.result().get("rollout/response_tokens_mean", 0.0)
        sampled = mean * sum(len(group.rollouts) for group in batch.groups)
        timings["perf/rollout_tokens_per_s"] = sampled / max(sampling_s, 1e-9)
    if outcome.updates:
        trained = sum(update["actor/packed_tokens"] for update in outcome.updates)
        timings["perf/learner_tokens_per_s"] = trained / max(timings["timing_s/update"], 1e-9)
    return timings


def memory_of(workers: Workers) -> dict[str, float]:
    """The most that one process of each part takes, in MiB: `perf/<part>_rss_mib`, and `_gpu_mib` on GPUs."""
    parts: dict[str, Measured] = {
        "video": workers.videos,
        "rollout": workers.rollouts,
        "reward": workers.rewards,
        "learner": workers.learner,
        **({} if workers.reference is None else {"reference": workers.reference}),
    }
    memory = {f"perf/{name}_{kind}_mib": mib for name, part in parts.items() for kind, mib in part.memory().items()}
    return {"perf/driver_rss_mib": psutil.Process().memory_info().rss / 2**20, **memory}


class MemoryWatch:
    """`memory_of` in a thread of its own: a part that is busy answers late, and nobody waits for it."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._thread = threading.Thread()
        self._answer: dict[str, float] = {}

    def taken(self) -> dict[str, float]:
        """What the parts answered last, and ask again; the first answer is waited for."""
        if not self._answer:
            self._ask()
        elif not self._thread.is_alive():
            # A daemon: nobody waits for it at the end of the process.
            self._thread = threading.Thread(target=self._ask_again, name="memory", daemon=True)
            self._thread.start()
        return self._answer

    def _ask_again(self) -> None:
        # A part that is gone is noticed by whoever needs it next; at a run's end by nobody.
        with suppress(Exception):
            self._ask()

    def _ask(self) -> None:
        self._answer = memory_of(self._workers)


def progress_of(checkpoint: Checkpoint | None) -> Progress:
    """Where a run stood when the checkpoint was written; None: at the model's own weights."""
    if checkpoint is None:
        return Progress(step=0, policy_version=0, skipped=0)
    return Progress(checkpoint.step, checkpoint.state["policy_version"], checkpoint.state["skipped"])


def restore(workers: Workers, checkpoint: Checkpoint | None, *, is_rebuilt: bool = False) -> None:
    """Bring learner and rollout workers to the checkpoint's weights, or without one to the model's own.

    Args:
        is_rebuilt: rollout workers hold later weights than the learner, which was started anew.
    """
    if checkpoint is not None:
        logger.info("going on after step %d from %s", checkpoint.step, checkpoint.path)
        workers.learner.load(checkpoint.path)
    if checkpoint is not None or is_rebuilt:
        workers.rollouts.update_weights(workers.learner.weights(progress_of(checkpoint).policy_version))


def final_metrics(evaluation: PeriodicEvaluation) -> dict[str, float]:
    """Of the policy at the end; none where the judge is down: the training is done, and can be evaluated later."""
    try:
        return {f"final_{name}": value for name, value in evaluation.metrics().items()}
    except JudgeDown as error:
        logger.warning("the last evaluation has no scores: %s", error)
        return {}


def mean_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the updates of a step; empty when there was none."""
    names = metrics[0] if metrics else ()
    return {name: float(np.mean([update[name] for update in metrics])) for name in names}
