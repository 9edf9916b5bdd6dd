"""GRPO with the Temporal Alignment Reward.

python -m videor2_rl.grpo experiment=demo
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from videor2_rl.app import checked_inputs, finish, hydra_app, open_run
from videor2_rl.config import GrpoRun
from workers.verl_config import check_algorithm


def run_grpo(run: GrpoRun) -> None:
    """Train a policy from `model.path`; everything it leaves lies in `output_dir`."""
    run_dir = Path(run.output_dir)
    samples = checked_inputs(run)
    run = dataclasses.replace(run, algorithm=run.algorithm.with_steps(len(samples)))
    check_algorithm(run.algorithm, max_response_tokens=run.rollout.max_response_tokens)
    with open_run(run, run_dir, resume=run.checkpoint.resume):
        from videor2_rl.checkpoint import Checkpoints
        from videor2_rl.run_folder import SkipLedger
        from videor2_rl.tracking import Tracker
        from videor2_rl.trainer import progress_of, restore, train
        from workers.build import grpo_workers
        from workers.pool import reset_received_bytes

        checkpoints = Checkpoints(run_dir, keep=run.checkpoint.keep)
        newest = checkpoints.newest()
        start = progress_of(newest)
        tracker = Tracker(
            run_dir,
            run.logging,
            total_steps=run.algorithm.num_steps,
            first_step=start.step + 1,
            config=dataclasses.asdict(run),
        )
        # The tracker first: where it cannot start, no engine should have.
        with tracker, grpo_workers(run) as workers:
            restore(workers, newest)
            reset_received_bytes()
            train(
                run,
                workers,
                samples,
                checkpoints=checkpoints,
                start=start,
                tracker=tracker,
                ledger=SkipLedger(run_dir, num_samples=len(samples), max_frac=run.data.max_skipped_frac),
                received_bytes=reset_received_bytes,
            )
            finish(run_dir, export=workers.learner.export if run.checkpoint.export else None)


main = hydra_app("grpo", GrpoRun, run_grpo)

if __name__ == "__main__":
    main()
