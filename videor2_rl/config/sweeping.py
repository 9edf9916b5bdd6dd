"""A command line with -m as the runs that it asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.loading import load
from videor2_rl.config.overrides import check_names, composed, parse, resolved
from videor2_rl.config.runs import EvaluateRun, GrpoRun, LogsRun, SftRun

FolderRunT = TypeVar("FolderRunT", GrpoRun, SftRun, EvaluateRun, LogsRun)
"""What leaves a folder."""


@dataclass(frozen=True)
class PlannedRun(Generic[FolderRunT]):
    """One run that a command asks for."""

    run: FolderRunT
    """Its output_dir is its own, absolute."""
    number: int
    """From 1."""
    total: int
    varied: str
    """What tells it from the command's other runs, e.g. reward=no_tar; empty where it is the only one."""
    sweep_dir: Path | None
    """The output_dir that was given, for a run of a sweep."""

    @property
    def name(self) -> str:
        """In errors."""
        return f"run {self.number} of {self.total} ({self.varied})"

    @property
    def title(self) -> str:
        """In lines of its own."""
        return f"run {self.number} of {self.total}: {self.varied}"


def plan(
    composer: Composer, run_type: type[FolderRunT], overrides: Sequence[str], *, sweeps: bool
) -> list[PlannedRun[FolderRunT]]:
    """Every run that the command asks for, each with its configuration loaded and checked.

    Raises:
        ConfigError: as `run_of`, with the number of the run that is at fault.
    """
    if not sweeps:
        config = composed(composer, run_type, overrides)
        return [_planned(run_type, resolved(config, run_type))]
    jobs = _split(composer, overrides)
    planned: list[PlannedRun[FolderRunT]] = []
    folders: list[str] = []
    for number, (job, varied) in enumerate(jobs, start=1):
        try:
            config = composed(composer, run_type, job)
            each = _planned(run_type, resolved(config, run_type))
        except ConfigError as error:
            raise ConfigError(f"run {number} of {len(jobs)} ({varied}): {error}") from None
        folders.append(str(Path(each.run.output_dir) / config.hydra.job.override_dirname))
        planned.append(
            replace(each, number=number, total=len(jobs), varied=varied, sweep_dir=Path(each.run.output_dir))
        )
    times = Counter(folders)
    # Values that are paths do not enter a folder's name: where only they vary, the run's number does.
    names = [name if times[name] == 1 else f"{name},run={place}" for place, name in enumerate(folders, start=1)]
    return [replace(each, run=replace(each.run, output_dir=name)) for each, name in zip(planned, names, strict=True)]


def _planned(run_type: type[FolderRunT], tree: dict[str, Any]) -> PlannedRun[FolderRunT]:
    return PlannedRun(absolute(load(run_type, tree)), number=1, total=1, varied="", sweep_dir=None)


def absolute(run: FolderRunT) -> FolderRunT:
    """The run with its folder from the root."""
    return replace(run, output_dir=str(Path(run.output_dir).expanduser().absolute()))


def _split(composer: Composer, overrides: Sequence[str]) -> list[tuple[list[str], str]]:
    """Each run's overrides, and those of them that vary.

    Raises:
        ConfigError: a sweep that is no list of values.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    parsed = parse(composer, overrides)
    check_names(composer, parsed)
    varying = {str(item.get_key_element()) for item in parsed if item.is_sweep_override()}
    try:
        ((*jobs,),) = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        raise ConfigError(f"{error}; give the values as KEY=A,B,C or KEY=range(1,4)") from None
    return [(job, ",".join(item for item in job if item.partition("=")[0] in varying)) for job in jobs]
