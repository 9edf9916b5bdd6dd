"""Format and accuracy as the paper's code computes them: the type of a question is guessed from its solution alone."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from rewards.official.text import mean_rouge, word_error_rate
from rewards.types import Verdict, scored

QuestionType: TypeAlias = Literal["multiple choice", "numerical", "regression", "OCR", "free-form"]

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})*|\d+)(?:\.\d+)?")
_PLAIN_WORDS = re.compile(r"[A-Za-z0-9\s\-:]+")
_BETWEEN_BLOCKS = re.compile(r"</think>\s*<answer>")
_OPTION_LETTERS = "ABCDEabcde"


def first_block(text: str, name: Literal["think", "answer"]) -> str:
    """The text between the first opening tag and the first closing tag behind it, stripped; "" where there is none."""
    start = text.find(f"<{name}>")
    end = text.find(f"</{name}>", start + len(name) + 2) if start >= 0 else -1
    return text[start + len(name) + 2 : end].strip() if end >= 0 else ""


def format_verdict(response: str) -> Verdict:
    """1 where the whole response is a think block and then an answer block, with only white space between them.

    Empty blocks and tags inside blocks pass; a line break behind the last tag, or anything before the first, does not.
    """
    start, end = len("<think>"), len(response) - len("</answer>")
    passes = (
        response.startswith("<think>")
        and response.endswith("</answer>")
        and _BETWEEN_BLOCKS.search(response, start, max(start, end)) is not None
    )
    return scored(float(passes), {"fault": None if passes else "not <think>...</think><answer>...</answer>"})


def solution_answer(solution: str) -> str:
    """The first answer block of a tagged solution; a solution without any tag is the answer itself."""
    if "<answer>" in solution or "<think>" in solution:
        return first_block(solution, "answer")
    return solution.strip()


def question_type(answer: str) -> QuestionType:
    """The type of a question, guessed from its expected answer in this order.

    Multiple choice: the first character is a letter from a to e, whatever follows ("blue" too). Regression: a number
    with more than three decimals; numerical: any other number. OCR: one to five words of ASCII letters, digits, hyphens
    and colons. Free-form: the rest.
    """
    if answer[:1] and answer[0] in _OPTION_LETTERS:
        return "multiple choice"
    if _NUMBER.fullmatch(answer):
        return "regression" if len(answer.partition(".")[2]) > 3 else "numerical"
    if len(answer.split()) <= 5 and _PLAIN_WORDS.fullmatch(answer):
        return "OCR"
    return "free-form"


def accuracy_verdict(response: str, solution: str) -> Verdict:
    """The first answer block against the solution, by the guessed type."""
    reference, kind = _read_solution(solution)
    answer = first_block(response, "answer")
    detail: dict[str, Any] = {"type": kind, "answer": answer, "reference": reference}
    return scored(_accuracy(answer, reference, kind), detail)


@lru_cache(maxsize=4096)
def _read_solution(solution: str) -> tuple[str, QuestionType]:
    reference = solution_answer(solution)
    return reference, question_type(reference)


def _accuracy(answer: str, reference: str, kind: QuestionType) -> float:
    if kind == "multiple choice":
        return float(answer[:1] != "" and answer[0] in _OPTION_LETTERS and answer[0].upper() == reference[0].upper())
    if kind == "OCR":
        return _clipped(1 - word_error_rate(reference, answer))
    if kind == "free-form":
        return _clipped(mean_rouge(reference, answer))
    ours, theirs = _number(answer), _number(reference)
    if ours is None or theirs is None:
        return 0.0
    if kind == "numerical":
        # 5 and 5.0 differ, and so do 1,000 and 1000.
        is_marked_alike = _has_mark(answer) == _has_mark(reference)
        return float(is_marked_alike and round(ours, 2) == round(theirs, 2))
    return _clipped(1 - (abs(ours - theirs) + 1e-9) / (abs(theirs) + 1e-9))


def _clipped(value: float) -> float:
    """Into [0, 1]; not a number becomes 1, since it is not less than 1: so the answer `nan` is right."""
    return max(0.0, min(1.0, value))


def _has_mark(text: str) -> bool:
    return "." in text or "," in text


def _number(text: str) -> float | None:
    """As Python reads it without commas, `nan`, `inf` and `1_0` included."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
