"""The window: what may set out, in which order it is taken, and how stale it can get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.training.window import Window, staleness_bound


@dataclass
class Walk:
    """A run without workers: groups get ready in any order, steps train when they can."""

    window: Window
    admitted_at: dict[int, int] = field(default_factory=dict)
    on_the_way: list[int] = field(default_factory=list)
    trained: list[list[int]] = field(default_factory=list)
    most_active: int = 0

    def admit(self) -> None:
        for number in self.window.admit():
            self.admitted_at[number] = len(self.trained)
            self.on_the_way.append(number)
        self.most_active = max(self.most_active, len(self.admitted_at) - sum(map(len, self.trained)))

    def get_ready(self, place: int) -> None:
        self.window.ready(self.on_the_way.pop(place % len(self.on_the_way)))

    def train(self) -> bool:
        numbers = self.window.take()
        if numbers is None:
            return False
        self.trained.append(numbers)
        self.window.release(numbers)
        return True


@dataclass(frozen=True)
class Case:
    """Windows of these sizes."""

    per_step: int
    max_staleness: int
    lookahead: int
    num_steps: int

    @property
    def end(self) -> int:
        return self.per_step * self.num_steps

    def window(self, *, taken: Sequence[int] = ()) -> Window:
        return Window(
            prompts_per_step=self.per_step,
            max_staleness=self.max_staleness,
            lookahead=self.lookahead,
            end=self.end,
            taken=taken,
        )


CASES = st.builds(Case, st.integers(1, 5), st.integers(0, 4), st.integers(0, 12), st.integers(1, 8))


@given(CASES, st.data())
def test_every_prompt_is_trained_once_and_none_is_staler_than_the_bound(case: Case, data: st.DataObject) -> None:
    walk = Walk(case.window())
    walk.admit()
    while walk.on_the_way:
        walk.get_ready(data.draw(st.integers(0, 99)))
        # The learner may be slow: several steps' groups wait for it.
        while data.draw(st.booleans()) and walk.train():
            walk.admit()
        if not walk.on_the_way:
            while walk.train():
                walk.admit()
    assert sorted(number for step in walk.trained for number in step) == list(range(case.end))
    assert all(len(step) == case.per_step for step in walk.trained)
    assert walk.most_active <= (case.max_staleness + 1) * case.per_step
    bound = staleness_bound(prompts_per_step=case.per_step, max_staleness=case.max_staleness, lookahead=case.lookahead)
    staleness = [step - walk.admitted_at[number] for step, numbers in enumerate(walk.trained) for number in numbers]
    assert max(staleness) <= bound
    if case.lookahead == 0:
        assert [number for step in walk.trained for number in step] == list(range(case.end))
        assert max(staleness) <= case.max_staleness


def step_by_definition(ready: set[int], taken: set[int], *, per_step: int, lookahead: int) -> list[int] | None:
    """The oldest ready prompt that is at most `lookahead` beyond the oldest one that was not taken, again and again."""
    taken = set(taken)
    step: list[int] = []
    while len(step) < per_step:
        head = next(number for number in range(10**6) if number not in taken)
        within = [number for number in sorted(ready - taken) if number <= head + lookahead]
        if not within:
            return None
        step.append(within[0])
        taken.add(within[0])
    return step


@given(CASES, st.data())
def test_a_step_is_taken_as_soon_as_there_is_one_and_the_one_that_the_definition_gives(
    case: Case, data: st.DataObject
) -> None:
    window = case.window()
    on_the_way, ready, taken = window.admit(), set[int](), set[int]()
    while on_the_way:
        number = on_the_way.pop(data.draw(st.integers(0, len(on_the_way) - 1)))
        window.ready(number)
        ready.add(number)
        while True:
            expected = step_by_definition(ready, taken, per_step=case.per_step, lookahead=case.lookahead)
            assert window.take() == expected
            if expected is None:
                break
            taken |= set(expected)
            window.release(expected)
            on_the_way += window.admit()
    assert taken == set(range(case.end))


@given(CASES, st.data())
def test_a_window_that_goes_on_takes_what_was_not_taken_and_nothing_else(case: Case, data: st.DataObject) -> None:
    walk = Walk(case.window())
    walk.admit()
    for _ in range(data.draw(st.integers(0, case.end))):
        if walk.on_the_way:
            walk.get_ready(data.draw(st.integers(0, 99)))
        if walk.train():
            walk.admit()
    before = [number for step in walk.trained for number in step]
    again = Walk(case.window(taken=before))
    again.admit()
    while again.on_the_way:
        again.get_ready(0)
        while again.train():
            again.admit()
    assert sorted([*before, *(number for step in again.trained for number in step)]) == list(range(case.end))


def test_without_staleness_a_step_sets_out_whole_when_the_one_before_is_released() -> None:
    window = Window(prompts_per_step=3, max_staleness=0, lookahead=0, end=9)
    assert window.admit() == [0, 1, 2]
    assert window.admit() == [] and window.ahead() == [3, 4, 5]
    for number in (2, 0):
        window.ready(number)
    assert window.take() is None
    window.ready(1)
    assert window.take() == [0, 1, 2]
    # Taken is not released: its weights are not out.
    assert window.admit() == []
    window.release([0, 1, 2])
    assert window.admit() == [3, 4, 5]


def test_one_step_off_fills_one_step_while_another_trains() -> None:
    window = Window(prompts_per_step=2, max_staleness=1, lookahead=0, end=6)
    assert window.admit() == [0, 1, 2, 3]
    for number in (2, 3, 0, 1):
        window.ready(number)
    assert window.take() == [0, 1]
    window.release([0, 1])
    assert window.admit() == [4, 5] and window.ahead() == []
    assert window.take() == [2, 3]


def test_a_stuck_head_is_passed_by_as_many_as_may_look_ahead_and_not_one_more() -> None:
    window = Window(prompts_per_step=2, max_staleness=2, lookahead=3, end=12)
    assert window.admit() == [0, 1, 2, 3, 4, 5]
    for number in (1, 2, 4, 5):
        window.ready(number)
    assert window.take() == [1, 2]
    window.release([1, 2])
    assert window.admit() == [6, 7]
    # 3 would be the third to pass; 4 and 5 stand beyond.
    assert window.take() is None
    window.ready(3)
    assert window.take() is None
    window.ready(0)
    assert window.take() == [0, 3]
    window.release([0, 3])
    assert window.take() == [4, 5]


def test_what_never_set_out_or_came_twice_is_refused() -> None:
    window = Window(prompts_per_step=2, max_staleness=0, lookahead=0, end=4)
    window.admit()
    window.ready(0)
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"prompt {number} is not on its way"):
            window.ready(number)
    with pytest.raises(ValueError, match=r"\[2, 3\] are not active"):
        window.release([1, 2, 3])
    with pytest.raises(ValueError, match="7 prompts are no whole number of steps of 2"):
        Window(prompts_per_step=2, max_staleness=0, lookahead=0, end=7)
