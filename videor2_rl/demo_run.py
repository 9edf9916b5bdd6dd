"""The whole way on the CPU: data, base, SFT, GRPO, evaluation, report. `make demo` runs this.

Each stage is the command that a user would type, and is printed. A stage that is done is not done again, so that an
interrupted demo goes on where it stopped. What a start costs is paid once for all of them: the stages share a Ray
cluster, and their processes are forked from one that has loaded the libraries.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import runpy
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.run.resume import FINISHED
from videor2_rl.run.storage import writing

Runner = Callable[[Sequence[str]], int]
"""Does what `python -m` with this command does; returns the exit code."""


@dataclass(frozen=True)
class Stage:
    """One command of the demo."""

    name: str
    title: str
    command: tuple[str, ...]
    done_marker: Path | None
    """The stage is left out when this file exists; None: the command itself knows that it has nothing to do."""

    @property
    def is_done(self) -> bool:
        return self.done_marker is not None and self.done_marker.exists()


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
    data, *training = stages(output, seed=arguments.seed)
    with warm_runner(training) as run_warm:
        plan = [(data, runner(multiprocessing.get_context("spawn"))), *((stage, run_warm) for stage in training)]
        for number, (stage, run) in enumerate(plan, start=1):
            code = run_stage(stage, output, run, place=f"{number}/{len(plan)}")
            if code != 0:
                print(
                    f"\nstage {stage.name} ended with exit code {code}; the same command goes on from there",
                    file=sys.stderr,
                )
                return code
        return run_warm(("videor2_rl.report", str(output)))


def run_stage(stage: Stage, output: Path, run: Runner, *, place: str) -> int:
    """Run one command and add its seconds to timing.json; returns its exit code.

    Args:
        place: of the stage among all, e.g. 2/5.
    """
    print(f"\n[{place}] {stage.title}", flush=True)
    if stage.is_done:
        print("done before", flush=True)
        return 0
    print(f"$ python -m {shlex.join(stage.command)}", flush=True)
    started = time.monotonic()
    code = run(stage.command)
    add_seconds(output / "timing.json", stage.name, time.monotonic() - started)
    return code


def runner(context: multiprocessing.context.SpawnContext | multiprocessing.context.ForkServerContext) -> Runner:
    """Runs commands in processes that start as the context says."""

    def run(command: Sequence[str]) -> int:
        process = context.Process(target=run_module, args=(list(command),))
        process.start()
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        try:
            while process.exitcode is None:
                # Of Ctrl-C the stage hears itself; it may have something to save, and says how to go on.
                with suppress(KeyboardInterrupt):
                    process.join()
        finally:
            signal.signal(signal.SIGTERM, before)
        return process.exitcode

    return run


def run_module(command: Sequence[str]) -> None:
    """What `python -m` does with this command."""
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


@contextmanager
def warm_runner(todo: Sequence[Stage]) -> Iterator[Runner]:
    """Runs commands on one Ray cluster, in processes that find the libraries loaded; both end with the block.

    The cluster is the demo's own, unless RAY_ADDRESS names one. Without anything to do there is neither.
    """
    if all(stage.is_done for stage in todo):
        yield runner(multiprocessing.get_context("spawn"))
        return
    from videor2_rl.app import compose_run
    from videor2_rl.config.runs import GrpoRun
    from workers.cluster import connected, gcs_address
    from workers.learner.verl_config import learner_env

    cluster = compose_run("grpo", GrpoRun, ["experiment=demo"]).cluster
    # It sets this process' environment, which the others inherit: verl looks for its platform when it is imported.
    with connected(cluster, worker_env=learner_env(cluster.device)):
        os.environ["RAY_ADDRESS"] = gcs_address()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["videor2_rl.demo_libraries"])
        # It loads them while the data is made.
        forkserver.ensure_running()
        yield runner(context)


def add_seconds(path: Path, phase: str, seconds: float) -> None:
    """Add to a phase's seconds, over all the calls that the demo needed."""
    from videor2_rl.run.files import read_json, write_json_atomic

    timing = read_json(path) if path.exists() else {}
    write_json_atomic(path, {**timing, phase: timing.get(phase, 0.0) + seconds})


if __name__ == "__main__":
    sys.exit(main())
