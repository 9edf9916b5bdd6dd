"""Room for prepared pixels, beside a count made anew each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.training.room import Room

STEPS = st.lists(st.tuples(st.sampled_from(["enter", "measured", "leave"]), st.integers(0, 5), st.integers(0, 50)))


@given(STEPS)
def test_it_knows_what_is_held_and_leaves_room_for_the_largest(steps: list[tuple[str, int, int]]) -> None:
    room, held, largest = Room(100), dict[int, int | None](), 0
    for what, number, size in steps:
        if what == "enter" and number not in held:
            room.enter(number)
            held[number] = None
        elif what == "measured" and held.get(number, 0) is None:
            room.measured(number, size)
            held[number], largest = size, max(largest, size)
        elif what == "leave":
            room.leave(number)
            held.pop(number, None)
        known = [size for size in held.values() if size is not None]
        assert room.is_below_limit == (sum(known) < 100)
        expected = sum(known) + (len(held) - len(known)) * largest < 100 if known else not held
        assert room.has_room == expected
