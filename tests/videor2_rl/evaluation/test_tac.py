"""Think-answer consistency: what counts as the same answer, and the statistics, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.evaluation.official.cases import Case
from videor2_rl.evaluation.official.reading import PLAIN
from videor2_rl.evaluation.tac import (
    Consistency,
    Question,
    Readings,
    judge_consistency,
    question_of,
    read_by_rules,
    read_reply,
    same_answer,
    statistics,
)

COLOURS = ("red", "green", "blue")
CASE = Case(
    kind="letter",
    letters=PLAIN,
    doc_id=0,
    question="Which?",
    options=COLOURS,
    truth="A",
    response="",
    think="At 00:05 it is green. So the answer is green (B).",
    answer="A",
    logged="A",
    logged_prediction="A",
)
NUMBER = Question("number", (), 100.0, tolerance=0.05)
TEXT = Question("text", (), "red car")

RIGHT_WRONG = (
    [Consistency(1.0, 1.0, 1.0)] * 4
    + [Consistency(0.0, 1.0, 0.0)] * 2
    + [Consistency(1.0, 0.0, 0.0)]
    + [Consistency(0.0, 0.0, 1.0)]
    + [Consistency(0.0, 0.0, 0.0)] * 2  # Two different wrong answers agree in being wrong.
    + [Consistency(None, 1.0, None), Consistency(1.0, None, None)]
)


def means(rows: list[Consistency]) -> dict[str, tuple[float | None, int]]:
    """Mean and number left out of each statistic that has an interval."""
    found: dict[str, Any] = statistics(rows, resamples=10, seed=0)
    return {name: (entry["mean"], entry["num_unscored"]) for name, entry in found.items() if isinstance(entry, dict)}


def derived(rows: list[Consistency]) -> list[Any]:
    found = statistics(rows, resamples=10, seed=0)
    return [found[name] for name in ("disagreement_rate", "signed_disagreement", "mixed_disagreement")]


def test_each_statistic_counts_its_own_rows() -> None:
    expected: dict[str, Any] = {
        # Both right 4 times and both wrong 3 times, of 10 rows in which both can be read.
        "agreement": (pytest.approx(7 / 10), 2),
        # The answer is right 7 times: the think block is right in 4, wrong in 2, unreadable in 1.
        "consistency_accuracy": (pytest.approx(4 / 6), 1),
        "same_answer_rate": (pytest.approx(5 / 10), 2),
        "answer_accuracy": (pytest.approx(7 / 11), 1),
        "think_accuracy": (pytest.approx(6 / 11), 1),
    }
    assert means(RIGHT_WRONG) == expected


def test_disagreement_is_negative_where_the_think_block_is_right_less_often() -> None:
    # 3 of 10 differ; mixed: 0.7 (1 - 0.7^2) + 0.3 (1 - 0.7) = 0.357 + 0.09.
    assert derived(RIGHT_WRONG) == pytest.approx([0.3, -0.3, -0.447])
    swapped = [Consistency(row.answer_right, row.think_right, row.same_answer) for row in RIGHT_WRONG]
    assert derived(swapped) == pytest.approx([0.3, 0.3, 0.447])


def test_disagreement_has_no_sign_where_both_are_right_equally_often() -> None:
    assert derived([Consistency(1.0, 0.0, 0.0), Consistency(0.0, 1.0, 0.0)]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("rows", [[], [Consistency(None, 1.0, None), Consistency(1.0, None, None)]])
def test_without_a_row_in_which_both_can_be_read_there_is_no_disagreement(rows: list[Consistency]) -> None:
    assert derived(rows) == [None, None, None]
    assert means(rows)["agreement"] == (None, len(rows))


@given(
    st.lists(st.tuples(*[st.sampled_from([None, 0.0, 1.0])] * 3).map(lambda values: Consistency(*values)), max_size=8)
)
def test_the_order_of_the_rows_does_not_matter(rows: list[Consistency]) -> None:
    assert derived(rows) == pytest.approx(derived(rows[::-1]))
    assert means(rows) == means(rows[::-1])


@pytest.mark.parametrize(
    ("answer", "other", "expected"),
    [
        (100.0, 95.2, 0.0),  # 4.8 is more than 5 % of 95.2, which is 4.76,
        (95.2, 100.0, 1.0),  # and less than 5 % of 100.
        (95.0, 100.0, 1.0),  # 5 % itself is within.
        (94.9, 100.0, 0.0),
        (-100.0, 100.0, 0.0),
        (-95.0, -100.0, 1.0),
        (0.0, 0.0, 1.0),
        (0.001, 0.0, 0.0),
        (None, 100.0, None),
        (100.0, None, None),
    ],
)
def test_numbers_are_the_same_within_the_tolerance_of_the_second(
    answer: float | None, other: float | None, expected: float | None
) -> None:
    assert same_answer(answer, other, NUMBER) == expected


def test_a_number_may_be_off_by_a_thousandth_unless_its_benchmark_says_otherwise() -> None:
    question = Question("number", (), 100.0)
    assert [same_answer(answer, 100.0, question) for answer in (99.91, 99.89)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "other", "expected"),
    [
        ("the red car", "red car", 1.0),
        ("Red car.", "the red car, it is", 1.0),
        ("red carpet", "red car", 0.0),  # Whole words: "red car" stands in it only as letters.
        ("car red", "red car", 0.0),
        ("!", "red car", 0.0),
        ("red car", "?", 0.0),
    ],
)
def test_texts_are_the_same_where_one_holds_the_words_of_the_other(answer: str, other: str, expected: float) -> None:
    assert same_answer(answer, other, TEXT) == same_answer(other, answer, TEXT) == expected


def test_letters_are_the_same_or_not() -> None:
    question = Question("choice", COLOURS, "A")
    assert [same_answer("A", other, question) for other in ("A", "B", None)] == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("changes", "question"),
    [
        ({}, Question("choice", COLOURS, "A", 0.001)),
        ({"truth": None}, Question("choice", COLOURS, None, 0.001)),
        (
            {"kind": "vsi_letter", "options": ("A. red", "B. green"), "truth": "B"},
            Question("choice", ("red", "green"), "B", 0.001),
        ),
        ({"kind": "vsi_number", "options": (), "truth": 4.0}, Question("number", (), 4.0, 0.05)),
        ({"kind": "open", "options": (), "truth": "12.5"}, Question("number", (), 12.5, 0.001)),
        ({"kind": "open", "options": (), "truth": "a red car"}, Question("text", (), "a red car", 0.001)),
        # Without options a lone letter is a text: there is nothing to choose from.
        ({"kind": "open", "options": (), "truth": "B"}, Question("text", (), "B", 0.001)),
        ({"kind": "open", "options": (), "truth": None}, Question("text", (), None, 0.001)),
    ],
)
def test_a_case_asks_for_a_letter_a_number_or_a_text(changes: dict[str, Any], question: Question) -> None:
    assert question_of(replace(CASE, **changes)) == question


def test_rules_read_each_block_for_itself_and_full_width_letters_too() -> None:
    question = question_of(CASE)
    assert read_by_rules(CASE, question) == Readings(think="B", answer="A")
    wide = replace(CASE, think="So the answer is (\uff22).", answer="\uff23")
    assert read_by_rules(wide, question) == Readings(think="B", answer="C")


def test_think_and_answer_are_each_compared_with_the_truth_and_with_one_another() -> None:
    question = question_of(CASE)
    assert judge_consistency(Readings("B", "A"), question) == Consistency(0.0, 1.0, 0.0)
    assert judge_consistency(Readings("A", "C"), question) == Consistency(1.0, 0.0, 0.0)
    assert judge_consistency(Readings("C", "C"), question) == Consistency(0.0, 0.0, 1.0)
    # The think block is measured against the answer, within 5 % of the answer.
    assert judge_consistency(Readings(95.2, 100.0), NUMBER).same_answer == 1.0
    assert judge_consistency(Readings(100.0, 95.2), NUMBER).same_answer == 0.0


@pytest.mark.parametrize(
    ("reply", "answer"),
    [('{"answer": "B"}', "B"), ('{"answer": "green"}', "B"), ('{"answer": null}', None), ("A or B", None), ("{", None)],
)
def test_a_judges_restatement_is_read_as_an_answer_to_the_question(reply: str, answer: str | None) -> None:
    assert read_reply(reply, question_of(CASE)) == answer
