"""GRPO with the Temporal Alignment Reward.

python -m videor2_rl.grpo experiment=demo
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.compose import own_terms
from videor2_rl.app import checked_held_out, checked_inputs, finish, hydra_app, open_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.run.resume import check_run_dir
from videor2_rl.training.window import staleness_bound
from workers.learner.verl_config import check_algorithm, check_optimizer, learner_env

if TYPE_CHECKING:
    from videor2_rl.run.checkpoint import Checkpoint, Checkpoints
    from videor2_rl.run.stopping import Stopping
    from videor2_rl.run.tracking import Tracker
    from videor2_rl.training.periodic_evaluation import PeriodicEvaluation
    from videor2_rl.training.protocols import Workers
    from videor2_rl.types import VideoSample

# Run as a script, this module has another name.
logger = logging.getLogger("videor2_rl.grpo")


def run_grpo(run: GrpoRun) -> None:
    """Train a policy from `model.path`; everything it leaves lies in `output_dir`."""
    run_dir = Path(run.output_dir)
    check_run_dir(
        run_dir,
        resume=run.checkpoint.resume,
        overwrite=run.checkpoint.overwrite,
        num_steps=run.algorithm.num_steps,
    )
    samples = checked_inputs(run)
    run = dataclasses.replace(run, algorithm=run.algorithm.with_steps(len(samples))).with_importance_cap()
    if run.algorithm.cap is None and run.differs_by_design:
        logger.info(
            "no importance weights correct the difference between vLLM and the learner%s",
            ""
            if run.rollout.is_full_softmax
            else f": rollout.top_k={run.rollout.top_k}, top_p={run.rollout.top_p} cut away what cannot be weighed",
        )
    if run.algorithm.max_staleness > 0:
        bound = staleness_bound(
            prompts_per_step=run.algorithm.prompts_per_step,
            max_staleness=run.algorithm.max_staleness,
            lookahead=run.algorithm.lookahead,
        )
        logger.info("rollouts run ahead of the learner by at most %d step%s", bound, "" if bound == 1 else "s")
    held_out = checked_held_out(run)
    check_algorithm(run.algorithm, max_response_tokens=run.rollout.max_response_tokens)
    check_optimizer(run.learner.optimizer)
    # verl, which trackers import too, looks for its platform in the environment.
    os.environ.update(learner_env(run.cluster.device))
    with open_run(run, run_dir, resume=run.checkpoint.resume, overwrite=run.checkpoint.overwrite):
        from videor2_rl.run.checkpoint import Checkpoints
        from videor2_rl.run.resume import origin_of
        from videor2_rl.run.stopping import Stopping
        from videor2_rl.run.tracking import Tracker
        from videor2_rl.training.ledger import check_ledger
        from videor2_rl.training.upkeep import progress_of
        from workers.build import grpo_workers
        from workers.rebuild import train_through_losses

        checkpoints = Checkpoints(run_dir, keep=run.checkpoint.keep, origin=origin_of(run, samples))
        newest = checkpoints.newest()
        tracker = Tracker(
            run_dir,
            run.logging,
            total_steps=run.algorithm.num_steps,
            first_step=progress_of(newest).step + 1,
            config=dataclasses.asdict(run),
            own_terms=own_terms(run.reward),
        )
        stopping = Stopping(limit_s=run.checkpoint.stop_within_s, max_hours=run.checkpoint.max_hours)
        # The tracker first: where it cannot start, no engine should have.
        with stopping, tracker, grpo_workers(run) as workers:
            training = Training(run, workers, samples, held_out, checkpoints, tracker, stopping)
            training.restore(newest)
            train_through_losses(training.go_on, training.rebuild, max_rebuilds=run.learner.max_rebuilds)
            finish(run_dir, export=workers.learner.export if run.checkpoint.export else None)
        # Last, so that what was trained is there whatever it finds.
        num_prompts = run.algorithm.num_steps * run.algorithm.prompts_per_step
        logger.info("%s", check_ledger(run_dir, num_prompts=num_prompts))


@dataclasses.dataclass
class Training:
    """The steps of a run, from a checkpoint on; more than once where ranks are lost."""

    run: GrpoRun
    workers: Workers
    samples: Sequence[VideoSample]
    held_out: Sequence[VideoSample]
    checkpoints: Checkpoints
    tracker: Tracker
    stopping: Stopping
    newest: Checkpoint | None = None

    def restore(self, newest: Checkpoint | None, *, is_rebuilt: bool = False) -> None:
        """Bring workers and files to where a checkpoint was written; None: to the beginning.

        Args:
            is_rebuilt: as `videor2_rl.training.upkeep.restore`.
        """
        from videor2_rl.run.rollout_log import remove_rollouts_after
        from videor2_rl.training.ledger import remove_steps_after
        from videor2_rl.training.upkeep import progress_of, restore

        self.newest, run_dir = newest, Path(self.run.output_dir)
        start = progress_of(newest)
        remove_rollouts_after(run_dir, start.step)
        remove_steps_after(run_dir, start.step)
        restore(self.workers, newest, is_rebuilt=is_rebuilt)

    def rebuild(self) -> None:
        """Start lost ranks anew, and go back to the newest checkpoint."""
        from videor2_rl.training.upkeep import progress_of

        self.workers.rebuild()
        newest = self.checkpoints.newest()
        self.restore(newest, is_rebuilt=True)
        self.tracker.rewind(progress_of(newest).step + 1)

    def go_on(self) -> None:
        """The steps after the checkpoint, to the last one.

        Raises:
            RankLost: of learner or reference.
            Exception: as `videor2_rl.training.trainer.train`.
        """
        from videor2_rl.run.folder import SkipLedger
        from videor2_rl.training.ledger import Ledger
        from videor2_rl.training.trainer import train
        from videor2_rl.training.upkeep import Upkeep, progress_of
        from workers.fetch import reset_received_bytes

        run, workers, start = self.run, self.workers, progress_of(self.newest)
        ledger = Ledger(None if self.newest is None else self.newest.state["ledger"])
        skips = SkipLedger(
            Path(run.output_dir),
            num_samples=len(self.samples),
            max_frac=run.data.max_skipped_frac,
            keep=start.skipped,
        )
        reset_received_bytes()
        with periodic_evaluation(run, workers, self.held_out) as evaluation, self.checkpoints.completed():
            upkeep = Upkeep(
                run,
                workers,
                start=start,
                num_samples=len(self.samples),
                checkpoints=self.checkpoints,
                tracker=self.tracker,
                ledger=ledger,
                skips=skips,
                received_bytes=reset_received_bytes,
                evaluation=evaluation,
                stopping=self.stopping,
            )
            with upkeep.saved_if_stopped():
                train(run, workers, self.samples, start=start, ledger=ledger, upkeep=upkeep)


@contextmanager
def periodic_evaluation(
    run: GrpoRun, workers: Workers, held_out: Sequence[VideoSample]
) -> Iterator[PeriodicEvaluation | None]:
    """Evaluations on `held_out` by the run's own workers; None where none are asked for."""
    if run.evaluation.every_steps == 0:
        yield None
        return
    from videor2_rl.evaluation.summary import run_card
    from videor2_rl.training.periodic_evaluation import PeriodicEvaluation

    evaluation = PeriodicEvaluation(
        run.evaluation,
        held_out,
        run_dir=Path(run.output_dir),
        videos=workers.videos,
        rollouts=workers.rollouts,
        rewards=workers.rewards,
        max_tokens=run.rollout.max_response_tokens,
        max_skipped_frac=run.data.max_skipped_frac,
        seed=run.seed,
        card=run_card(run, temperature=0.0 if run.evaluation.mode == "greedy" else 1.0),
    )
    try:
        yield evaluation
    finally:
        evaluation.close()


main = hydra_app("grpo", GrpoRun, run_grpo)

if __name__ == "__main__":
    main()
