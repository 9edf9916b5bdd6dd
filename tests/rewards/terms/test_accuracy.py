from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.terms.accuracy import (
    accuracy_verdict,
    agreement,
    answer_kind,
    read_answer,
    reference_answer,
    text_overlap,
)
from rewards.text.choices import read_choice
from rewards.text.numerals import numbers
from rewards.types import AccuracyConfig, Target

COLOURS = ("red", "green", "blue", "yellow")
CONFIG = AccuracyConfig(weight=1.0, number_score="tolerance", number_relative_tolerance=0.001, partial_text=True)


@pytest.mark.parametrize(
    "answer",
    [
        *("B", "b", "(B)", "B.", "B)", " B ", "**B**", "[B]", "\\boxed{B}", "\uff22"),
        *("B. green", "B) green", "(B) green", "B: green", "B green", "green", "Green.", "the green one", "green (B)"),
        *("The answer is B", "The answer is B.", "Answer: B", "answer is (B)", "Option B", "option B is correct"),
        *(
            "not A but B",
            "B, not A",
            "B rather than C",
            "A is wrong, so B",
            "It isn't C. It is B.",
            "not red but green",
        ),
        *(
            "The correct answer is (B).",
            "answer:B",
            "The answer is: B",
            "Answer - B",
            "<B>",
            "'B'",
            '"B"',
            "B\n",
            "$B$",
        ),
        *(
            "It's B",
            "I choose B",
            "Definitely B!",
            "b) green",
            "GREEN",
            "gr\uff45en",
            "\uff08\uff22\uff09",
            "Option (B)",
        ),
        *("B is correct because green comes first", "the option is B", "choice B", "B, since A and C are wrong"),
        *("Because B", "B because A is ruled out", "A green one", "I think it is B"),
    ],
)
def test_an_answer_that_names_one_option_in_any_usual_way_is_read(answer: str) -> None:
    assert read_choice(answer, COLOURS) == "B"


@pytest.mark.parametrize(
    "answer",
    [
        *("", "?", "none of them", "E", "Z.", "A B C D", "A, B", "A or B", "(A)(B)", "A/B", "red or green", "not B"),
        *("B. red", "red (B)", "A and B", "ABCD", "A red square", "A B", "B is wrong", "neither A nor B"),
    ],
)
def test_an_answer_that_names_several_options_none_or_a_contradiction_is_unreadable(answer: str) -> None:
    expected = "A" if answer == "A red square" else None  # The article is no letter, but red is option A.
    assert read_choice(answer, COLOURS) == expected


def test_letters_go_to_z_without_known_options() -> None:
    assert read_choice("(J)", ()) == "J"
    assert read_choice("The answer is Q.", ()) == "Q"
    assert read_choice("blue", ()) is None


def test_the_longest_option_text_wins_and_shared_texts_name_none() -> None:
    assert read_choice("red and blue", ("red", "red and blue", "blue")) == "B"
    assert read_choice("red", ("red", "red")) is None
    assert read_choice("3", ("2", "3", "30")) == "B"
    assert read_choice("30", ("2", "3", "30")) == "C"


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"))
def test_two_different_letters_are_never_read_as_one(first: str, second: str) -> None:
    read = read_choice(f"{first}, {second}", COLOURS)
    assert read == (first if first == second else None)


