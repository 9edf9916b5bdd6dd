"""What every Hydra app shares: compose the configuration once, run, and turn a user's mistake into one sentence."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from videor2_rl.config.command_line import help_text, hydra_arguments, version_text
from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.from_file import run_from_file, taken_out
from videor2_rl.config.judge import JudgeConfig, ManagedJudge, OpenAIJudge
from videor2_rl.config.loading import RunT, load
from videor2_rl.config.overrides import composed, resolved
from videor2_rl.config.runs import EvaluateRun, GrpoRun, LogsRun, SftRun
from videor2_rl.config.sections import DataConfig
from videor2_rl.config.sweeping import FolderRunT, PlannedRun, absolute, plan
from videor2_rl.run.resume import FINISHED, is_finished, is_longer, remove_refused, start_run
from videor2_rl.run.stopping import Stopped, going_on

if TYPE_CHECKING:
    from videor2_rl.types import VideoSample

logger = logging.getLogger(__name__)


def hydra_app(
    config_name: str,
    run_type: type[FolderRunT],
    body: Callable[[FolderRunT], None],
    *,
    about: str | None = None,
    finishes: bool = True,
) -> Callable[[], None]:
    """A console entry: composes `conf/<config_name>.yaml` with the command line and calls `body` with dataclasses.

    A mistake in the configuration or the data ends with one sentence on stderr and exit code 2, an interrupt with 130.

    Args:
        config_name: of the primary file.
        run_type: what its tree becomes.
        body: called once; with -m once for each run of the sweep.
        about: heads the help, where the primary file is another app's too.
        finishes: `body` marks its folder as finished; a sweep then passes over it.
    """

    def main() -> None:
        quiet_logging()
        argv = sys.argv[1:]
        if "--version" in argv:
            print(version_text())
            return
        with user_errors(), _terminable():
            file, argv = taken_out(argv)
            arguments = hydra_arguments(argv)
            composer = Composer(
                arguments.config_name or config_name,
                config_dir=arguments.config_dir,
                config_path=arguments.config_path,
            )
            if arguments.help or arguments.cfg or arguments.info:
                # Of a mistake Hydra's own report is long.
                composed(composer, run_type, arguments.overrides)
            if arguments.help:
                print(help_text(composer, arguments.overrides, header=about))
            elif arguments.cfg or arguments.info or arguments.hydra_help or arguments.shell_completion:
                _hydra_shows(config_name)
            elif file is not None:
                if arguments.multirun:
                    raise ConfigError("--config: is one run, and -m makes several; give one of the two")
                body(absolute(run_from_file(composer, run_type, file, arguments.overrides)))
            else:
                runs = plan(composer, run_type, arguments.overrides, sweeps=arguments.multirun)
                run_all(runs, body, finishes=finishes)

    return main


def _hydra_shows(config_name: str) -> None:
    """What Hydra itself offers: the configuration, its origin, shell completion."""
    # Hydra then passes exceptions on instead of printing its own report of them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    hydra.main(version_base="1.3", config_path="pkg://conf", config_name=config_name)(lambda config: None)()


def run_all(runs: Sequence[PlannedRun[FolderRunT]], body: Callable[[FolderRunT], None], *, finishes: bool) -> None:
    """One run after the other; in a sweep, finished ones are passed over and the first that fails is the last."""
    for planned in runs:
        if planned.sweep_dir is None:
            body(planned.run)
            continue
        folder = Path(planned.run.output_dir)
        overwrites = isinstance(planned.run, (GrpoRun, SftRun)) and planned.run.checkpoint.overwrite
        is_done = is_finished(folder) and not is_longer(folder, num_steps(planned.run))
        if finishes and is_done and not overwrites:
            print(f"{planned.title} is finished, passed over: {folder}", file=sys.stderr)
            continue
        print(f"{planned.title} -> {folder}", file=sys.stderr)
        with _within_sweep(planned):
            body(planned.run)
    sweep_dirs = {planned.sweep_dir for planned in runs}
    if len(sweep_dirs) == 1 and (sweep_dir := sweep_dirs.pop()) is not None:
        end_of_sweep(sweep_dir, [Path(planned.run.output_dir) for planned in runs])


def end_of_sweep(sweep_dir: Path, folders: Sequence[Path]) -> None:
    """When every run of a sweep is finished: their table, where they trained something, and how to see it again."""
    if len(folders) > 1 and all((folder / "metrics.jsonl").exists() for folder in folders):
        from rich.console import Console

        from videor2_rl.report.sweep import compare_runs

        try:
            compare_runs(folders, out=sweep_dir, console=Console())
        except ConfigError as error:
            # The runs are as good as they were.
            print(f"no table of the runs: {error}", file=sys.stderr)
    print(f"all runs are finished; side by side: python -m videor2_rl.report {sweep_dir}", file=sys.stderr)


@contextmanager
def _within_sweep(planned: PlannedRun[FolderRunT]) -> Iterator[None]:
    """Say of what ends a run in which run of the sweep it was, and how to go on there."""
    own, whole = f"output_dir={planned.run.output_dir} ", f"output_dir={planned.sweep_dir} "
    mend = f"the same command with {whole}goes on there"
    try:
        yield
    except ConfigError as error:
        how = str(error).replace(own, whole)
        raise ConfigError(f"{planned.name}: {how}" + ("" if own in str(error) else f"; {mend}")) from None
    except KeyboardInterrupt:
        raise Stopped(f"stopped (SIGINT) in {planned.name}; {mend}", exit_code=130) from None
    except Stopped as stop:
        raise Stopped(f"{stop.reason.replace(own, whole)}, in {planned.name}", exit_code=stop.exit_code) from None
    except Exception:
        traceback.print_exc()
        print(f"\nerror: {planned.name} failed; {mend}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def user_errors() -> Iterator[None]:
    """End with one sentence on stderr: exit code 2 for the user's mistakes and full disks, 130 for an interrupt."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except ConfigError as error:
        _fail(f"error: {error}", 2)
    except (HydraException, OmegaConfBaseException) as error:
        _fail(f"error: {' '.join(str(error).split())}", 2)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except Stopped as stop:
        _fail(stop.reason, stop.exit_code)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, through every `finally`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("stopped (SIGTERM)", exit_code=128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def quiet_logging() -> None:
    """Our own messages, and of the libraries' only warnings."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(
            lambda record: record.levelno >= logging.WARNING or record.name.split(".")[0] in ("videor2_rl", "workers")
        )
    # verl names each training engine that is not installed, on every import.
    warnings.filterwarnings("ignore", message=".* engine is not available")


def _fail(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def compose_run(config_name: str, run_type: type[RunT], overrides: Sequence[str]) -> RunT:
    """The configuration that the command line `overrides` would give, without running anything.

    Raises:
        ConfigError: a wrong name, an unknown key, a wrong type, a missing value or an impossible combination.
    """
    composer = Composer(config_name)
    return load(run_type, resolved(composed(composer, run_type, overrides), run_type))


def checked_inputs(run: GrpoRun | SftRun | EvaluateRun) -> list[VideoSample]:
    """The rows that the run is about, after every check that needs no engine; makes the demo's data where asked for.

    Raises:
        ConfigError: a file, folder or row that the user has to mend.
    """
    from videor2_rl.dataset import load_samples
    from videor2_rl.inputs import check_folders, check_rows
    from videor2_rl.model.family import check_frames
    from videor2_rl.model.folder import check_checkpoint
    from videor2_rl.model.weights import check_weights

    if not isinstance(run, SftRun):
        _check_judge_server(run.judge)
    make_data(run.data)
    if isinstance(run, EvaluateRun):
        for name, folder in run.evaluation.folders.items():
            key = "model.path" if folder == run.model.path else f"evaluation.checkpoints, {name}"
            check_checkpoint(folder, key=key)
            check_weights(folder, key=key)
            check_frames(replace(run.model, path=folder), run.video)
        from videor2_rl.evaluation.held_out import held_out

        if run.evaluation.benchmark is None:
            check_folders(run.data)
        file = run.data.validation_file or str(run.evaluation.benchmark_dir)
        held = _scorable(list(held_out(run).samples), file)
        check_rows(held, file, run=run)
        return held
    check_checkpoint(run.model.path, key="model.path")
    check_weights(run.model.path, key="model.path")
    check_frames(run.model, run.video)
    if run.data.train_file is None:
        raise ConfigError("data.train_file is required for training; give it as data.train_file=FILE")
    check_folders(run.data)
    samples = load_samples(run.data.train_file, data=run.data)
    if isinstance(run, GrpoRun):
        _scorable(samples, run.data.train_file)
        _check_own_terms(run, samples[0])
    check_rows(samples, run.data.train_file, run=run)
    return samples


def _check_own_terms(run: GrpoRun, sample: VideoSample) -> None:
    """Try the terms of `reward.extra` on a real row.

    Raises:
        ConfigError: one fails.
    """
    from rewards.compose import check_row
    from videor2_rl.dataset import context_of, target_of

    try:
        check_row(target_of(sample), context_of(sample), run.reward)
    except ValueError as error:
        raise ConfigError(f"configuration: {error}") from None


def make_data(data: DataConfig) -> None:
    """Fill `media_dir` where the configuration says how.

    Raises:
        ConfigError: it could not be filled.
    """
    if data.make_demo is not None:
        from videor2_rl import make_demo

        if make_demo.main(["--output", data.media_dir, *data.make_demo]) != 0:
            raise ConfigError(f"data.make_demo: {data.media_dir} could not be filled; see the message above")


def _check_judge_server(judge: JudgeConfig) -> None:
    if isinstance(judge, OpenAIJudge):
        from videor2_rl.judge.access import check_server

        check_server(judge)
    elif isinstance(judge, ManagedJudge):
        from videor2_rl.model.folder import existing_folder

        existing_folder(judge.model_path, key="judge.model_path", holding="config.json")


def checked_held_out(run: GrpoRun) -> list[VideoSample]:
    """The rows that are evaluated while a run trains; empty where none are.

    Raises:
        ConfigError: a file or row that the user has to mend.
    """
    from videor2_rl.dataset import load_samples

    file = run.data.validation_file
    if run.evaluation.every_steps == 0 or file is None:
        return []
    from videor2_rl.inputs import check_rows

    samples = _scorable(load_samples(file, data=run.data)[: run.evaluation.num_samples], file)
    check_rows(samples, file, run=run)
    return samples


def _scorable(samples: list[VideoSample], file: str) -> list[VideoSample]:
    """The samples, when each has a reference answer that a response can be scored against.

    Raises:
        ConfigError: names the first sample that has none.
    """
    from rewards.compose import check_target
    from videor2_rl.dataset import target_of

    for sample in samples:
        try:
            check_target(target_of(sample))
        except ValueError as error:
            raise ConfigError(f"{file}, sample {sample.sample_id}: {error}; mend the gpt turn or the row") from None
    return samples


@contextmanager
def open_run(
    run: GrpoRun | SftRun | EvaluateRun, run_dir: Path, *, resume: bool, overwrite: bool | None
) -> Iterator[None]:
    """Hold a run's folder, record its configuration, and say how to go on when it is interrupted."""
    from videor2_rl.run.folder import sole_writer, write_config
    from videor2_rl.run.storage import full_disk

    is_new = not run_dir.exists()
    with sole_writer(run_dir):
        start_run(run_dir, resume=resume, overwrite=overwrite, num_steps=num_steps(run))
        try:
            write_config(run_dir, run)
            yield
        except Stopped as stop:
            raise Stopped(f"stopped ({stop.reason}); {going_on(run_dir)}", exit_code=stop.exit_code) from None
        except KeyboardInterrupt:
            raise Stopped(f"stopped (SIGINT); {going_on(run_dir)}", exit_code=130) from None
        except Exception as error:
            fault = full_disk(error)
            if isinstance(error, ConfigError) and is_new:
                remove_refused(run_dir)
            if fault is None:
                raise
            raise ConfigError(
                f"output_dir: the run in {run_dir} cannot write any more ({fault}); make room, then {going_on(run_dir)}"
            ) from None


def num_steps(run: GrpoRun | SftRun | EvaluateRun | LogsRun) -> int | None:
    """That a run is told to take, 0 being an epoch; None: it has none."""
    if isinstance(run, GrpoRun):
        return run.algorithm.num_steps
    return run.sft.num_steps if isinstance(run, SftRun) else None


def finish(run_dir: Path, *, export: Callable[[Path], None] | None) -> None:
    """Write the model to hf/ where asked for, and mark the run as finished."""
    # A run killed between export and mark has written hf/ whole, from the same last step.
    if export is not None and not (run_dir / "hf").exists():
        export(run_dir / "hf")
    (run_dir / FINISHED).touch()
    left = {"model": "hf", "metrics": "metrics.jsonl", "rollouts": "rollouts", "skipped samples": "skipped.jsonl"}
    places = [f"{what} in {run_dir / name}" for what, name in left.items() if (run_dir / name).exists()]
    logger.info("finished: %s; report: python -m videor2_rl.report %s", ", ".join(places), run_dir)
