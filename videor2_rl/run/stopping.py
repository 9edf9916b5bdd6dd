"""Stopping a run early, by a signal or by the clock, without losing a whole step.

SIGTERM is what `ray job stop`, Slurm and Kubernetes send, SIGINT is Ctrl-C. Either ends the step under way at once, but
an update that has begun is finished: half of one is no state to go on from. A second signal, or the limit, ends it all.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from videor2_rl.run.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)

AGAIN_AFTER_S = 0.01
"""How soon a signal that was lost in a destructor comes again."""


class Stopped(BaseException):
    """A run is to end now; no `Exception`, so that nothing on the way takes it for a failure of its own."""

    def __init__(self, reason: str, *, exit_code: int, may_save: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code
        self.may_save = may_save
        """False: there is no time left for a checkpoint."""


def going_on(run_dir: Path) -> str:
    """How a stopped run goes on, from what its folder holds."""
    newest = Checkpoints(run_dir, keep=1).newest()
    if newest is None:
        return f"{run_dir} holds no checkpoint: the same command with output_dir={run_dir} begins anew"
    return f"the same command with output_dir={run_dir} goes on after step {newest.step}"


class Stopping:
    """Turns signals and `max_hours` into `Stopped`; use it as a context manager in the main thread."""

    def __init__(self, *, limit_s: float, max_hours: float | None) -> None:
        """
        Args:
            limit_s: seconds from the first signal until everything is given up.
            max_hours: of this process, from now on; None: no end.
        """
        self._limit_s = limit_s
        self._max_hours = max_hours
        self._started = time.monotonic()
        self._pending: Stopped | None = None
        self._depth = 0
        self._timer: threading.Timer | None = None
        self._lost: Stopped | None = None
        """Raised where it ended nothing."""
        self._again: threading.Timer | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._hook_before = sys.unraisablehook

    def __enter__(self) -> Stopping:
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        sys.unraisablehook = self._hook_before
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """Around what must not be cut in two: a signal that comes in here is heeded at the end of the block."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._pending is not None and self._depth == 0:
            raise self._pending

    def before_step(self, last_step_s: float) -> None:
        """Raise `Stopped` where another step as long as the last one would end after `max_hours`."""
        if self._max_hours is None:
            return
        if time.monotonic() - self._started + last_step_s > self._max_hours * 3600:
            raise Stopped(f"checkpoint.max_hours={self._max_hours:g}", exit_code=0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._lost is not None and self._again is not None:
            # A signal of its own that comes meanwhile counts as this one.
            self._again.cancel()
            lost, self._lost = self._lost, None
            if self._depth == 0 or not lost.may_save:
                raise lost
            return
        name = signal.Signals(number).name
        if self._pending is not None:
            raise Stopped(f"{self._pending.reason}, then {name}", exit_code=128 + number, may_save=False)
        self._pending = Stopped(name, exit_code=128 + number)
        logger.info("%s: stopping with a checkpoint, within %g s; once more stops without", name, self._limit_s)
        self._timer = threading.Timer(self._limit_s, self._give_up, args=(number,))
        self._timer.daemon = True
        self._timer.start()
        if self._depth == 0:
            raise self._pending

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs, /) -> None:
        """Python drops what is raised in a destructor or a weak reference's callback, by a signal's handler too."""
        error = unraisable.exc_value
        if not isinstance(error, Stopped):
            self._hook_before(unraisable)
            return
        self._lost = error
        # Not from here, which is inside the destructor still.
        self._again = threading.Timer(AGAIN_AFTER_S, os.kill, args=(os.getpid(), signal.SIGTERM))
        self._again.daemon = True
        self._again.start()

    def _give_up(self, number: int) -> None:
        logger.warning("not stopped within checkpoint.stop_within_s=%g s; giving up", self._limit_s)
        # To the main thread, where the handler raises.
        os.kill(os.getpid(), number)
