"""The whole way on the CPU: data, base, SFT, GRPO, evaluation, report. `make demo` runs this.

Each stage is the command that a user would type, and is printed. A stage that is done is not done again, so that an
interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.run.resume import FINISHED
from videor2_rl.run.storage import writing


@dataclass(frozen=True)
class Stage:
    """One command of the demo."""

    name: str
    title: str
    command: tuple[str, ...]
    done_marker: Path | None
    """The stage is left out when this file exists; None: the command itself knows that it has nothing to do."""


def stages(output: Path, *, seed: int) -> list[Stage]:
    """The demo's commands, in order."""
    data = output.with_name(f"{output.name}_data")
    common = (f"data.media_dir={data}", f"seed={seed}")

    def app(stage: str, title: str, module: str, experiment: str, *overrides: str) -> Stage:
        folder = output / stage if stage != "evaluate" else output
        command = (module, f"experiment={experiment}", f"output_dir={folder}", *common, *overrides)
        return Stage(stage, title, command, folder / FINISHED)

    checkpoints = ",".join(f"{name}:{output / name / 'hf'}" for name in ("base", "sft", "grpo"))
    return [
        Stage(
            "data",
            "clips, dataset files, tiny model",
            ("videor2_rl.make_demo", f"--output={data}", f"--seed={seed}"),
            None,
        ),
        app("base", "pre-training on faultless traces", "videor2_rl.sft", "demo_base", f"model.path={data / 'model'}"),
        app("sft", "SFT on faulty traces", "videor2_rl.sft", "demo_sft", f"model.path={output / 'base' / 'hf'}"),
        app("grpo", "GRPO with TAR", "videor2_rl.grpo", "demo", f"model.path={output / 'sft' / 'hf'}"),
        app(
            "evaluate",
            "all three on held-out clips",
            "videor2_rl.evaluate",
            "demo_evaluate",
            f"model.path={output / 'base' / 'hf'}",
            f"evaluation.checkpoints=[{checkpoints}]",
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m videor2_rl.demo_run", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, training and sampling (default: %(default)s)")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    try:
        with writing("--output", output):
            output.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    todo = stages(output, seed=arguments.seed)
    for number, stage in enumerate(todo, start=1):
        code = run_stage(stage, output, number=number, total=len(todo))
        if code != 0:
            print(
                f"\nstage {stage.name} ended with exit code {code}; the same command goes on from there",
                file=sys.stderr,
            )
            return code
    return subprocess.call([sys.executable, "-m", "videor2_rl.report", str(output)])


def run_stage(stage: Stage, output: Path, *, number: int, total: int) -> int:
    """Run one command and add its seconds to timing.json; returns its exit code."""
    print(f"\n[{number}/{total}] {stage.title}", flush=True)
    if stage.done_marker is not None and stage.done_marker.exists():
        print("done before", flush=True)
        return 0
    print(f"$ python -m {shlex.join(stage.command)}", flush=True)
    started = time.monotonic()
    try:
        code = subprocess.call([sys.executable, "-m", *stage.command])
    except KeyboardInterrupt:
        # The stage got the signal too and has said how to go on.
        code = 130
    add_seconds(output / "timing.json", stage.name, time.monotonic() - started)
    return code


def add_seconds(path: Path, phase: str, seconds: float) -> None:
    """Add to a phase's seconds, over all the calls that the demo needed."""
    from videor2_rl.run.files import read_json, write_json_atomic

    timing = read_json(path) if path.exists() else {}
    write_json_atomic(path, {**timing, phase: timing.get(phase, 0.0) + seconds})


if __name__ == "__main__":
    sys.exit(main())