@pytest.mark.parametrize(
    ("solution", "question", "kind"),
    [
        ("B", "Which? A. red B. green", "choice"),
        ("green", "Which? A. red B. green", "choice"),
        ("(C)", "Which?", "choice"),
        ("D. a car", "Which?", "choice"),
        ("5", "How many?", "number"),
        ("-1.5e3", "How much?", "number"),
        ("50 %", "How much?", "number"),
        ("1,250", "How many?", "number"),
        ("blue", "Which colour?", "text"),
        ("A cat runs", "What happens?", "text"),
        ("5 apples", "What is there?", "text"),
        ("1/2", "What share?", "number"),
        ("3.2e4", "How many?", "number"),
        ("twelve", "How many?", "text"),
        ("nan", "How many?", "text"),
        ("J", "Which? A. a B. b C. c D. d E. e F. f G. g H. h I. i J. j", "choice"),
        ("Z", "Which?", "choice"),
        ("\uff22", "Which?", "choice"),
    ],
)
def test_the_kind_is_guessed_from_options_and_solution(solution: str, question: str, kind: str) -> None:
    assert answer_kind(Target(question, solution)) == kind


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("choice", ["choice", "mcq", "multiple choice", "multiple_choice"]),
        ("number", ["number", "numerical", "Regression"]),
        ("text", ["text", "OCR", "free form", "Free-form", "open ended"]),
    ],
)
def test_the_dataset_decides_the_kind_where_it_says_so(kind: str, names: list[str]) -> None:
    assert [answer_kind(Target("q", "5", problem_type=name)) for name in names] == [kind] * len(names)
    with pytest.raises(ValueError, match="problem_type 'poetry' is unknown"):
        answer_kind(Target("q", "5", problem_type="poetry"))


def test_a_solution_that_is_not_of_its_kind_raises() -> None:
    with pytest.raises(ValueError, match="no answer of kind 'choice'"):
        reference_answer(Target("Which? A. red B. green", "yellow", problem_type="multiple choice"))
    with pytest.raises(ValueError, match="no answer of kind 'number'"):
        reference_answer(Target("q", "many", problem_type="numerical"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", [12]),
        ("about 12 km", [12]),
        ("12cm", [12]),
        ("-3.5", [-3.5]),
        ("\u22123.5", [-3.5]),
        ("1,234,567.5", [1234567.5]),
        ("1e3", [1000]),
        ("2.5E-2", [0.025]),
        ("50%", [50]),
        ("three", [3]),
        ("\uff11\uff12", [12]),
        ("nan inf -inf", []),
        ("1e999", []),
        ("00:05", []),
        ("x5 v2", []),
        ("5 of 10", [5, 10]),
        ("1,5", []),
        ("12 km/h", [12]),
        ("$1,250.50", [1250.5]),
        ("\u20ac 20", [20]),
        ("20\u00b0C", [20]),
        ("12\\%", [12]),
        (".5", [0.5]),
        ("1 250", [1, 250]),
        ("1\u202f250", [1250]),
        ("1'250'000", [1250000]),
        ("1.2 x 10^3", [1200]),
        ("1.2\u00d710^{-3}", [0.0012]),
        ("2 * 10**4", [20000]),
        ("6.02e23", [6.02e23]),
        ("1/2", [0.5]),
        ("3 / 4", [0.75]),
        ("1/0", []),
        ("12/05/2021", []),
        ("2.5 million people", [2500000]),
        ("3k", [3000]),
        ("3 kg", [3]),
        ("5 + 2 = 7", [7]),
        ("x = 4", [4]),
        ("\u2248 3.14", [3.14]),
        ("twenty-five", [25]),
        ("two hundred and twelve", [212]),
        ("three thousand five hundred", [3500]),
        ("minus one", [-1]),
        ("ninety nine", [99]),
        ("one or two", [1, 2]),
        ("thirteen thousand", [13000]),
        ("and", []),
        ("5th", [5]),
        ("No. 3", [3]),
        ("-0", [0]),
        ("+7", [7]),
        ("1e400", []),
        ("infinity", []),
        ("NaN", []),
    ],
)
def test_numbers_are_read_with_signs_thousands_and_exponents(text: str, expected: list[float]) -> None:
    assert numbers(text) == pytest.approx(expected)


