"""Who takes which turn, and what is made of the speeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.generation import ALONE, ALONE_WITHOUT, OURS, Speed, report, take_turns


def test_all_take_turns_and_the_first_repeat_is_not_counted() -> None:
    played: list[tuple[str, str]] = []

    def player(name: str) -> Callable[[Sequence[str]], Speed]:
        def play(prompts: Sequence[str]) -> Speed:
            played.append((name, prompts[0]))
            return Speed(len(played), 1.0)

        return play

    turns = {name: player(name) for name in (OURS, ALONE, ALONE_WITHOUT)}
    found = take_turns(turns, [(["a"], ["A"]), (["b"], ["B"])])
    # Those that share an engine have prompts of their own; who was last begins.
    assert played == [
        (OURS, "a"),
        (ALONE, "a"),
        (ALONE_WITHOUT, "A"),
        (ALONE_WITHOUT, "B"),
        (OURS, "b"),
        (ALONE, "b"),
    ]
    assert found == {OURS: [Speed(5, 1.0)], ALONE: [Speed(6, 1.0)], ALONE_WITHOUT: [Speed(4, 1.0)]}


def test_the_share_is_the_median_of_the_repeats_shares() -> None:
    found = {
        OURS: [Speed(8192, 1.0), Speed(8192, 4.0), Speed(8192, 2.0)],
        ALONE: [Speed(8192, 1.0), Speed(8192, 1.0), Speed(8192, 1.0)],
    }
    assert report(found).splitlines() == [
        "8192 tokens a turn; medians of 3 turns",
        "| | tokens a second | of vLLM alone |",
        "|---|---|---|",
        "| ours | 4,096 | 50 % |",
        "| vLLM alone | 8,192 | 100 % |",
    ]
