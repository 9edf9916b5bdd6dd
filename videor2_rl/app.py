"""What every Hydra app shares: compose the configuration once, run, and turn a user's mistake into one sentence."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from videor2_rl.config.composing import compose_tree
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import JudgeConfig, ManagedJudge, OpenAIJudge
from videor2_rl.config.loading import RunT, check_values, load
from videor2_rl.config.sections import EvaluateRun, GrpoRun, SftRun
from videor2_rl.run.stopping import Stopped

if TYPE_CHECKING:
    from videor2_rl.types import VideoSample

logger = logging.getLogger(__name__)


def hydra_app(config_name: str, run_type: type[RunT], body: Callable[[RunT], None]) -> Callable[[], None]:
    """A console entry: composes `conf/<config_name>.yaml` with the command line and calls `body` with dataclasses.

    A mistake in the configuration or the data ends with one sentence on stderr and exit code 2, an interrupt with 130.
    """
    # Hydra then passes exceptions on instead of printing its own report of them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    def job(config: DictConfig) -> None:
        # In here too: an exception that leaves the job adds a line of Hydra's own.
        with user_errors(config_name):
            check_values(run_type, OmegaConf.to_container(config, resolve=False))
            tree = OmegaConf.to_container(config, resolve=True)
            if not isinstance(tree, dict):
                raise ConfigError("configuration: the primary file is empty")
            tree["output_dir"] = HydraConfig.get().runtime.output_dir
            body(load(run_type, {str(key): value for key, value in tree.items()}))

    task = hydra.main(version_base="1.3", config_path="pkg://conf", config_name=config_name)(job)

    def main() -> None:
        _quiet_logging()
        with user_errors(config_name), _terminable():
            task()

    return main


@contextmanager
def user_errors(config_name: str) -> Iterator[None]:
    """End with one sentence on stderr: exit code 2 for the user's mistakes, 130 for an interrupt."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except ConfigError as error:
        _fail(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        _fail(_one_sentence(error, config_name), 2)
    except KeyboardInterrupt:
        _end("stopped", 130)
    except Stopped as stop:
        _end(stop.reason, stop.exit_code)


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


def _quiet_logging() -> None:
    """Our own messages, and of the libraries' only warnings."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(
            lambda record: record.levelno >= logging.WARNING or record.name.split(".")[0] in ("videor2_rl", "workers")
        )
    # verl names each training engine that is not installed, on every import.
    warnings.filterwarnings("ignore", message=".* engine is not available")


def _fail(message: str, code: int) -> None:
    _end(f"error: {message}", code)


def _end(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def _one_sentence(error: Exception, config_name: str) -> str:
    """Hydra's and OmegaConf's errors as one line with the mend."""
    message = " ".join(str(error).split())
    named = [arg.lstrip("+~").split("=")[0] for arg in sys.argv[1:] if _names_culprit(arg, message)]
    if not named:
        return message
    # The message about reward.format.wait holds the key of reward=video_r2 too.
    wrong = max(named, key=len)
    known = _known_keys(config_name)
    close = difflib.get_close_matches(wrong, known, n=1)
    if wrong in known:
        return f"configuration: {wrong}: {message}"
    mend = f"did you mean {close[0]}?" if close else f"see python -m videor2_rl.{config_name} --help"
    return f"configuration: there is no key {wrong}; {mend}"


def _names_culprit(arg: str, message: str) -> bool:
    return "=" in arg and arg.lstrip("+~").split("=")[0] in message


def _known_keys(config_name: str) -> list[str]:
    """Every dotted key and group of an app's default configuration."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(config_name)

    def walk(node: Any, prefix: str) -> list[str]:
        keys: list[str] = []
        for key in node:
            name = f"{prefix}{key}"
            keys.append(name)
            if not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
                keys += walk(node[key], f"{name}.")
        return keys

    return walk(config, "")


def compose_run(config_name: str, run_type: type[RunT], overrides: list[str]) -> RunT:
    """The configuration that the command line `overrides` would give, without running anything.

    Raises:
        ConfigError: as `load` does.
    """
    return load(run_type, compose_tree(config_name, overrides, run_type=run_type))


def checked_inputs(run: GrpoRun | SftRun | EvaluateRun) -> list[VideoSample]:
    """The rows that the run is about, after every check that needs no engine; makes the demo's data where asked for.

    Raises:
        ConfigError: a file, folder or row that the user has to mend.
    """
    from videor2_rl.dataset import load_samples
    from videor2_rl.inputs import check_folders, check_rows
    from videor2_rl.model.family import check_frames
    from videor2_rl.model.folder import check_checkpoint

    if not isinstance(run, SftRun):
        _check_judge_server(run.judge)
    if run.data.make_demo is not None:
        from videor2_rl import make_demo

        if make_demo.main(["--output", run.data.media_dir, *run.data.make_demo]) != 0:
            raise ConfigError(f"data.make_demo: {run.data.media_dir} could not be filled; see the message above")
    if isinstance(run, EvaluateRun):
        for name, folder in run.evaluation.folders.items():
            key = "model.path" if folder == run.model.path else f"evaluation.checkpoints, {name}"
            check_checkpoint(folder, key=key, has_weights=True)
            check_frames(replace(run.model, path=folder), run.video)
        from videor2_rl.evaluation.held_out import held_out

        if run.evaluation.benchmark is None:
            check_folders(run.data)
        file = run.data.validation_file or str(run.evaluation.benchmark_dir)
        held = _scorable(list(held_out(run).samples), file)
        check_rows(held, file, run=run)
        return held
    check_checkpoint(run.model.path, key="model.path", has_weights=True)
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
def open_run(run: GrpoRun | SftRun | EvaluateRun, run_dir: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold a run's folder, record its configuration, and say how to go on when it is interrupted."""
    from videor2_rl.run.folder import sole_writer, write_config
    from videor2_rl.run.resume import start_run
    from videor2_rl.run.stopping import going_on

    with sole_writer(run_dir):
        start_run(run_dir, resume=resume, overwrite=overwrite, num_steps=_num_steps(run))
        write_config(run_dir, run)
        try:
            yield
        except Stopped as stop:
            raise Stopped(f"stopped ({stop.reason}); {going_on(run_dir)}", exit_code=stop.exit_code) from None
        except KeyboardInterrupt:
            raise Stopped(f"stopped (SIGINT); {going_on(run_dir)}", exit_code=130) from None


def _num_steps(run: GrpoRun | SftRun | EvaluateRun) -> int | None:
    if isinstance(run, GrpoRun):
        return run.algorithm.num_steps
    return run.sft.num_steps if isinstance(run, SftRun) else None


def finish(run_dir: Path, *, export: Callable[[Path], None] | None) -> None:
    """Write the model to hf/ where asked for, and mark the run as finished."""
    from videor2_rl.run.resume import FINISHED

    # A run killed between export and mark has written hf/ whole, from the same last step.
    if export is not None and not (run_dir / "hf").exists():
        export(run_dir / "hf")
    (run_dir / FINISHED).touch()
    left = {"model": "hf", "metrics": "metrics.jsonl", "rollouts": "rollouts", "skipped samples": "skipped.jsonl"}
    places = [f"{what} in {run_dir / name}" for what, name in left.items() if (run_dir / name).exists()]
    logger.info("finished: %s; report: python -m videor2_rl.report %s", ", ".join(places), run_dir)
