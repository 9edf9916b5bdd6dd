"""CPU time of one GRPO step's learning: reference log-probs, loss, gradients, optimiser.

    python -m benchmarks.learner_step [--trl PYTHON]

One rank on one thread, through the same worker and engines as in a run, on the two shapes of `shapes.py` in float32
with vision tower and merger frozen. Each backend with packed groups and with one sequence per response, its visual
embeddings computed once and in every pass; with --trl, an interpreter that has trl installed, also TRL's GRPO trainer
(`trl_step.py`). All take turns, so that other load on the machine meets them alike.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import GROUP_SIZE, SHAPES, Shape, make_checkpoint, make_prompts

BACKENDS = ("fsdp2", "deepspeed_zero2")
ADVANTAGES = np.linspace(-1.5, 1.5, GROUP_SIZE, dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """One way to do the step."""

    backend: str
    is_packed: bool
    reuses: bool

    @property
    def name(self) -> str:
        layout = "packed" if self.is_packed else "separate"
        return f"{self.backend} {layout}, tower {'once' if self.reuses else 'every pass'}"


CASES = [Case(backend, packed, reuses) for backend in BACKENDS for packed in (True, False) for reuses in (True, False)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--trl", metavar="PYTHON", help="an interpreter with trl; `make bench` makes one")
    args = parser.parse_args()
    if args.trl and not Path(args.trl).is_file():
        parser.error(f"--trl: there is no {args.trl}; `make bench` makes that environment")
    one_rank_environment()
    import torch

    torch.set_num_threads(1)
    for name in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            make_checkpoint(Path(folder), SHAPES[name])
            report(SHAPES[name], measure(SHAPES[name], Path(folder), repeats=args.repeats, trl=args.trl))


def one_rank_environment() -> None:
    """What verl and DeepSpeed read when they are imported."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from workers.learner.verl_config import learner_env

    os.environ.update(learner_env("cpu"), RAY_LOCAL_WORLD_SIZE="1", OMP_NUM_THREADS="1")


def measure(shape: Shape, folder: Path, *, repeats: int, trl: str | None) -> dict[str, list[float]]:
    """CPU seconds of each repetition by case, after a first one that is not counted."""
    workers = {backend: Workers(folder, backend) for backend in BACKENDS}
    groups = make_groups(folder, shape)
    rival = TrlProcess(trl, folder, shape) if trl else None
    found: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        times = {case.name: step(workers[case.backend], groups, case) for case in CASES}
        if rival:
            times |= rival.step()
        if repeat:
            for name, seconds in times.items():
                found.setdefault(name, []).append(seconds)
    if rival:
        rival.process.terminate()
    return found


class Workers:
    """The policy and the reference of one backend."""

    def __init__(self, folder: Path, backend: str) -> None:
        from videor2_rl.app import compose_run
        from videor2_rl.config.runs import GrpoRun
        from workers.learner.rank import LearnerWorker
        from workers.learner.verl_config import learner_worker_config, reference_worker_config

        self.run = compose_run(
            "grpo",
            GrpoRun,
            [
                "cluster=cpu",
                f"learner={backend}",
                "learner.gradient_checkpointing=false",
                "learner.gpus_per_rank=0",
                "learner.max_tokens_per_micro_batch=4096",
                f"model.path={folder}",
                "model.dtype=float32",
                "data.train_file=none",
                "data.media_dir=none",
            ],
        )
        self.policy = LearnerWorker(learner_worker_config(self.run.learner, self.run.model, total_steps=1000))
        self.reference = LearnerWorker(reference_worker_config(self.run.model, backend=backend, cpu_offload=False))
        for worker in (self.policy, self.reference):
            worker.start(0)


def make_groups(folder: Path, shape: Shape) -> list[Any]:
    from videor2_rl.types import PromptHandle, TrainGroup

    return [
        TrainGroup(
            index,
            PromptHandle(prompt.sample_id, prompt.clip_key, len(prompt.token_ids), prompt),
            tuple(responses),
            advantages=ADVANTAGES,
        )
        for index, (prompt, responses) in enumerate(zip(*make_prompts(folder, shape), strict=True))
    ]


def step(workers: Workers, groups: list[Any], case: Case) -> float:
    """CPU seconds of one step, all threads; the optimiser's too."""
    from workers.learner.verl_config import UpdateSpec

    tokens = sum(len(ids) for group in groups for ids in group.response_ids)
    algorithm = replace(
        workers.run.algorithm, max_log_prob_gap_mean=math.inf, max_log_prob_gap_tail=math.inf, importance_cap=None
    )
    spec = UpdateSpec(algorithm, 0.9, tokens, len(groups) * GROUP_SIZE, 1, None)
    started = time.process_time()
    if case.reuses:
        with workers.policy.engine.eval_mode():
            groups = [
                replace(g, prompt=replace(g.prompt, visual=workers.policy.engine.encode(g.prompt.ref))) for g in groups
            ]
    if not case.is_packed:
        groups = [one for group in groups for one in separate(group)]
    ref = workers.reference.log_probs(share(workers, groups), 0.9)
    # The update's own pass gives the old log-probs, and compares the rollouts' with them: here the reference's.
    ready = [
        replace(group, ref_log_probs=r.at_temperature, rollout_log_probs=r.raw)
        for group, r in zip(groups, ref, strict=True)
    ]
    workers.policy.update(share(workers, ready), spec)
    return time.process_time() - started


def separate(group: Any) -> list[Any]:
    """Every response as a sequence with a prompt of its own."""
    return [
        replace(group, response_ids=(ids,), advantages=group.advantages[index : index + 1])
        for index, ids in enumerate(group.response_ids)
    ]


def share(workers: Workers, groups: list[Any]) -> list[Any]:
    from videor2_rl.model.packing import even_micro_batches

    return even_micro_batches([groups], max_tokens=workers.run.learner.max_tokens_per_micro_batch)[0]


class TrlProcess:
    """TRL's trainer in its own environment; does a step when told to."""

    def __init__(self, python: str, folder: Path, shape: Shape) -> None:
        command = [python, "-m", "benchmarks.trl_step", str(folder), shape.name]
        # A process by itself, no rank of ours.
        ours = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def step(self) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print("step", file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("CPU "):
                whole, old = map(float, line.split()[1:])
                return {"TRL": whole, "TRL, no old log-probs": whole - old}
        raise RuntimeError("the TRL process ended; its error stands above")


def report(shape: Shape, found: dict[str, list[float]]) -> None:
    """A line per case: median per group, and how many times the first case's time it is, paired by repetition."""
    first = found[CASES[0].name]
    print(
        f"{shape.name}: {shape.prompts} prompts of {shape.prompt_tokens} tokens ({shape.video_tokens} of video),",
        end=" ",
    )
    print(f"{GROUP_SIZE} x {shape.response_tokens} response tokens; medians of {len(first)}")
    for name, seconds in found.items():
        ratio = statistics.median(mine / base for mine, base in zip(seconds, first, strict=True))
        print(
            f"| {name} | {statistics.median(seconds) / shape.prompts:.3f} CPU-s per group | {ratio:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
