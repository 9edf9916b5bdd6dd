"""The real loop with all that surrounds it, over workers that only take their time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rewards.types import Scored, Verdict
from videor2_rl.app import compose_run
from videor2_rl.background import BackgroundLoop
from videor2_rl.config.runs import GrpoRun
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.folder import SkipLedger
from videor2_rl.run.stopping import Stopping
from videor2_rl.run.tracking import Tracker
from videor2_rl.training.ledger import Ledger, check_ledger
from videor2_rl.training.protocols import ScoredGroups, Workers
from videor2_rl.training.trainer import train
from videor2_rl.training.upkeep import Progress, StepOutcome, Upkeep
from videor2_rl.types import PromptHandle, SkippedSample, VideoSample


class _Told(Upkeep):
    """Says when a step has ended."""

    def __init__(self, on_step: Callable[[], None], *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._on_step = on_step

    def finish_step(self, progress: Progress, outcome: StepOutcome, timer: Any) -> None:
        super().finish_step(progress, outcome, timer)
        self._on_step()


class Attending:
    """What the loop may ask of video and reward workers, encoder and learner, as far as it takes no time here."""

    def prepare(self, samples: Sequence[VideoSample]) -> list[PromptHandle | SkippedSample]:
        raise NotImplementedError("nothing is evaluated here")

    def prefetch(self, samples: Sequence[VideoSample]) -> None:
        pass

    def decodes_per_clip(self) -> float:
        return 1.0

    def metrics(self) -> Mapping[str, float]:
        return {}

    def memory(self) -> Mapping[str, float]:
        return {}

    def check(self, scored: ScoredGroups) -> None:
        pass

    def score(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("nothing is evaluated here")

    def take_token_values(self) -> Sequence[Any]:
        return ()

    def begin_write_rollouts(self, path: Path, *_: Any, **__: Any) -> Future[None]:
        raise NotImplementedError("no rollouts are logged here")

    def weights(self, policy_version: int) -> int:
        return policy_version


def train_simulated(
    run: GrpoRun,
    workers: Workers,
    samples: Sequence[VideoSample],
    *,
    on_step: Callable[[], None] = lambda: None,
    background: BackgroundLoop | None = None,
) -> str:
    """All steps; what the ledger that was written says of them in the end.

    Args:
        on_step: called after each step.
        background: as `videor2_rl.training.trainer.train`.

    Raises:
        LedgerError: a prompt was lost, or trained twice.
    """
    folder, num_steps = Path(run.output_dir), run.algorithm.num_steps
    ledger, start = Ledger(), Progress(step=0, policy_version=0, skipped=0)
    with (
        Stopping(limit_s=60, max_hours=None) as stopping,
        Tracker(folder, run.logging, total_steps=num_steps, first_step=1) as tracker,
    ):
        upkeep = _Told(
            on_step,
            run,
            workers,
            start=start,
            num_samples=len(samples),
            checkpoints=Checkpoints(folder, keep=1),
            tracker=tracker,
            ledger=ledger,
            skips=SkipLedger(folder, num_samples=len(samples), max_frac=0.5, keep=0),
            received_bytes=lambda: 0,
            evaluation=None,
            stopping=stopping,
        )
        train(run, workers, samples, start=start, ledger=ledger, upkeep=upkeep, background=background)
    return check_ledger(folder, num_prompts=num_steps * run.algorithm.prompts_per_step)


def configured(
    folder: Path,
    *,
    num_steps: int,
    prompts_per_step: int,
    group_size: int,
    max_staleness: int,
    num_workers: int,
    lookahead: int = 0,
) -> GrpoRun:
    """Without checkpoints, rollout log and reference."""
    return compose_run(
        "grpo",
        GrpoRun,
        [
            "model.path=m",
            "data.train_file=t",
            "data.media_dir=d",
            f"output_dir={folder}",
            f"algorithm.num_steps={num_steps}",
            f"algorithm.prompts_per_step={prompts_per_step}",
            f"algorithm.group_size={group_size}",
            f"algorithm.max_staleness={max_staleness}",
            f"algorithm.lookahead={lookahead}",
            f"rollout.num_workers={num_workers}",
            "rollout.top_k=0",
            "rollout.max_prepared_mib=1000000",
            "algorithm.kl_coefficient=0",
            "logging.rollouts=false",
            "checkpoint.every_steps=0",
        ],
    ).with_importance_cap()


def samples_of(run: GrpoRun) -> list[VideoSample]:
    """A step's."""
    names = [f"s{index}" for index in range(run.algorithm.prompts_per_step)]
    return [VideoSample(name, f"/clips/{name}.mp4", "?", "<answer>A</answer>") for name in names]


def scored_as(reward: float) -> Scored:
    """A response with this reward and accuracy."""
    verdict = Verdict("score", reward)
    metrics = dict.fromkeys(("tac", "tar_precision", "tar_recall", "tar_f1", "format"))
    return Scored(reward, {"accuracy": verdict, "temporal_alignment": verdict}, {**metrics, "accuracy": reward})
