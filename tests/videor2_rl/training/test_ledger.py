"""The ledger: a table of transitions, what a checkpoint keeps of it, and the check by what was written."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.training.ledger import (
    ENDS,
    TRANSITIONS,
    Ledger,
    LedgerError,
    State,
    StepEnds,
    append_step,
    check_ledger,
    close_step,
    read_ends,
    remove_steps_after,
)

WAYS: dict[State, tuple[State, ...]] = {
    "waiting": (),
    "preparing": ("preparing",),
    "sampling": ("preparing", "sampling"),
    "scored": ("preparing", "sampling", "scored"),
    "training": ("preparing", "sampling", "scored", "training"),
    "trained": ("preparing", "sampling", "scored", "training", "trained"),
    "filtered": ("preparing", "sampling", "scored", "training", "filtered"),
    "skipped": ("preparing", "skipped"),
}
ALSO: set[tuple[State, State]] = {("sampling", "skipped")}
"""A prompt that no engine survives."""


def ledger_at(state: State, number: int = 0, ledger: Ledger | None = None) -> Ledger:
    ledger = ledger or Ledger()
    for step in WAYS[state]:
        ledger.move([number], step)
    return ledger


@pytest.mark.parametrize(("now", "to"), itertools.product(WAYS, WAYS))
def test_a_prompt_goes_the_ways_of_the_table_and_no_other(now: State, to: State) -> None:
    # Number 0 has not ended, so that number 1 is beyond the frontier wherever it is.
    ledger = ledger_at(now, number=1)
    assert ledger.state_of(1) == now
    allowed = ALSO | {(a, b) for way in WAYS.values() for a, b in itertools.pairwise(("waiting", *way))}
    if (now, to) in allowed:
        ledger.move([1], to)
        assert ledger.state_of(1) == to
    else:
        with pytest.raises(LedgerError, match=f"prompt 1 is {now} and cannot become {to}"):
            ledger.move([1], to)
        assert ledger.state_of(1) == now


def test_every_state_is_reached_and_three_are_ends() -> None:
    assert set(TRANSITIONS) == set(WAYS) and {"trained", "skipped", "filtered"} == ENDS


def test_what_has_ended_below_the_frontier_cannot_come_again() -> None:
    ledger = ledger_at("trained")
    assert ledger.frontier == 1
    with pytest.raises(LedgerError, match="prompt 0 has ended before"):
        ledger.move([0], "preparing")


@given(st.permutations(range(8)), st.integers(0, 8), st.lists(st.sampled_from(sorted(ENDS)), min_size=8, max_size=8))
def test_a_checkpoint_keeps_the_ends_and_nothing_that_is_on_its_way(
    order: list[int], num_ended: int, ends: list[State]
) -> None:
    ledger = Ledger()
    for number in order[:num_ended]:
        ledger_at(ends[number], number, ledger)
    for number in order[num_ended:]:
        ledger_at("scored", number, ledger)
    kept = json.loads(json.dumps(ledger.state()))
    again = Ledger(kept)
    assert again.ended == ledger.ended == sorted(order[:num_ended])
    assert all(again.state_of(number) == ledger.state_of(number) for number in again.ended if number >= again.frontier)
    assert {again.state_of(number) for number in order[num_ended:]} <= {"waiting"}
    for number in order[num_ended:]:
        ledger_at(ends[number], number, again)
    assert again.state() == {"frontier": 8, "beyond": {}}


STEPS = (
    StepEnds([0, 1], {2: "unreadable"}, {3: "zero_variance"}),
    StepEnds([5, 4], {6: "unreadable", 7: "missing"}, {}),
)


def test_the_lines_of_a_run_say_how_every_prompt_ended(tmp_path: Path) -> None:
    for step, ends in enumerate(STEPS, 1):
        append_step(tmp_path, step, ends)
    assert json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[1]) == (
        {"step": 2, "trained": [4, 5], "skipped": {"missing": [7], "unreadable": [6]}, "filtered": {}}
    )
    assert [(step, sorted(ends.numbers)) for step, ends in read_ends(tmp_path)] == [
        (1, [0, 1, 2, 3]),
        (2, [4, 5, 6, 7]),
    ]
    assert check_ledger(tmp_path, num_prompts=8) == (
        "ledger: 8 prompts, 4 trained, 1 filtered (zero_variance), 1 skipped (missing), 2 skipped (unreadable); "
        "0 lost, 0 twice"
    )
    ledger = Ledger()
    for number in range(8):
        ledger_at("training" if number not in (2, 6, 7) else "preparing", number, ledger)
    for ends in STEPS:
        close_step(ledger, ends)
    assert ledger.frontier == 8


def test_a_prompt_that_is_missing_or_there_twice_is_found_in_what_was_written(tmp_path: Path) -> None:
    append_step(tmp_path, 1, StepEnds([0, 1], {}, {}))
    append_step(tmp_path, 2, StepEnds([1, 3], {}, {}))
    with pytest.raises(LedgerError, match=r"of 5 prompts 2 were lost \[2, 4\] and 1 trained twice or unknown \[1\]"):
        check_ledger(tmp_path, num_prompts=5)


def test_a_run_that_goes_on_writes_the_later_lines_again_and_a_torn_one(tmp_path: Path) -> None:
    for step, ends in enumerate(STEPS, 1):
        append_step(tmp_path, step, ends)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"step": 3, "tra')
    remove_steps_after(tmp_path, 1)
    assert [step for step, _ in read_ends(tmp_path)] == [1]
    append_step(tmp_path, 2, STEPS[1])
    check_ledger(tmp_path, num_prompts=8)
