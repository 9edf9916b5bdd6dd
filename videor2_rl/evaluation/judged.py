"""What a judge says about logged responses: stored beside the rows, or asked now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rewards.judge import JudgePrompt, answer_prompt, conclusion_prompt, official_vas_prompt, vas_prompt
from rewards.types import JudgeReply
from videor2_rl.config.runs import VasPrompt
from videor2_rl.evaluation.official import vas as official_vas
from videor2_rl.evaluation.official.cases import Case
from videor2_rl.evaluation.official.reading import BRACKETED, split_options

_JSON_ONLY = "\n\nYour last reply held no JSON object. Reply with the JSON object alone."


@dataclass(frozen=True)
class Replies:
    """A judge's raw replies about one response; None: nobody was asked."""

    think: JudgeReply | None
    answer: JudgeReply | None
    vas: JudgeReply | None
    vas_retry: JudgeReply | None
    """To the request for JSON only, which follows a first reply that the paper's script cannot read."""


NOT_ASKED = Replies(None, None, None, None)


def stored_replies(row: Mapping[str, Any]) -> Replies:
    """The replies in a row's `judge`: `think`, `answer`, `vas`; `vas` may be a list of the first and the retried one.

    Other keys of `judge` serve other readers. Without a retried one, the first counts again: a judge at temperature 0
    would repeat itself.

    Raises:
        ValueError: `judge` is no object, or one of the three no text.
    """
    stored = row.get("judge")
    if stored is None:
        return NOT_ASKED
    if not isinstance(stored, Mapping):
        raise ValueError(f"judge is {stored!r}, expected an object with the replies think, answer and vas")
    vas = stored.get("vas")
    attempts = vas if isinstance(vas, list) else [vas]
    texts = [stored.get("think"), stored.get("answer"), *attempts]
    if not 1 <= len(attempts) <= 2 or not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError(f"judge holds {dict(stored)!r}, expected texts, for vas also a list of two")
    first = _stored(attempts[0])
    return Replies(
        think=_stored(stored.get("think")),
        answer=_stored(stored.get("answer")),
        vas=first,
        vas_retry=_stored(attempts[-1]) if needs_retry(first) else None,
    )


def _stored(text: str | None) -> JudgeReply | None:
    return None if text is None else JudgeReply(text, None)


def needs_retry(reply: JudgeReply | None) -> bool:
    """Whether the paper's script would ask again."""
    return reply is not None and reply.text is not None and official_vas.read_score(reply.text) is None


class Judge(Protocol):
    """Answers prompts in their order; a failed call is a reply without text (`videor2_rl.judge.client`)."""

    def ask(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply]: ...


def complete_replies(
    stored: Sequence[Replies],
    cases: Sequence[Case],
    rows: Sequence[Mapping[str, Any]],
    *,
    judge: Judge,
    vas_form: VasPrompt = "default",
) -> list[Replies]:
    """The stored replies, with the judge's where none is stored.

    Empty blocks are asked about too, as the paper's scripts do. A first score that those scripts cannot read is asked
    for once more.
    """
    conclusions = [None if said.think else _conclusion_prompt(case) for said, case in zip(stored, cases, strict=True)]
    answers = [None if said.answer else _answer_prompt(case) for said, case in zip(stored, cases, strict=True)]
    scores = [
        None if said.vas else _vas_prompt(case, row, vas_form)
        for said, case, row in zip(stored, cases, rows, strict=True)
    ]
    asked = _ask(judge, [*conclusions, *answers, *scores])
    think, answer, vas = (asked[start : start + len(stored)] for start in range(0, 3 * len(stored), len(stored)))
    again = [
        replace(prompt, user=prompt.user + _JSON_ONLY) if prompt is not None and needs_retry(reply) else None
        for prompt, reply in zip(scores, vas, strict=True)
    ]
    retried = _ask(judge, again)
    return [
        Replies(said.think or t, said.answer or a, said.vas or v, said.vas_retry or r)
        for said, t, a, v, r in zip(stored, think, answer, vas, retried, strict=True)
    ]


def _ask(judge: Judge, prompts: Sequence[JudgePrompt | None]) -> list[JudgeReply | None]:
    """Replies to the prompts that are not None, in one call."""
    asked = [prompt for prompt in prompts if prompt is not None]
    replies = iter(judge.ask(asked) if asked else [])
    return [None if prompt is None else next(replies) for prompt in prompts]


def _conclusion_prompt(case: Case) -> JudgePrompt:
    return conclusion_prompt(case.think, question=case.question, options=_option_texts(case))


def _answer_prompt(case: Case) -> JudgePrompt:
    return answer_prompt(case.answer, question=case.question, options=_option_texts(case))


def _vas_prompt(case: Case, row: Mapping[str, Any], form: VasPrompt) -> JudgePrompt:
    question = official_vas.input_text(row) or case.question
    if form == "official":
        return official_vas_prompt(case.response, question=question)
    return vas_prompt(case.think, question=question)


def _option_texts(case: Case) -> list[str]:
    """The options without the letters that VSIBench's carry; the prompts add letters."""
    if case.kind == "vsi_letter":
        return split_options(case.options, BRACKETED)[1]
    return [str(option) for option in case.options] if case.kind == "letter" else []


def judge_prompt_versions(vas_form: VasPrompt = "default") -> dict[str, str]:
    """Which texts the judge is asked with, for the evaluation card."""
    prompts = (
        conclusion_prompt("", question="", options=()),
        answer_prompt("", question="", options=()),
        (vas_prompt if vas_form == "default" else official_vas_prompt)("", question=""),
    )
    return {prompt.purpose: prompt.version for prompt in prompts}
