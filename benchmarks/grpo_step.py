"""Seconds of a GRPO step, end to end, beside TRL's trainer: decode, generate, reward, reference, update, weights.

    python -m benchmarks.grpo_step --trl PYTHON [--workload W1 W2] [--steps 9] [--repeats 3] [--judge-latency-s 0]
        [--override "algorithm.max_staleness=1" ...]

Both train the same checkpoint on the same clips (`grpo_workload.py`), in float32 on the machine's cores: groups of 8,
prompts and responses of the same lengths, temperature 0.9, top-k 50, KL to a reference, token-mean loss, vision tower
and merger frozen, one update a step, two judge calls for each response to a stub that answers after a stated time. TRL
runs in an environment of its own (`trl_grpo.py` says how it gets a clip, and what stands in for the paper's reward).
Ours is `python -m videor2_rl.grpo` as a user starts it; each --override, of one or more keys, is one more run of ours.

Whole runs take turns. A step lasts from its predecessor's last line of output to its own, on this process's clock: in a
loop that overlaps phases their own seconds count some time twice. CPU seconds are those of the run's processes, the
judge's left out. Two steps and the last one are left out: the first warms up, the second of a loop that runs ahead was
sampled in the first, and behind the last nothing is under way. Of step and CPU seconds a run's mean counts: where
rollouts run ahead, long steps and short ones take turns, and a median would tell of one kind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.grpo_workload import FPS, frame_pixels, write_workload
from benchmarks.shapes import GROUP_SIZE, PATCH, SHAPES, Shape
from benchmarks.stub_judge import stub_judge

PHASES = ("prepare", "encode", "generate", "reward", "old_log_probs", "ref_log_probs", "update", "sync_weights", "rest")
OUR_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    # Ray's processes would give way to all others on the machine, which TRL's does not.
    "RAY_worker_niceness": "0",
}
WARM_UP = 2
"""First steps that are not counted."""
OVERLAP = 1.02
"""Phases that add up to more than so many times the step overlap."""
_OUR_STEP = re.compile(r"step +(\d+)/")

Step = Mapping[str, float]
"""Seconds by phase, `step`, the whole, and `cpu`; `prompt_tokens` and `response_tokens`, means."""


@dataclass(frozen=True)
class Side:
    """One of those that take turns."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Beside the environment of this process."""
    run_dir: Path | None
    """Where a run of ours leaves its metrics; None: TRL."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workload", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=9, help="of each run, three of them not counted")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--judge-latency-s", type=float, default=0.0, help="seconds that the judge takes for a call")
    parser.add_argument("--override", action="append", default=[], help="a further run of ours: its keys, in quotes")
    parser.add_argument(
        "--trl", metavar="PYTHON", required=True, help="an interpreter with trl; `make bench` makes one"
    )
    args = parser.parse_args()
    if not Path(args.trl).is_file():
        parser.error(f"--trl: there is no {args.trl}; `make bench` makes that environment")
    if args.steps < WARM_UP + 2:
        parser.error(f"--steps: {WARM_UP} and the last one are not counted, so at least {WARM_UP + 2}")
    for name in args.workload:
        with tempfile.TemporaryDirectory(prefix="v") as folder, stub_judge(latency_s=args.judge_latency_s) as judge:
            write(Path(folder), SHAPES[name], steps=args.steps)
            found: dict[str, list[list[Step]]] = {}
            for repeat in range(args.repeats):
                for side in sides(args, SHAPES[name], Path(folder), judge=judge, repeat=repeat):
                    found.setdefault(side.name, []).append(measure(side, SHAPES[name], log=Path(folder) / "log"))
            print(report(SHAPES[name], found, judge_latency_s=args.judge_latency_s), flush=True)


def write(folder: Path, shape: Shape, *, steps: int) -> None:
    """Checkpoint, clips and rows, without what transformers says of them."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    write_workload(folder, shape, steps=steps)


