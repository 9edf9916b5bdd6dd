"""Supervised fine-tuning on reasoning that cites timestamps.

python -m videor2_rl.sft experiment=demo_sft
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videor2_rl.app import checked_inputs, finish, hydra_app, open_run
from videor2_rl.config.runs import SftRun
from videor2_rl.run.resume import check_run_dir
from videor2_rl.run.stopping import Stopped, Stopping
from workers.learner.verl_config import check_optimizer, learner_env

if TYPE_CHECKING:
    from videor2_rl.run.checkpoint import Checkpoints
    from videor2_rl.run.folder import SkipLedger
    from videor2_rl.run.tracking import Tracker
    from videor2_rl.types import TrainGroup, VideoSample
    from workers.learner.learner import Learner
    from workers.video import VideoPool

logger = logging.getLogger(__name__)


def run_sft(run: SftRun) -> None:
    """Fine-tune `model.path` on `data.train_file`; everything it leaves lies in `output_dir`."""
    run_dir = Path(run.output_dir)
    check_run_dir(
        run_dir, resume=run.checkpoint.resume, overwrite=run.checkpoint.overwrite, num_steps=run.sft.num_steps
    )
    samples = checked_inputs(run)
    run = dataclasses.replace(run, sft=run.sft.with_steps(len(samples)))
    check_optimizer(run.learner.optimizer)
    # verl, which trackers import too, looks for its platform in the environment.
    os.environ.update(learner_env(run.cluster.device))
    with open_run(run, run_dir, resume=run.checkpoint.resume, overwrite=run.checkpoint.overwrite):
        from videor2_rl.dataset import load_samples
        from videor2_rl.run.checkpoint import Checkpoints
        from videor2_rl.run.folder import SkipLedger
        from videor2_rl.run.resume import origin_of
        from videor2_rl.run.tracking import Tracker
        from workers.build import sft_workers
        from workers.rebuild import train_through_losses

        validation = []
        if run.data.validation_file is not None:
            validation = load_samples(run.data.validation_file, data=run.data)[: run.sft.validation_samples]
        checkpoints = Checkpoints(run_dir, keep=run.checkpoint.keep, origin=origin_of(run, samples))
        newest = checkpoints.newest()
        tracker = Tracker(
            run_dir,
            run.logging,
            total_steps=run.sft.num_steps,
            first_step=1 if newest is None else newest.step + 1,
            config=dataclasses.asdict(run),
        )
        stopping = Stopping(limit_s=run.checkpoint.stop_within_s, max_hours=run.checkpoint.max_hours)
        # The tracker first: where it cannot start, no engine should have.
        with stopping, tracker, sft_workers(run) as (videos, learner):

            def restore() -> None:
                if newest is not None:
                    logger.info("going on after step %d from %s", newest.step, newest.path)
                    learner.load(newest.path)

            def rebuild() -> None:
                nonlocal newest
                learner.rebuild()
                newest = checkpoints.newest()
                restore()
                tracker.rewind(1 if newest is None else newest.step + 1)

            def go_on() -> None:
                ledger = SkipLedger(
                    run_dir,
                    num_samples=len(samples) + len(validation),
                    max_frac=run.data.max_skipped_frac,
                    keep=0 if newest is None else newest.state["skipped"],
                )
                with checkpoints.completed():
                    train(
                        run,
                        videos,
                        learner,
                        samples,
                        validation=validation,
                        done=0 if newest is None else newest.step,
                        checkpoints=checkpoints,
                        tracker=tracker,
                        ledger=ledger,
                        stopping=stopping,
                    )

            restore()
            train_through_losses(go_on, rebuild, max_rebuilds=run.learner.max_rebuilds)
            finish(run_dir, export=learner.export if run.checkpoint.export else None)


def train(
    run: SftRun,
    videos: VideoPool,
    learner: Learner,
    samples: Sequence[VideoSample],
    *,
    validation: Sequence[VideoSample],
    done: int,
    checkpoints: Checkpoints,
    tracker: Tracker,
    ledger: SkipLedger,
    stopping: Stopping,
) -> None:
    """The steps after `done`, one optimiser step each; the loss is the mean over response tokens."""
    from videor2_rl.dataset import SampleOrder
    from videor2_rl.run.tracking import PhaseTimer

    order = SampleOrder(len(samples), seed=run.seed, shuffle=run.data.shuffle)

    def rows(step: int) -> list[VideoSample]:
        return [samples[index] for index in order.batch(step - 1, run.sft.batch_size)]

    def examples(batch: Sequence[VideoSample]) -> list[TrainGroup]:
        return sft_groups(ledger, videos, batch)

    def save(step: int) -> None:
        checkpoints.begin(step, {"skipped": ledger.count, "next_sample": step * run.sft.batch_size}, learner)

    last, step_s = run.sft.num_steps, 0.0
    try:
        for step in range(done + 1, last + 1):
            stopping.before_step(step_s)
            timer = PhaseTimer()
            with timer.phase("prepare"):
                batch = examples(rows(step))
                held_out = examples(validation) if is_due(step, run.sft.validate_every, last=last) else []
            if step < last:
                videos.prefetch(rows(step + 1))
            with timer.phase("save"):
                checkpoints.complete()
            metrics: dict[str, float] = {}
            if batch:
                with timer.phase("encode"):
                    batch = with_embeddings(learner, batch)
                    metrics |= learner.encoder.metrics()
            with stopping.undivided():
                if batch:
                    with timer.phase("update"):
                        metrics |= learner.sft_step(batch)
                done = step
                if held_out:
                    with timer.phase("validate"):
                        metrics["sft/validation_loss"] = learner.sft_loss(with_embeddings(learner, held_out))
                metrics |= {
                    "data/decodes_per_clip": videos.decodes_per_clip(),
                    "data/skipped": ledger.count,
                    "data/epoch": step * run.sft.batch_size / len(samples),
                    **timer.metrics(),
                }
                tracker.log(step, metrics)
                step_s = metrics["timing_s/step"]
                if run.checkpoint.every_steps and is_due(step, run.checkpoint.every_steps, last=last):
                    save(step)
    except Stopped as stop:
        if stop.may_save and run.checkpoint.every_steps and done > 0 and not checkpoints.has(done):
            save(done)
        raise


def sft_groups(ledger: SkipLedger, videos: VideoPool, batch: Sequence[VideoSample]) -> list[TrainGroup]:
    """The usable samples, each as a group of one response: its solution."""
    from videor2_rl.types import TrainGroup

    prompts = ledger.usable(videos.prepare(batch))
    return [
        TrainGroup(group_id=index, prompt=prompt, response_ids=(prompt.solution_ids,))
        for index, prompt in enumerate(prompts)
        if prompt.solution_ids is not None
    ]


def with_embeddings(learner: Learner, groups: Sequence[TrainGroup]) -> list[TrainGroup]:
    """The groups with their clips' visual embeddings, where the learner keeps any."""
    prompts = learner.encoder.encode([group.prompt for group in groups])
    return [dataclasses.replace(group, prompt=prompt) for group, prompt in zip(groups, prompts, strict=True)]


def is_due(step: int, every: int, *, last: int) -> bool:
    """Whether something done every `every` steps (0: only at the end) is done after `step`."""
    return step == last or (every > 0 and step % every == 0)


main = hydra_app("sft", SftRun, run_sft)

if __name__ == "__main__":
    main()
