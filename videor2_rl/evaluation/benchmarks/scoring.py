"""A response to a benchmark's question -> the answer read, and its score."""

from __future__ import annotations

from rewards.terms.accuracy import Answer, Kind, answer_kind, mean_relative_accuracy, read_answer
from rewards.text.parsing import read_blocks
from rewards.types import Target
from videor2_rl.evaluation import tac
from videor2_rl.evaluation.benchmarks.common import Question


def score_response(response: str, question: Question) -> tuple[Answer | None, float]:
    """The answer in the last answer block (None: unreadable) and its score in [0, 1]; unreadable is 0.

    A letter is right or wrong; a number earns its mean relative accuracy; an open answer is right when it is the same
    number within 0.1 %, or one text holds the other's words.
    """
    kind = _kind(question)
    block = read_blocks(response, answer_block="last").answer
    answer = None if block is None else read_answer(block, kind, question.options)
    truth = read_answer(question.truth, kind, question.options)
    if answer is None:
        return None, 0.0
    if question.kind == "number":
        assert truth is not None, "checked when the annotations were read"
        return answer, mean_relative_accuracy(float(answer), float(truth))
    return answer, tac.same_answer(answer, truth, tac.Question(kind, question.options, truth)) or 0.0


def _kind(question: Question) -> Kind:
    if question.kind == "choice":
        return "choice"
    if question.kind == "number":
        return "number"
    guessed = answer_kind(Target(question="", solution=question.truth))
    return "text" if guessed == "choice" else guessed
