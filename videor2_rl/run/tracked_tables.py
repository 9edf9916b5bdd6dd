"""Tables for the trackers that have them: W&B as tables, TensorBoard as text."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from videor2_rl.config.sections import LoggingConfig
from videor2_rl.run.trackers import finish_trackers, start_trackers

if TYPE_CHECKING:
    from verl.utils.tracking import Tracking

logger = logging.getLogger(__name__)


class TableTracker:
    """Of an app without steps; use it as a context manager. Without trackers it does nothing."""

    def __init__(self, run_dir: Path, logging_config: LoggingConfig, *, config: Mapping[str, Any]) -> None:
        """
        Args:
            config: the resolved configuration as plain values, for the trackers.
        """
        self._run_dir = run_dir
        self._logging_config = logging_config
        self._config = config
        self._backends: Tracking | None = None

    def __enter__(self) -> TableTracker:
        """
        Raises:
            ConfigError: a tracker cannot start.
        """
        if self._logging_config.trackers:
            self._backends = start_trackers(self._run_dir, self._logging_config, self._config)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._backends is not None:
            finish_trackers(self._backends, exit_code=0 if kind is None else 1)
            self._backends = None

    def log(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Give the trackers a table; one that fails is logged, for what it would have had is in the folder too."""
        if self._backends is None:
            return
        loggers = self._backends.logger
        try:
            if "wandb" in loggers:
                wandb = loggers["wandb"]
                wandb.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})
            if "tensorboard" in loggers:
                loggers["tensorboard"].writer.add_text(name, markdown(columns, rows), 0)
        except Exception:
            # A tracker's server may go away after an evaluation of hours.
            logger.warning("%s could not be sent to %s", name, self._logging_config.trackers, exc_info=True)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The rows as a Markdown table; what a model wrote becomes code, which is never markup."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(_cell, row))} |" for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return str(value)
    text = " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
    return f"`{text}`" if text else ""
