"""What rollouts ahead of the learner do to the demo's GRPO: reward, accuracy and TAR against steps and seconds.

    python -m benchmarks.staleness --checkpoint outputs/demo/sft/hf --data outputs/demo_data
        [--staleness 0 1 4] [--seeds 0 1 2] [--output outputs/staleness] [--picture FILE.svg]
        [--override algorithm.importance_level=sequence ...]

Each staleness above 0 is trained with the correction that the demo has and without any; with 0 there is nothing to
correct. All start from the same checkpoint; a seed is that of sample order and sampling. Runs are the command that a
user types, one after another, those of a seed together. One that is finished is not run again, one that was broken off
goes on. What is printed is made from the runs' metrics alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videor2_rl.report.data import series
from videor2_rl.run.files import read_jsonl
from videor2_rl.run.resume import FINISHED

CURVES = {"reward/mean": "reward", "reward/accuracy": "accuracy", "reward/tar_precision": "TAR precision"}
LAST = 5
"""Steps whose mean is a run's result."""

Rows = list[dict[str, Any]]
"""A run's metrics, a row a step."""


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    max_staleness: int
    is_corrected: bool

    @property
    def name(self) -> str:
        if self.max_staleness == 0:
            return "0"
        return f"{self.max_staleness}, {'corrected' if self.is_corrected else 'not corrected'}"

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "_").replace(" ", "_")

    @property
    def overrides(self) -> list[str]:
        staleness = f"algorithm.max_staleness={self.max_staleness}"
        return [staleness] if self.is_corrected else [staleness, "algorithm.importance_cap=null"]


def main() -> int:
    """Train what is not trained yet, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="where all start, e.g. outputs/demo/sft/hf")
    parser.add_argument("--data", type=Path, required=True, help="the demo's clips and rows, e.g. outputs/demo_data")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("outputs/staleness"), help="folder of the runs")
    parser.add_argument("--picture", type=Path, help="an SVG of the curves")
    parser.add_argument("--override", action="append", default=[], help="a key of every run")
    args = parser.parse_args()
    variants = variants_of(args.staleness)
    for seed in args.seeds:
        for variant in variants:
            code = train(variant, seed=seed, args=args)
            if code != 0:
                return code
    found = {
        variant: [read_jsonl(run_folder(args.output, variant, seed) / "metrics.jsonl") for seed in args.seeds]
        for variant in variants
    }
    print(table(found))
    if args.picture:
        draw(found, args.picture)
    return 0


def variants_of(staleness: Sequence[int]) -> list[Variant]:
    """Each staleness with and without its correction, where there is something to correct."""
    return [
        Variant(steps, is_corrected)
        for steps in dict.fromkeys(staleness)
        for is_corrected in ((True, False) if steps else (True,))
    ]


def run_folder(output: Path, variant: Variant, seed: int) -> Path:
    return output / variant.folder / f"seed{seed}"


def train(variant: Variant, *, seed: int, args: argparse.Namespace) -> int:
    """Run the command unless it has been; returns its exit code."""
    folder = run_folder(args.output, variant, seed)
    if (folder / FINISHED).exists():
        return 0
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as temp:
        command = [
            *("-m", "videor2_rl.grpo", "experiment=demo", f"output_dir={folder}", f"seed={seed}"),
            *(f"model.path={args.checkpoint}", f"data.media_dir={args.data}", f"cluster.temp_dir={temp}"),
            *("checkpoint.export=false", *variant.overrides, *args.override),
        ]
        print(f"$ python {shlex.join(command)}", flush=True)
        # Ray's processes would give way to all others on the machine.
        environment = {"RAY_worker_niceness": "0", **os.environ}
        return subprocess.run([sys.executable, *command], env=environment, check=False).returncode


def table(found: Mapping[Variant, Sequence[Rows]]) -> str:
    """A line for each variant: means over the seeds, and the least and the greatest seed's."""
    lines = [
        f"Means of the last {LAST} steps over {len(next(iter(found.values())))} seeds (least to greatest)",
        "| `max_staleness` | reward | accuracy | TAR precision | staleness | effective samples | s a step | s in all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, runs in found.items():
        cells = [spread([result(rows, name) for rows in runs]) for name in CURVES]
        staleness = statistics.mean(mean_of(rows, "rollout/staleness_mean") for rows in runs)
        effective = statistics.mean(mean_of(rows, "actor/effective_sample_frac") for rows in runs)
        step = statistics.median(row["timing_s/step"] for rows in runs for row in rows)
        whole = statistics.median(seconds_of(rows)[-1] for rows in runs)
        cells += [f"{staleness:.1f}", f"{effective:.3f}", f"{step:.2f}", f"{whole:.0f}"]
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def result(rows: Rows, name: str) -> float:
    """The mean of a metric's last values."""
    return float(np.mean(series(rows, name)[1][-LAST:]))


def mean_of(rows: Rows, name: str) -> float:
    """Over a run; NaN where it has no such metric."""
    values = series(rows, name)[1]
    return float(np.mean(values)) if len(values) else float("nan")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def seconds_of(rows: Rows) -> np.ndarray:
    """Seconds from the loop's start to the end of each step."""
    return np.cumsum([row["timing_s/step"] for row in rows])


def draw(found: Mapping[Variant, Sequence[Rows]], path: Path) -> None:
    """Each curve against steps and against seconds: the seeds' mean, and their range as a band."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    colours = ("#222222", "#1b6ca8", "#7fb2d9", "#b3541e", "#e3a57f")
    style: Any = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "svg.hashsalt": "staleness"}
    with plt.rc_context(style):
        figure, axes = plt.subplots(len(CURVES), 2, figsize=(9, 7.5), layout="constrained", sharey="row")
        for row, (name, label) in enumerate(CURVES.items()):
            for (variant, runs), colour in zip(found.items(), colours, strict=False):
                values = np.array([[step[name] for step in rows] for rows in runs])
                steps = np.arange(1, values.shape[1] + 1)
                seconds = np.median([seconds_of(rows) for rows in runs], axis=0)
                for column, places in enumerate((steps, seconds)):
                    axes[row, column].plot(places, values.mean(0), color=colour, label=variant.name, linewidth=1.6)
                    axes[row, column].fill_between(
                        places, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0
                    )
            axes[row, 0].set_ylabel(label)
        lines, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(lines, names, title="max_staleness", loc="outside upper center", ncols=len(names), frameon=False)
        axes[-1, 0].set_xlabel("steps")
        axes[-1, 1].set_xlabel("seconds of training")
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
