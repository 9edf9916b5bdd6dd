"""The accuracy term: the answer block against the solution, by kind of answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, TypeAlias

from rewards.text.choices import normalise, read_choice
from rewards.text.numerals import is_number, numbers
from rewards.text.parsing import options_in, solution_text, words
from rewards.text.times import Interval, times_in, whole_time
from rewards.types import AccuracyConfig, Target, Verdict, scored

Kind: TypeAlias = Literal["choice", "number", "text"]
Answer: TypeAlias = str | float
"""A letter, a number, or a text."""

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "choice": "choice",
        "mcq": "choice",
        "multiple choice": "choice",
        "number": "number",
        "numerical": "number",
        "regression": "number",
        "text": "text",
        "ocr": "text",
        "free form": "text",
        "open ended": "text",
    }
)
"""A dataset's `problem_type` (any case, hyphens and underscores as spaces) -> kind of answer."""

_MAX_ANSWER_CHARS = 4_096
_TIME_TOLERANCE_S = 0.5
_LONE_LETTER = re.compile(r"\(?[A-Z](?:\)|[.:)](?:\s.*)?)?", re.DOTALL)


def answer_kind(target: Target) -> Kind:
    """The kind of answer a target asks for: its `problem_type`, else guessed from options and solution.

    A single letter, or a solution that names one option, is a choice; digits alone are a number; the rest is text.

    Raises:
        ValueError: a `problem_type` that is not in KINDS.
    """
    if target.problem_type is not None:
        name = re.sub(r"[-_\s]+", " ", target.problem_type.strip().casefold())
        if name not in KINDS:
            raise ValueError(f"The problem_type {target.problem_type!r} is unknown; use one of {', '.join(KINDS)}.")
        return KINDS[name]
    solution = solution_text(target.solution)
    options = target_options(target)
    if options and read_choice(solution, options) is not None:
        return "choice"
    if _LONE_LETTER.fullmatch(normalise(solution)):
        return "choice"
    return "number" if is_number(solution) else "text"


def target_options(target: Target) -> tuple[str, ...]:
    """The target's options, read from the question where it lists them and the row does not."""
    return target.options or options_in(target.question)


def reference_answer(target: Target) -> Answer:
    """The expected answer.

    Raises:
        ValueError: the solution is empty or not of its kind.
    """
    solution = solution_text(target.solution)
    kind = answer_kind(target)
    answer = read_answer(solution, kind, target_options(target))
    if answer is None:
        raise ValueError(
            f"The solution {solution!r} is no answer of kind {kind!r} (options: {list(target_options(target))}); "
            "mend the solution, the options or the problem_type."
        )
    return answer


def read_answer(text: str, kind: Kind, options: tuple[str, ...]) -> Answer | None:
    """What a text answers, or None where it answers nothing, several things at once, or a letter at great length."""
    if kind != "text" and len(text) > _MAX_ANSWER_CHARS:
        return None
    if kind == "choice":
        return read_choice(text, options)
    if kind == "number":
        found = set(numbers(text))
        return found.pop() if len(found) == 1 else None
    return text.strip() or None


def mean_relative_accuracy(answer: float, reference: float) -> float:
    """The share of ten tolerances, 0.50 down to 0.05 of the reference, that an answer keeps (arXiv:2412.14171)."""
    # The absolute part only serves a reference of 0, and tolerances that decimals miss by rounding.
    error = abs(answer - reference)
    return sum(error <= share / 100 * abs(reference) + 1e-9 for share in range(5, 55, 5)) / 10


def agreement(answer: Answer | None, reference: Answer, *, config: AccuracyConfig) -> float:
    """Whether two answers are the same, for texts how nearly, in [0, 1]; None is 0.

    A reference that is a time, or a range of times, compares as one: `0:05`, `5 s` and `00:05` are equal.
    """
    if isinstance(answer, float) and isinstance(reference, float):
        # The absolute part only serves a solution of 0.
        return float(abs(answer - reference) <= config.number_relative_tolerance * abs(reference) + 1e-9)
    if isinstance(answer, str) and isinstance(reference, str):
        if answer == reference:
            return 1.0
        time = whole_time(reference)
        if time is not None:
            found = times_in(answer)
            return float(len(found) == 1 and same_time(found[0], time))
        return text_overlap(answer, reference) if config.partial_text else float(words(answer) == words(reference))
    return 0.0


def same_time(first: Interval, second: Interval) -> bool:
    """Whether two times, or ranges of times, are the same to half a second: stamps are of whole ones."""
    return all(abs(a - b) <= _TIME_TOLERANCE_S for a, b in zip(first, second, strict=True))


def text_overlap(answer: str, reference: str) -> float:
    """1 for equal words in equal order, else the mean F1 of single words and of word pairs (ROUGE-1 and ROUGE-2)."""
    ours, theirs = words(answer), words(reference)
    if ours == theirs:
        return float(bool(ours))
    pairs = _f1(list(pairwise(ours)), list(pairwise(theirs)))
    return (_f1(ours, theirs) + pairs) / 2


def _f1(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> float:
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def accuracy_verdict(answer: Answer | None, reference: Answer, *, kind: Kind, config: AccuracyConfig) -> Verdict:
    """Letters: equal or not. Numbers: as `number_score` says. Texts: equal words, else their overlap where configured.

    Args:
        answer: as `read_answer` read it from the answer block; None (nothing readable) scores 0.
        reference: `reference_answer` of the target.
    """
    if kind == "choice":
        value = float(answer == reference)
    elif config.number_score == "mean_relative_accuracy" and isinstance(answer, float) and isinstance(reference, float):
        value = mean_relative_accuracy(answer, reference)
    else:
        value = agreement(answer, reference, config=config)
    return scored(value, {"type": kind, "answer": answer, "reference": reference})
