from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rewards.terms.accuracy import Kind
from rewards.terms.consistency import consistency_verdict, gate, read_conclusion
from rewards.text.choices import normalise
from rewards.types import AccuracyConfig, ConsistencyConfig, Verdict, abstained, scored

COLOURS = ("red", "green", "blue", "yellow")
ACCURACY = AccuracyConfig(weight=1.0, number_score="tolerance", number_relative_tolerance=0.001, partial_text=True)

ACTIONS = ("He opens the door.", "He closes the door.", "He sits down.", "None of the above")
QUESTIONS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "colours": ("choice", COLOURS),
    "actions": ("choice", ACTIONS),
    "numbers": ("number", ()),
}


@pytest.mark.parametrize("about", QUESTIONS)
def test_the_last_explicit_conclusion_is_read(about: str, read_corpus: Callable[..., list]) -> None:
    kind, options = QUESTIONS[about]
    rows = [row.cells for row in read_corpus("conclusions") if row.about == about]
    wrong = {}
    for text, label in rows:
        think = normalise("" if text == "(empty)" else text)
        expected = None if label == "None" else float(label) if kind == "number" else label
        read = read_conclusion(think, kind=kind, options=options).answer
        if read != expected:
            wrong[text] = (read, expected)
    assert rows and not wrong


def test_the_corpus_has_at_least_80_conclusions(read_corpus: Callable[..., list]) -> None:
    assert len(read_corpus("conclusions")) >= 80


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


@pytest.mark.parametrize(("behind", "answer"), [(39, "A"), (40, None)])
def test_a_conclusion_is_looked_for_in_the_last_40_sentences(behind: int, answer: str | None) -> None:
    think = "So the answer is red (A). " + "Nothing moves. " * behind
    assert read_conclusion(think, kind="choice", options=COLOURS).answer == answer
