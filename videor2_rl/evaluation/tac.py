"""Think-answer consistency (TAC): does the think block conclude what the answer block says, and are both right?

The paper's code derives several statistics from one table and does not say which of them its TAC is, so all are
reported: *agreement* (both right or both wrong), *consistency accuracy* (think right where the answer is right), and
the stricter *same-answer rate* (both readings are equal), which the first two cannot see: two different wrong answers
agree. What cannot be read stays out of the means and is counted apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.judge import read_answer_reply
from rewards.terms.accuracy import Answer, Kind, answer_kind, read_answer
from rewards.terms.consistency import read_conclusion
from rewards.text.choices import normalise
from rewards.text.parsing import words
from rewards.types import Target
from videor2_rl.evaluation.official.cases import Case
from videor2_rl.evaluation.official.reading import BRACKETED, split_options
from videor2_rl.evaluation.official.tac import PAPER_MIXER, Mixer
from videor2_rl.evaluation.summary import bootstrap_interval

NUMBER_TOLERANCE = 0.001
VSI_TOLERANCE = 0.05
"""VSIBench's numbers agree within 5 %, the tightest band of mean relative accuracy, as in the paper's scripts."""


@dataclass(frozen=True)
class Question:
    """What a log's row asks for."""

    kind: Kind
    options: tuple[str, ...]
    truth: Answer | None
    """None: the row has no readable reference answer."""
    tolerance: float = NUMBER_TOLERANCE
    """Relative, for numbers."""


@dataclass(frozen=True)
class Readings:
    """What the think block concludes and what the answer block says; None: unreadable, or the judge failed."""

    think: Answer | None
    answer: Answer | None


@dataclass(frozen=True)
class Consistency:
    """One response's part in the statistics; None where a reading or the reference is missing."""

    think_right: float | None
    answer_right: float | None
    same_answer: float | None

    @property
    def agreement(self) -> float | None:
        """1 where both are right or both are wrong."""
        if self.think_right is None or self.answer_right is None:
            return None
        return float(self.think_right == self.answer_right)


def question_of(case: Case) -> Question:
    """Kind, option texts and true answer of a logged case."""
    if case.kind in ("letter", "vsi_letter"):
        options = tuple(split_options(case.options, BRACKETED)[1]) if case.kind == "vsi_letter" else case.options
        options = tuple(str(option) for option in options)
        return Question("choice", options, read_answer(str(case.truth or ""), "choice", options))
    if case.kind == "vsi_number":
        return Question("number", (), case.truth, VSI_TOLERANCE)
    text = "" if case.truth is None else str(case.truth)
    kind = answer_kind(Target(question="", solution=text)) if text.strip() else "text"
    kind = "text" if kind == "choice" else kind
    return Question(kind, (), read_answer(text, kind, ()))


def read_by_rules(case: Case, question: Question) -> Readings:
    """Both blocks read by the rules of `rewards.terms.consistency` and `rewards.terms.accuracy`."""
    conclusion = read_conclusion(normalise(case.think), kind=question.kind, options=question.options)
    return Readings(conclusion.answer, read_answer(case.answer, question.kind, question.options))


def read_reply(reply: str, question: Question) -> Answer | None:
    """A judge's restatement of a block; None where it says that there is no answer, or none of the question's kind."""
    said = read_answer_reply(reply)
    return read_answer(said, question.kind, question.options) if said else None


def judge_consistency(readings: Readings, question: Question) -> Consistency:
    """Compare the readings with the truth and with each other."""
    think, answer, truth = readings.think, readings.answer, question.truth
    return Consistency(
        think_right=same_answer(think, truth, question),
        answer_right=same_answer(answer, truth, question),
        same_answer=same_answer(think, answer, question),
    )


def same_answer(answer: Answer | None, other: Answer | None, question: Question) -> float | None:
    """Equal letters, numbers within the tolerance of the second, texts of which one holds the words of the other."""
    if answer is None or other is None:
        return None
    if question.kind == "number":
        return float(abs(float(answer) - float(other)) <= question.tolerance * abs(float(other)) + 1e-9)
    if question.kind == "choice":
        return float(answer == other)
    first, second = (f" {' '.join(words(str(text)))} " for text in (answer, other))
    return float(bool(first.strip()) and bool(second.strip()) and (first in second or second in first))


def statistics(
    rows: Sequence[Consistency], *, resamples: int, seed: int, mixer: Mixer = PAPER_MIXER
) -> dict[str, object]:
    """The TAC section of a summary: means with bootstrap intervals, and what derives from them."""
    values = {
        "agreement": [row.agreement for row in rows],
        "consistency_accuracy": [row.think_right for row in rows if row.answer_right == 1.0],
        "same_answer_rate": [row.same_answer for row in rows],
        "answer_accuracy": [row.answer_right for row in rows],
        "think_accuracy": [row.think_right for row in rows],
    }
    both = [row for row in rows if row.agreement is not None]
    derived: dict[str, float | None] = {
        "disagreement_rate": None,
        "signed_disagreement": None,
        "mixed_disagreement": None,
    }
    if both:
        agreement = sum(row.agreement or 0.0 for row in both) / len(both)
        lead = sum((row.think_right or 0.0) - (row.answer_right or 0.0) for row in both)
        sign = float((lead > 0) - (lead < 0))
        derived = {
            "disagreement_rate": 1 - agreement,
            "signed_disagreement": sign * (1 - agreement),
            "mixed_disagreement": sign * mixer.magnitude(agreement),
        }
    return {
        **{
            name: dataclasses.asdict(bootstrap_interval(column, resamples=resamples, seed=seed))
            for name, column in values.items()
        },
        **derived,
    }