def sides(args: argparse.Namespace, shape: Shape, folder: Path, *, judge: str, repeat: int) -> Iterator[Side]:
    """In the order of their turns, which is another one in the next repeat."""
    runs = []
    for index, extra in enumerate(["", *args.override]):
        run_dir = folder / f"run-{repeat}-{index}"
        overrides = our_overrides(shape, folder, run_dir, judge=judge, steps=args.steps)
        command = (sys.executable, "-m", "videor2_rl.grpo", *overrides, *extra.split())
        runs.append(Side(" ".join(["ours", *extra.split()]), command, OUR_ENVIRONMENT, run_dir))
    command = (args.trl, "-m", "benchmarks.trl_grpo", str(folder), shape.name, "--judge", judge)
    # Threads that wait for each other sleep, as ours do: where others want the cores, spinning costs ten times as much.
    waiting = os.environ.get("OMP_WAIT_POLICY", "passive")
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "OMP_WAIT_POLICY": waiting}
    runs.append(Side("TRL", (*command, "--steps", str(args.steps)), threads, None))
    yield from runs if repeat % 2 == 0 else reversed(runs)


def our_overrides(shape: Shape, folder: Path, run_dir: Path, *, judge: str, steps: int) -> list[str]:
    """A run of ours that does what TRL's side does, and writes neither checkpoints nor rollouts, as TRL's does not."""
    height, width = frame_pixels(shape)
    return [
        "experiment=smoke",
        f"output_dir={run_dir}",
        f"cluster.temp_dir={folder}/ray",
        f"model.path={folder}/model",
        "model.freeze_vision_tower=true",
        "model.freeze_merger=true",
        "data.make_demo=null",
        f"data.media_dir={folder}",
        f"data.train_file={folder}/rows.json",
        "data.validation_file=null",
        "data.shuffle=false",
        f"video.cache_dir={run_dir}-cache",
        f"video.size_multiple={2 * PATCH}",
        f"video.fps={FPS}",
        f"video.max_frames={2 * shape.grid[0]}",
        f"video.min_pixels={height * width}",
        f"video.max_pixels={height * width}",
        "video.timestamps=true",
        "rollout.temperature=0.9",
        "rollout.top_k=50",
        f"rollout.max_response_tokens={shape.response_tokens}",
        f"rollout.max_model_tokens={shape.prompt_tokens + shape.response_tokens}",
        "rollout.reproducible=false",
        "judge=openai",
        f"judge.base_url={judge}",
        "judge.model=m",
        "judge.calls.cache_dir=null",
        f"algorithm.num_steps={steps}",
        f"algorithm.prompts_per_step={shape.prompts}",
        f"algorithm.group_size={GROUP_SIZE}",
        "algorithm.kl_coefficient=0.04",
        "algorithm.loss_aggregation=token-mean",
        "algorithm.importance_cap=null",
        "learner.learning_rate=1e-6",
        # Within the demo's object store.
        "learner.visual_cache_mib=128",
        "learner.warmup_steps=0",
        "learner.min_lr_frac=0",
        "checkpoint.every_steps=0",
        "checkpoint.export=false",
        "logging.rollouts=false",
    ]


