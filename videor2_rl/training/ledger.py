"""What became of every prompt of the sample order: each number ends once, whatever dies on the way.

A number is a place in the sample order, and gives the prompt's sample and the seeds of its responses: to issue it again
nothing else is needed. What has ended is counted; what has not is lost with the process and issued again by a run that
goes on, from the frontier that its checkpoint kept. `ledger.jsonl` says of each step what it did with which numbers, so
that the end of a run can be checked by what was written, not by what this process believes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from videor2_rl.run.files import read_jsonl, write_jsonl_atomic

LEDGER_FILE = "ledger.jsonl"

State = Literal["waiting", "preparing", "sampling", "scored", "training", "trained", "skipped", "filtered"]

TRANSITIONS: Mapping[State, frozenset[State]] = {
    "waiting": frozenset({"preparing"}),
    # A prompt that cannot be used is as ready for its step as one that was scored.
    "preparing": frozenset({"sampling", "skipped"}),
    # A prompt that no engine survives is skipped too.
    "sampling": frozenset({"scored", "skipped"}),
    "scored": frozenset({"training"}),
    "training": frozenset({"trained", "filtered"}),
    "trained": frozenset(),
    "skipped": frozenset(),
    "filtered": frozenset(),
}
"""State -> those that may follow. A worker that is lost leaves its prompts sampling: its pool issues them again. When
the process ends, whatever has not ended is waiting again."""
ENDS: frozenset[State] = frozenset(state for state, following in TRANSITIONS.items() if not following)


class LedgerError(RuntimeError):
    """A prompt was about to be trained twice, or would have been lost."""


class Ledger:
    """The states of the numbers from 0 on; of those that have ended without a gap only where they end is kept."""

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            kept: what `state` gave for a checkpoint; None: a new run.
        """
        kept = kept or {"frontier": 0, "beyond": {}}
        self._frontier = int(kept["frontier"])
        self._states: dict[int, State] = {int(number): state for number, state in kept["beyond"].items()}
        """Of the numbers from the frontier on; those that are missing wait."""

    @property
    def frontier(self) -> int:
        """All numbers below it have ended."""
        return self._frontier

    @property
    def ended(self) -> list[int]:
        """The numbers that have ended, in order."""
        return [*range(self._frontier), *sorted(self._beyond())]

    @property
    def in_flight(self) -> int:
        """Numbers that are on their way: neither waiting nor ended."""
        # A copy: numbers are moved in another thread.
        return sum(state not in ENDS for state in list(self._states.values()))

    def state_of(self, number: int) -> State:
        """Where a number is.

        Raises:
            LedgerError: it is below the frontier.
        """
        if number < self._frontier:
            raise LedgerError(f"prompt {number} has ended before")
        return self._states.get(number, "waiting")

    def move(self, numbers: Iterable[int], to: State) -> None:
        """Take numbers to their next state.

        Raises:
            LedgerError: the table has no such transition; the first such number is named, those before it are moved.
        """
        for number in numbers:
            now = self.state_of(number)
            if to not in TRANSITIONS[now]:
                raise LedgerError(f"prompt {number} is {now} and cannot become {to}")
            self._states[number] = to
        while self._states.get(self._frontier) in ENDS:
            del self._states[self._frontier]
            self._frontier += 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint, JSON-able: the frontier, and what has ended beyond it; all else will be issued again."""
        return {"frontier": self._frontier, "beyond": {str(n): state for n, state in sorted(self._beyond().items())}}

    def _beyond(self) -> dict[int, State]:
        return {number: state for number, state in self._states.items() if state in ENDS}


@dataclass(frozen=True)
class StepEnds:
    """What a step did with its prompts; number -> reason where they taught nothing."""

    trained: Sequence[int]
    skipped: Mapping[int, str]
    filtered: Mapping[int, str]

    @property
    def numbers(self) -> list[int]:
        return [*self.trained, *self.skipped, *self.filtered]


def close_step(ledger: Ledger, ends: StepEnds) -> None:
    """All of a step's prompts have ended."""
    ledger.move(ends.trained, "trained")
    ledger.move(ends.filtered, "filtered")
    ledger.move(ends.skipped, "skipped")


def append_step(run_dir: Path, step: int, ends: StepEnds) -> None:
    """Add a step's line to ledger.jsonl; it is on the disk when this returns."""
    row = {"step": step, "trained": sorted(ends.trained), "skipped": _by_reason(ends.skipped)}
    with (run_dir / LEDGER_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "filtered": _by_reason(ends.filtered)}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def remove_steps_after(run_dir: Path, step: int) -> None:
    """Drop the lines of later steps, which a run resumed after `step` writes again."""
    path = run_dir / LEDGER_FILE
    if path.exists():
        write_jsonl_atomic(path, [row for row in read_jsonl(path, torn_last_line=True) if row["step"] <= step])


def read_ends(run_dir: Path) -> list[tuple[int, StepEnds]]:
    """The lines of ledger.jsonl: step, and what it did."""
    path = run_dir / LEDGER_FILE
    rows = read_jsonl(path, torn_last_line=True) if path.exists() else []
    return [(row["step"], StepEnds(row["trained"], _flat(row["skipped"]), _flat(row["filtered"]))) for row in rows]


def check_ledger(run_dir: Path, *, num_prompts: int) -> str:
    """Hold what was written against the sample order; one line that says how all prompts ended.

    Args:
        num_prompts: of the run, all its steps together.

    Raises:
        LedgerError: a number is missing or stands there twice; the first ones are named.
    """
    steps = read_ends(run_dir)
    seen = Counter(number for _, ends in steps for number in ends.numbers)
    lost = [number for number in range(num_prompts) if number not in seen]
    twice = [number for number, count in seen.items() if count > 1 or not 0 <= number < num_prompts]
    if lost or twice:
        raise LedgerError(
            f"{run_dir / LEDGER_FILE}: of {num_prompts} prompts {len(lost)} were lost {lost[:5]} and "
            f"{len(twice)} trained twice or unknown {sorted(twice)[:5]}"
        )
    trained = sum(len(ends.trained) for _, ends in steps)
    others = [f"{count} {reason}" for reason, count in sorted(_reasons(steps).items())]
    return f"ledger: {num_prompts} prompts, {', '.join([f'{trained} trained', *others])}; 0 lost, 0 twice"


def _reasons(steps: Sequence[tuple[int, StepEnds]]) -> Counter[str]:
    return Counter(
        f"{state} ({reason})"
        for _, ends in steps
        for state, reasons in (("skipped", ends.skipped), ("filtered", ends.filtered))
        for reason in reasons.values()
    )


def _by_reason(reasons: Mapping[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, reason in sorted(reasons.items()):
        found.setdefault(reason, []).append(number)
    return found


def _flat(by_reason: Mapping[str, Sequence[int]]) -> dict[int, str]:
    return {number: reason for reason, numbers in by_reason.items() for number in numbers}
