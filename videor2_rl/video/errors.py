"""Why a clip cannot be used."""

from __future__ import annotations

from typing import Literal

Reason = Literal["missing", "empty", "unreadable", "too_short", "too_long", "bad_times"]


class VideoError(Exception):
    """One sample that has to be left out; every other failure is the run's own."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