def measure(side: Side, shape: Shape, *, log: Path) -> list[Step]:
    """One run: all of its steps but `WARM_UP` and the last.

    Raises:
        RuntimeError: it failed, or did other work than was asked for.
    """
    environment = {**os.environ, **side.environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    stamps: list[tuple[float, float]] = []
    theirs: list[dict[str, float]] = []
    with open(log, "w") as errors:
        pipes = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
        process = subprocess.Popen(side.command, env=environment, **pipes)  # type: ignore[call-overload]
        for line in process.stdout:
            if line.startswith("STEP "):
                theirs.append(json.loads(line[5:]))
            elif not _OUR_STEP.match(line):
                continue
            stamps.append((time.perf_counter(), tree_cpu_s(process.pid)))
        if process.wait() != 0:
            raise RuntimeError(f"{side.name} failed:\n{log.read_text()[-3000:]}")
    steps = theirs if side.run_dir is None else our_steps(side.run_dir, shape)
    timed = [
        {**steps[i], "step": stamps[i][0] - stamps[i - 1][0], "cpu": stamps[i][1] - stamps[i - 1][1]}
        for i in range(WARM_UP, len(steps) - 1)
    ]
    for step in timed:
        lengths = (step["prompt_tokens"], step["response_tokens"])
        if lengths != (shape.prompt_tokens, shape.response_tokens):
            raise RuntimeError(f"{side.name}: prompts and responses have {lengths} tokens, not those of {shape}")
    return [with_rest(step) for step in timed]


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all that it has started and that runs."""
    total = 0.0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def our_steps(run_dir: Path, shape: Shape) -> list[dict[str, float]]:
    """Seconds by phase and lengths from a run's metrics.jsonl."""
    from videor2_rl.run.tracking import read_metrics

    steps = []
    for row in read_metrics(run_dir):
        seconds = {name: row[f"timing_s/{name}"] for name in PHASES if f"timing_s/{name}" in row}
        response_tokens = row["rollout/response_tokens_mean"]
        # A packed group holds its prompt once.
        prompt_tokens = row["actor/packed_tokens"] / shape.prompts - GROUP_SIZE * response_tokens
        steps.append({**seconds, "prompt_tokens": prompt_tokens, "response_tokens": response_tokens})
    return steps


def with_rest(step: Step) -> Step:
    """With the seconds that are of no phase; of phases that overlap there are none to be told."""
    phases = sum(step.get(name, 0.0) for name in PHASES if name != "rest")
    return {**step, "rest": max(0.0, step["step"] - phases)}


def overlaps(step: Step) -> bool:
    """Whether phases ran beside each other."""
    return sum(step.get(name, 0.0) for name in PHASES) > OVERLAP * step["step"]


def without_reward(step: Step) -> float:
    """Seconds of a step that were not spent on its reward; NaN where phases overlap."""
    return float("nan") if overlaps(step) else step["step"] - step.get("reward", 0.0)


def report(shape: Shape, found: Mapping[str, Sequence[Sequence[Step]]], *, judge_latency_s: float) -> str:
    """A table: of phases the medians over steps, of whole steps the runs' means; and TRL's time in times of ours.

    Of several runs the median, and of the ratios that over the repeats.
    """
    names = list(found)
    every = {name: [step for run in runs for step in run] for name, runs in found.items()}
    counts = {len(steps) for steps in every.values()}
    lines = [
        f"{shape.name}: {shape.prompts} x {GROUP_SIZE} responses of {shape.response_tokens} tokens to prompts of "
        f"{shape.prompt_tokens} ({shape.video_tokens} of video); judge {judge_latency_s:g} s a call; "
        f"{'/'.join(map(str, sorted(counts)))} steps in {len(found[names[0]])} runs",
        f"| seconds a step | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for phase in PHASES:
        row = [statistics.median(step.get(phase, 0.0) for step in every[name]) for name in names]
        lines.append(f"| {phase} | {' | '.join(f'{seconds:.2f}' for seconds in row)} |")
    measures = {
        "step": lambda step: step["step"],
        "step without reward": without_reward,
        "CPU seconds": lambda step: step["cpu"],
    }
    for title, value in measures.items():
        means = {name: [statistics.mean(map(value, run)) for run in runs] for name, runs in found.items()}
        whole = [statistics.median(means[name]) for name in names]
        ratios = [
            statistics.median(trl / ours for trl, ours in zip(means["TRL"], means[name], strict=True)) for name in names
        ]
        lines.append(f"| {title} | {' | '.join(f'{seconds:.2f}' for seconds in whole)} |")
        lines.append(f"| {title}: TRL / this | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
