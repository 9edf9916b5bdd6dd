from __future__ import annotations

from dataclasses import replace

import pytest

from rewards.consistency import consistency_verdict, gate, read_conclusion
from rewards.types import AccuracyConfig, ConsistencyConfig, Verdict, abstained, scored

COLOURS = ("red", "green", "blue", "yellow")
ACCURACY = AccuracyConfig(weight=1.0, number_score="tolerance", number_relative_tolerance=0.001, partial_text=True)

CONCLUSIONS: list[tuple[str, str | None]] = [
    ("At 00:08 a yellow circle appears. The last is red (A).", "A"),
    ("At 00:05 a red square appears. At 00:05 it is red (A).", "A"),
    ("At 00:05 a red square appears. At 00:05 it is red.", "A"),
    ("At 00:05 a red square appears. The first is red.", "A"),
    ("So the answer is B.", "B"),
    ("Therefore, option C is correct.", "C"),
    ("The answer is blue.", "C"),
    ("At 00:05 a red square appears, so the answer is A.", "A"),
    ("It is not B but C. The answer is not B but C.", "C"),
    ("So it is C, not B.", "C"),
    ("So the answer is C rather than B.", "C"),
    ("Option A is wrong. Option B is wrong. So it must be D.", "D"),
    ("Option A is wrong, so the answer is (B).", "B"),
    ("The answer is A. Wait, the answer is B.", "B"),
    ("So the answer is red, since the green one comes later.", "A"),
    ("The answer is (B). At 00:12 a yellow circle appears.", "B"),
    ("**Answer: D**", "D"),
    ("Thus B", "B"),
    ("The answer is A or B.", None),
    ("The answer is not A.", None),
    ("The last is red (B).", None),
    ("At 00:12 a red square appears.", None),
    ("At 00:02 a red square appears. At 00:08 a yellow circle appears.", None),
    ("A red square appears. The shape moves.", None),
    ("Nothing can be seen.", None),
    ("", None),
]


@pytest.mark.parametrize(("think", "letter"), CONCLUSIONS)
def test_the_last_explicit_conclusion_is_read(think: str, letter: str | None) -> None:
    assert read_conclusion(think, kind="choice", options=COLOURS).answer == letter


@pytest.mark.parametrize(
    ("think", "part"),
    [
        ("At 00:08 a. At 00:05 it is red (A).", "At 00:05 it is red (A)."),
        ("At 00:05 a red square appears, so the answer is A.", ", so the answer is A."),
        ("At 00:12 a red square appears.", None),
    ],
)
def test_the_concluding_part_is_located(think: str, part: str | None) -> None:
    span = read_conclusion(think, kind="choice", options=COLOURS).span
    assert (None if span is None else think[span[0] : span[1]]) == part


@pytest.mark.parametrize(
    ("think", "number"),
    [
        ("At 00:05 one car. At 00:09 another. So there are 2 cars.", 2.0),
        ("There are 5 cats. The total is 5 + 2 = 7.", 7.0),
        ("The answer is 1,250. It was hard at 00:10.", 1250.0),
        ("It is unclear.", None),
        ("", None),
    ],
)
def test_a_number_is_the_last_one_of_the_conclusion(think: str, number: float | None) -> None:
    assert read_conclusion(think, kind="number", options=()).answer == number


def verdict_of(think: str, answer: str | None, kind: str, options: tuple[str, ...] = ()) -> Verdict:
    conclusion = read_conclusion(think, kind=kind, options=options)  # type: ignore[arg-type]
    return consistency_verdict(conclusion, answer, kind=kind, options=options, accuracy=ACCURACY)  # type: ignore[arg-type]


def test_the_same_answer_is_consistent_right_or_wrong() -> None:
    assert verdict_of("The last is red (A).", "A", "choice", COLOURS).value == 1.0
    assert verdict_of("The last is red (A).", "(A) red", "choice", COLOURS).value == 1.0
    assert verdict_of("The last is red (A).", "B", "choice", COLOURS).value == 0.0
    assert verdict_of("So there are 2.", "2.0", "number").value == 1.0
    assert verdict_of("So there are 2.", "3", "number").value == 0.0
    assert verdict_of("So the man opens a red door.", "a red door", "text").value == 1.0


@pytest.mark.parametrize(
    ("think", "answer", "kind"),
    [
        ("Nothing.", "A", "choice"),
        ("The last is red (A).", "A or B", "choice"),
        ("The last is red (A).", None, "choice"),
        ("Many.", "3", "number"),
        ("So the man sits.", "a red door", "text"),
        ("", "a red door", "text"),
    ],
)
def test_what_cannot_be_read_abstains(think: str, answer: str | None, kind: str) -> None:
    verdict = verdict_of(think, answer, kind, COLOURS if kind == "choice" else ())
    assert (verdict.status, verdict.value) == ("abstention", None)


def test_the_gate_follows_the_verdict_and_the_option_where_there_is_none() -> None:
    closed = ConsistencyConfig(weight=0.0, reader="rules", unreadable="closed")
    open_ = replace(closed, unreadable="open")
    for config in (closed, open_):
        assert gate(scored(1.0, {}), config) == 1.0
        assert gate(scored(0.0, {}), config) == 0.0
    assert gate(abstained("unreadable"), closed) == 0.0
    assert gate(abstained("unreadable"), open_) == 1.0