@given(st.floats(min_value=-1e9, max_value=1e9, allow_nan=False))
def test_a_printed_number_is_read_back(value: float) -> None:
    assert numbers(f"it is {value:.6f} m") == [pytest.approx(value, abs=1e-6)]


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        (5.0, 5.0, 1.0),
        (5.004, 5.0, 1.0),  # 0.0008 of 5
        (5.006, 5.0, 0.0),  # 0.0012 of 5
        (0.0, 0.0, 1.0),
        (0.001, 0.0, 0.0),
        (-5.0, 5.0, 0.0),
    ],
)
def test_numbers_agree_within_the_relative_tolerance(answer: float, reference: float, expected: float) -> None:
    assert agreement(answer, reference, config=CONFIG) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("100", 1.0),
        ("105", 1.0),  # 0.05 off: the strictest tolerance is kept.
        ("106", 0.9),
        ("90", 0.9),  # 0.10 off: all but 0.05.
        ("75", 0.6),  # 0.25 off: 0.25, 0.30, ..., 0.50.
        ("150", 0.1),
        ("151", 0.0),
        ("-100", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
    ],
)
def test_mean_relative_accuracy_counts_the_tolerances_kept(answer: str, expected: float) -> None:
    config = replace(CONFIG, number_score="mean_relative_accuracy")
    verdict = accuracy_verdict(read_answer(answer, "number", ()), 100.0, kind="number", config=config)
    assert verdict.value == pytest.approx(expected)


def test_nothing_read_is_wrong() -> None:
    assert agreement(None, 5.0, config=CONFIG) == 0.0
    assert accuracy_verdict(None, "A", kind="choice", config=CONFIG).value == 0.0
    assert read_answer("5 or 6", "number", ()) is None
    assert read_answer("5 or 5.0", "number", ()) == 5.0
    assert read_answer("  ", "text", ()) is None


def test_texts_are_equal_up_to_case_articles_and_punctuation() -> None:
    verdict = accuracy_verdict("The Red Car.", "a red car", kind="text", config=CONFIG)
    assert verdict.value == 1.0
    assert verdict.detail == {"type": "text", "answer": "The Red Car.", "reference": "a red car"}


def test_texts_that_differ_earn_their_overlap_only_where_configured() -> None:
    # Words: 2 common of 3 and 2, F1 = 4/5. Pairs: 1 common of 2 and 1, F1 = 2/3. Mean 11/15.
    assert text_overlap("big red car", "red car") == pytest.approx(11 / 15)
    assert text_overlap("dog", "cat") == 0.0
    # Equal words in another order: F1 of words 1, of pairs 0.
    assert text_overlap("dog bites cat", "cat bites dog") == 0.5
    strict = AccuracyConfig(weight=1.0, number_score="tolerance", number_relative_tolerance=0.0, partial_text=False)
    assert agreement("big red car", "red car", config=strict) == 0.0
    assert agreement("Red car", "red car", config=strict) == 1.0


@given(st.text(max_size=40), st.text(max_size=40))
def test_overlap_is_symmetric_and_between_zero_and_one(first: str, second: str) -> None:
    assert text_overlap(first, second) == text_overlap(second, first)
    assert 0.0 <= text_overlap(first, second) <= 1.0


@pytest.mark.parametrize(("answer", "reference"), [("blue", "black"), ("nan", "5"), ("inf", "5"), ("Answer: C", "A")])
def test_known_traps_of_first_letter_and_float_reading_are_wrong(answer: str, reference: str) -> None:
    target = Target("Which? A. red B. green C. blue" if reference == "A" else "Which?", reference)
    read = read_answer(answer, answer_kind(target), ("red", "green", "blue") if reference == "A" else ())
    assert accuracy_verdict(read, reference_answer(target), kind=answer_kind(target), config=CONFIG).value == 0.0


def test_the_tolerance_is_a_share_of_the_reference() -> None:
    config = replace(CONFIG, number_relative_tolerance=0.05)
    # 4.8 is within 5 % of 100 and not of 95.2, which is 4.76; 5 is 5 % of 100.
    pairs = [(95.2, 100.0), (100.0, 95.2), (95.0, 100.0), (-95.2, -100.0)]
    assert [agreement(answer, reference, config=config) for answer, reference in pairs] == [1.0, 0.0, 1.0, 1.0]


def test_a_letter_or_a_number_at_great_length_is_none_and_a_text_may_be_long() -> None:
    assert [read_answer("B" + " " * spaces, "choice", ()) for spaces in (4095, 4096)] == ["B", None]
    assert [read_answer("7" + " " * spaces, "number", ()) for spaces in (4095, 4096)] == [7.0, None]
    assert read_answer("word " * 1000, "text", ()) == ("word " * 1000).strip()
