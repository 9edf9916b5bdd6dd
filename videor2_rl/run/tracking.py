"""Where a run's numbers go: metrics.jsonl, one console line a step, and verl's trackers (TensorBoard, W&B, ...)."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from videor2_rl.config.sections import LoggingConfig
from videor2_rl.run.files import read_jsonl, write_jsonl_atomic
from videor2_rl.run.tracked_rollouts import COLUMNS, log_to_wandb, table_rows
from videor2_rl.run.tracked_tables import markdown
from videor2_rl.run.trackers import finish_trackers, start_trackers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from verl.utils.tracking import Tracking

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
NON_FINITE = "perf/non_finite"
"""Metric: how many of a step's values were NaN or infinite, and stand as null in metrics.jsonl."""
TRACKER_FAILURES = "perf/tracker_failures"
"""Metric: how many calls of the trackers have failed in this process so far."""

CONSOLE_FIELDS = (
    ("loss", "sft/loss", ".4f"),
    ("val", "sft/validation_loss", ".4f"),
    ("reward", "reward/mean", ".3f"),
    ("acc", "reward/accuracy", ".3f"),
    ("tac", "reward/tac", ".3f"),
    ("tar", "reward/temporal_alignment", ".3f"),
    ("kl", "actor/kl", ".1e"),
    ("gap", "rollout/log_prob_gap_max", ".1e"),
    ("len", "rollout/response_tokens_mean", ".1f"),
    ("", "timing_s/step", ".1f s"),
)
"""Label, metric and format of the console line; a metric that a step lacks is left out."""


def finite(metrics: Mapping[str, float]) -> tuple[dict[str, float | None], int]:
    """The metrics with NaN and infinity as None, and how many there were. Tensors and numpy scalars become floats."""
    values: dict[str, float | None] = {}
    for name, value in metrics.items():
        number = value if isinstance(value, int) else float(value)
        values[name] = number if math.isfinite(number) else None
    return values, sum(value is None for value in values.values())


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, [] where there is none; a line cut off by a kill is dropped."""
    path = run_dir / METRICS_FILE
    return read_jsonl(path, torn_last_line=True) if path.exists() else []


def truncate_metrics(run_dir: Path, step: int) -> int:
    """Drop the rows from `step` on, which a run resumed before `step` will write again; returns how many went.

    A line cut off by a kill goes too. The file is replaced as a whole, so a kill in here loses nothing.
    """
    rows = read_metrics(run_dir)
    kept = [row for row in rows if row["step"] < step]
    if (run_dir / METRICS_FILE).exists():
        write_jsonl_atomic(run_dir / METRICS_FILE, kept)
    return len(rows) - len(kept)


def clock(seconds: float) -> str:
    """Seconds as M:SS or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def console_line(
    step: int,
    metrics: Mapping[str, float | None],
    *,
    total_steps: int,
    left_s: float | None,
    own_terms: Sequence[str] = (),
) -> str:
    """One step in one line: `step 12/40  reward 2.08  acc 0.91 ...  3.1 s  left 1:32`.

    Args:
        own_terms: names of `reward.extra`, which follow the other figures.
    """
    width = len(str(total_steps))
    parts = [f"step {step:>{width}}/{total_steps}"]
    own_fields = [(name, f"reward/{name}", ".3f") for name in own_terms]
    for label, name, spec in (*CONSOLE_FIELDS[:-1], *own_fields, CONSOLE_FIELDS[-1]):
        if name not in metrics:
            continue
        value = metrics[name]
        number, _, unit = spec.partition(" ")
        text = "n/a" if value is None else f"{value:{number}}"
        parts.append(" ".join(part for part in (label, text, unit) if part))
    if left_s is not None:
        parts.append(f"left {clock(left_s)}")
    return "  ".join(parts)


