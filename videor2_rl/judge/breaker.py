"""The circuit breaker: nobody asks a server that is away, and everybody waits until it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from videor2_rl.config.errors import ConfigError


class JudgeDown(ConfigError):
    """The judge has been away for too long, or says too little that can be used; names address and mend."""


class Breaker:
    """Opens after failures in a row; a probe closes it. Lives in one event loop.

    `trip` and `failed` open it, `answered` and a probe that succeeds close it. While it is open, `wait_closed` blocks;
    after `patience_s` it raises JudgeDown.
    """

    def __init__(
        self,
        address: str,
        *,
        mend: str,
        failures: int,
        probe_every_s: float,
        patience_s: float,
        probe: Callable[[], Awaitable[str | None]],
        notify: Callable[[str], None],
    ) -> None:
        """
        Args:
            address, mend: for messages: where the server is, and what to do when it stays away.
            failures: in a row, that open it.
            probe: asks the server something small; None when it answered, else what is wrong.
            notify: gets one sentence when it opens and one when it closes.
        """
        self.answers = 0
        """Replies that the server has given so far, to probes too."""
        self.paused_s = 0.0
        """Seconds open so far, without the present pause."""
        self._address = address
        self._mend = mend
        self._failures = failures
        self._probe_every_s = probe_every_s
        self._patience_s = patience_s
        self._probe = probe
        self._notify = notify
        self._in_a_row = 0
        self._opened_at = 0.0
        self._prober: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._prober is not None

    def answered(self) -> None:
        """The server replied to a call."""
        self.answers += 1
        self._in_a_row = 0
        if self._prober is not None:
            self._prober.cancel()
            self._close()

    def failed(self, reason: str) -> None:
        """A request failed for want of a server."""
        self._in_a_row += 1
        if self._in_a_row >= self._failures:
            self.trip(reason)

    def trip(self, reason: str) -> None:
        """Open now."""
        if self._prober is None:
            self._opened_at = time.monotonic()
            self._notify(
                f"the judge at {self._address} fails ({reason}): scoring pauses, looks for it every "
                f"{self._probe_every_s:g} s and stops the run after {self._patience_s:g} s"
            )
            self._prober = asyncio.create_task(self._probe_until_back(reason))

    async def wait_closed(self) -> bool:
        """Return when calls may go out; True where that took a pause.

        Raises:
            JudgeDown: the server stayed away.
        """
        has_waited = False
        while (prober := self._prober) is not None:
            has_waited = True
            # `await prober` would take the prober along with a cancelled call, and the call along with a prober that
            # `answered` cancels.
            await asyncio.wait({prober})
            if not prober.cancelled() and (error := prober.exception()) is not None:
                raise error
        return has_waited

    async def stop(self) -> None:
        """End the prober; the breaker stays open if it was."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
            self._prober = None

    async def _probe_until_back(self, reason: str) -> None:
        while True:
            await asyncio.sleep(self._probe_every_s)
            problem = await self._probe()
            if problem is None:
                break
            reason = problem
            if time.monotonic() - self._opened_at >= self._patience_s:
                raise JudgeDown(
                    f"the judge at {self._address} has been away for {self._patience_s:g} s ({reason}); {self._mend}, "
                    "then go on with the same command and output_dir"
                )
        self.answers += 1
        self._in_a_row = 0
        self._close()

    def _close(self) -> None:
        away_s = time.monotonic() - self._opened_at
        self.paused_s += away_s
        self._prober = None
        self._notify(f"the judge at {self._address} answers again after {away_s:.0f} s: going on")
