"""The real loop, window, ledger and dispatch over simulated workers, in virtual time: 8 to 1,000 rollout workers.

    python -m benchmarks.simulate_cluster [--workers 8 32 128 256 1000] [--staleness 0 1 4] [--picture FILE.svg]

Responses have heavy-tailed lengths, a judge takes its time, an update holds the engines, and with --failures so large a
share of the workers is killed or frozen, by turns, while the run goes on. What the controller computes counts as time:
where it were too slow, everybody would wait for it. The table printed is Markdown; benchmarks/simulated_workers.py says
what the workload is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.simulated_loop import configured, samples_of, train_simulated
from benchmarks.simulated_workers import SimOthers, SimRollouts, Workload
from benchmarks.virtual_time import VirtualBackground, VirtualLoop
from videor2_rl.config.runs import GrpoRun


@dataclass(frozen=True)
class Simulated:
    """What the steps between two others came to: those in which the window was first used up, for all workers begin at
    once, and the last ones, while which nothing sets out any more."""

    num_workers: int
    max_staleness: int
    step_s: float
    """Mean over the steps."""
    responses_per_s: float
    learner_idle_frac: float
    rollout_idle_frac: float
    staleness_mean: float
    staleness_max: float
    dispatch_p99_s: float
    """From the moment a call could go to a worker until it did."""
    controller_frac: float
    """Processor time of the controller over the time of the run."""
    replaced: int
    ledger: str


def simulate(
    num_workers: int,
    max_staleness: int,
    *,
    work: Workload,
    steps: int,
    failures: float = 0.0,
    lookahead_steps: float = 0,
    counts_cpu: bool = True,
    seed: int = 0,
) -> Simulated:
    """One run.

    Args:
        steps: that are measured; before them come those in which the window is first used up, and after them as many as
            are under way at the same time.
        failures: share of the workers that is lost while the run trains, at times drawn evenly.
        lookahead_steps: `algorithm.lookahead` in steps: so many steps' younger prompts may go before a straggler.
        counts_cpu: the controller's computing takes time.
    """
    num_steps = steps + 2 * max_staleness + 1
    ends: list[StepEnd] = []
    with contextlib.closing(VirtualLoop(counts_cpu=counts_cpu)) as loop, tempfile.TemporaryDirectory() as folder:
        rollouts = SimRollouts(loop, work, num_workers=num_workers, streams=max_staleness > 0, seed=seed)
        others = SimOthers(loop, work, num_workers=num_workers, seed=seed)
        rng = random.Random(seed)
        run = configured(
            Path(folder),
            num_steps=num_steps,
            prompts_per_step=work.groups_per_worker * num_workers,
            group_size=work.group_size,
            max_staleness=max_staleness,
            num_workers=num_workers,
            lookahead=round(lookahead_steps * work.groups_per_worker * num_workers),
        )
        trains_s = num_steps * _responses(run) / (work.trained_per_worker_s * num_workers)
        times = sorted(loop.time() + rng.uniform(0, trains_s) for _ in range(round(failures * num_workers)))
        striking = loop.create_task(rollouts.strike(times, rng=rng))
        verdict = train_simulated(
            run,
            others.workers(rollouts),
            samples_of(run),
            on_step=lambda: ends.append(StepEnd(loop.time(), loop.cpu_s, others.trained_s, len(rollouts.dispatched_s))),
            background=VirtualBackground(loop),
        )
        striking.cancel()
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    measured = slice(max_staleness, max_staleness + steps + 1)
    return _summary(ends[measured], rows[measured], run, rollouts, ledger=verdict)


def _responses(run: GrpoRun) -> int:
    """Responses of a step."""
    return run.algorithm.prompts_per_step * run.algorithm.group_size


@dataclass(frozen=True)
class StepEnd:
    """Where a run stood when a step ended; all since the start."""

    time_s: float
    cpu_s: float
    trained_s: float
    num_dispatched: int


def _summary(
    ends: Sequence[StepEnd], rows: Sequence[dict[str, float]], run: GrpoRun, rollouts: SimRollouts, *, ledger: str
) -> Simulated:
    """
    Args:
        ends: of the step before those that are measured, and theirs.
        rows: the same steps' metrics.
    """
    before, after, later = ends[0], ends[-1], rows[1:]
    elapsed = after.time_s - before.time_s
    dispatched_s = rollouts.dispatched_s[before.num_dispatched : after.num_dispatched]
    return Simulated(
        num_workers=run.rollout.num_workers,
        max_staleness=run.algorithm.max_staleness,
        step_s=elapsed / len(later),
        responses_per_s=len(later) * _responses(run) / elapsed,
        learner_idle_frac=1 - (after.trained_s - before.trained_s) / elapsed,
        rollout_idle_frac=float(np.mean([row["perf/rollout_idle_frac"] for row in later])),
        staleness_mean=float(np.mean([row["rollout/staleness_mean"] for row in later])),
        staleness_max=max(row["rollout/staleness_max"] for row in rows),
        dispatch_p99_s=float(np.quantile(dispatched_s, 0.99)),
        controller_frac=(after.cpu_s - before.cpu_s) / elapsed,
        replaced=rollouts.pool.replacements,
        ledger=ledger,
    )


def table(found: Sequence[Simulated]) -> str:
    """Markdown; the speed beside that of the synchronous loop with as many workers, where it was simulated."""
    base = {one.num_workers: one.step_s for one in found if one.max_staleness == 0}
    lines = [
        "| workers | `max_staleness` | s a step | beside 0 | responses/s | learner idle | rollouts idle | staleness "
        "mean, max | dispatch p99 | controller |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        ratio = f"{base[one.num_workers] / one.step_s:.2f}x" if one.num_workers in base else "-"
        lines.append(
            f"| {one.num_workers} | {one.max_staleness} | {one.step_s:.1f} | {ratio} | {one.responses_per_s:,.0f} "
            f"| {one.learner_idle_frac:.1%} | {one.rollout_idle_frac:.1%} "
            f"| {one.staleness_mean:.2f}, {one.staleness_max:.0f} | {one.dispatch_p99_s * 1000:.1f} ms "
            f"| {one.controller_frac:.1%} |"
        )
    return "\n".join(lines)


def draw(found: Sequence[Simulated], file: Path) -> None:
    """Responses a second and the learner's idle share over the number of workers, a line for each staleness."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    speed, idle = figure.subplots(1, 2)
    for staleness in sorted({one.max_staleness for one in found}):
        its = [one for one in found if one.max_staleness == staleness]
        workers = [one.num_workers for one in its]
        name = f"max_staleness {staleness}"
        speed.loglog(workers, [one.responses_per_s for one in its], marker="o", label=name)
        idle.semilogx(workers, [one.learner_idle_frac for one in its], marker="o", label=name)
    speed.set(xlabel="rollout workers", ylabel="responses a second")
    idle.set(xlabel="rollout workers", ylabel="share of the time that the learner waits", ylim=(0, 1))
    for axes in (speed, idle):
        axes.grid(alpha=0.3)
    speed.legend()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 32, 128, 256, 1000])
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--steps", type=int, default=5, help="that are measured")
    parser.add_argument("--failures", type=float, default=0.0, help="share of the workers lost meanwhile, e.g. 0.1")
    parser.add_argument("--lookahead", type=float, default=0, help="steps' younger prompts that go before stragglers")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    # What is lost is counted, and not told one by one.
    logging.disable(logging.WARNING)
    found = []
    for num_workers in arguments.workers:
        for staleness in arguments.staleness:
            one = simulate(
                num_workers,
                staleness,
                work=Workload(),
                steps=arguments.steps,
                failures=arguments.failures,
                lookahead_steps=arguments.lookahead,
            )
            found.append(one)
            print(one, flush=True)
    print(table(found))
    if arguments.picture:
        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