class Tracker:
    """Records a run's metrics, step by step; use it as a context manager.

    A row reaches the disk before `log` returns. Trackers are started only when asked for; a failure to
    start raises ConfigError, a failure later is logged, counted in `perf/tracker_failures` and does not stop the run.
    """

    def __init__(
        self,
        run_dir: Path,
        logging_config: LoggingConfig,
        *,
        total_steps: int,
        first_step: int = 1,
        config: Mapping[str, Any] | None = None,
        own_terms: Sequence[str] = (),
        console: Console | None = None,
    ) -> None:
        """
        Args:
            run_dir: the run's folder; metrics.jsonl is appended to.
            logging_config: which trackers, under which names.
            total_steps: number of the last step, for the time left.
            first_step: the step that will be logged first; rows from it on, which an earlier process left, are dropped.
            config: the resolved configuration as plain values, for the trackers.
            own_terms: names of `reward.extra`, for the console.
            console: where the line goes; None: standard output.
        """
        self._run_dir = Path(run_dir)
        self._logging_config = logging_config
        self._total_steps = total_steps
        self._first_step = first_step
        self._config = dict(config or {})
        self._own_terms = tuple(own_terms)
        self._console = console
        self._file: IO[str] | None = None
        self._backends: Tracking | None = None
        self._failures = 0
        self._last_time = 0.0
        # Recent steps only: the first one compiles and warms caches, and responses change their length in training.
        self._recent_s: deque[float] = deque(maxlen=10)

    def __enter__(self) -> Tracker:
        self._run_dir.mkdir(parents=True, exist_ok=True)
        truncate_metrics(self._run_dir, self._first_step)
        if self._console is None:
            self._console = _console()
        if self._logging_config.trackers:
            self._backends = start_trackers(self._run_dir, self._logging_config, self._config)
            self._log_config()
        self._file = open(self._run_dir / METRICS_FILE, "a", encoding="utf-8")
        self._last_time = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._backends is not None:
            finish_trackers(self._backends, exit_code=0 if kind is None else 1)
            self._backends = None

    def rewind(self, first_step: int) -> None:
        """The rows from this step on will be logged again: those that are there are dropped."""
        if self._file is None:
            raise RuntimeError("Tracker.rewind is called outside of its `with` block.")
        self._file.close()
        truncate_metrics(self._run_dir, first_step)
        self._file = open(self._run_dir / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115 (__exit__ closes it)
        self._last_time = time.monotonic()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one step everywhere. NaN and infinity are written as null and counted in `perf/non_finite`."""
        if self._file is None or self._console is None:
            raise RuntimeError("Tracker.log is called outside of its `with` block.")
        values, num_non_finite = finite(metrics)
        values[NON_FINITE] = num_non_finite
        if self._backends is not None:
            values[TRACKER_FAILURES] = self._failures
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()
        self._send(step, values)
        # A step's own time where it is known: the first row would count the start of the engines too.
        now = time.monotonic()
        self._recent_s.append(metrics.get("timing_s/step", now - self._last_time))
        self._last_time = now
        left_s = sum(self._recent_s) / len(self._recent_s) * (self._total_steps - step)
        line = console_line(step, values, total_steps=self._total_steps, left_s=left_s, own_terms=self._own_terms)
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _log_config(self) -> None:
        """W&B has the configuration from its start; TensorBoard gets it as a text."""
        assert self._backends is not None, "the trackers are started"
        if "tensorboard" in self._backends.logger:
            text = json.dumps(self._config, indent=2, ensure_ascii=False, default=str)
            with self._tolerated(self._first_step):
                self._backends.logger["tensorboard"].writer.add_text("config", f"```\n{text}\n```", 0)

    def log_rollouts(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Give the trackers that have tables the step's first groups, as the rollout log has them; before `log`."""
        shown = records[: self._logging_config.tracked_groups]
        if self._backends is None or not shown:
            return
        loggers, max_mib = self._backends.logger, self._logging_config.max_clip_mib
        with self._tolerated(step):
            if "wandb" in loggers:
                log_to_wandb(loggers["wandb"], shown, step=step, max_mib=max_mib)
            if "tensorboard" in loggers:
                loggers["tensorboard"].writer.add_text(
                    "rollouts", markdown(COLUMNS, table_rows(shown, step=step)), step
                )

    def _send(self, step: int, values: Mapping[str, float | None]) -> None:
        if self._backends is None:
            return
        with self._tolerated(step):
            self._backends.log(data={name: value for name, value in values.items() if value is not None}, step=step)

    @contextmanager
    def _tolerated(self, step: int) -> Iterator[None]:
        """Around what goes to the trackers: a failure is logged and counted."""
        try:
            yield
        except Exception:
            # A tracker's server may go away in the middle of a long run; the same numbers are in metrics.jsonl.
            self._failures += 1
            logger.warning("Step %d could not be sent to %s.", step, self._logging_config.trackers, exc_info=True)


class PhaseTimer:
    """Wall-clock seconds by phase of one step; make a new one for each step."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block; a phase entered again adds up, one left by an exception counts too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """`timing_s/<phase>` of every phase so far, and `timing_s/step` since the timer was made."""
        phases = {f"timing_s/{name}": seconds for name, seconds in self._seconds.items()}
        return {**phases, "timing_s/step": time.perf_counter() - self._started}


class ProgressBar:
    """Progress of a long phase with the time left; use it as a context manager.

    A bar on a terminal; elsewhere a plain line at most every `every_s` seconds, and one at the end.
    """

    def __init__(self, description: str, total: int, *, console: Console | None = None, every_s: float = 10.0) -> None:
        self._description = description
        self._total = total
        self._console = console
        self._every_s = every_s
        self._done = 0
        self._bar: Progress | None = None
        self._started = self._last_line = 0.0

    def __enter__(self) -> ProgressBar:
        self._console = self._console or _console()
        self._started = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = _rich_bar(self._console)
            self._bar.start()
            self._bar.add_task(self._description, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._print(f"in {clock(time.monotonic() - self._started)}")

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], count)
        elif now - self._last_line >= self._every_s and 0 < self._done < self._total:
            self._last_line = now
            self._print(f"left {clock((now - self._started) / self._done * (self._total - self._done))}")

    def _print(self, times: str) -> None:
        assert self._console is not None, "ProgressBar is used outside of its `with` block"
        line = f"{self._description}  {self._done}/{self._total}  {times}"
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _rich_bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
