"""Does the think block conclude what the answer block says? Read by rules, without a judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rewards.judge import read_consistency_reply
from rewards.terms.accuracy import Answer, Kind, agreement, read_answer
from rewards.text.choices import Mention, contradicts_itself, mentions, read_mentions
from rewards.text.numerals import numbers
from rewards.text.parsing import Span, sentences, words
from rewards.types import AccuracyConfig, ConsistencyConfig, JudgeReply, Verdict, abstained, failed, scored

_CUE = re.compile(
    r"\b(?:answer|conclu(?:de|sion)|therefore|thus|hence|correct|so(?!\s(?:far|that|many|much|on|forth))|"
    r"consequently|which means|must be|best (?:option|choice))\b|->|=>|\u2192"
    r"|答案|因此|所以|故选|故選|综上|綜上|答え|正解|したがって|よって|정답|따라서|그러므로",
    re.IGNORECASE,
)
# From here on a sentence concludes: "At 00:05 a red square appears, so the answer is A."
_TURN = re.compile(
    r"(?:(?:^|[,;:]\s?|\s)(?:and )?(?:so|therefore|thus|hence|consequently|which means)\b"
    r"(?!\s(?:far|that|many|much|on|forth)\b)|\s(?:->|=>|\u2192)|[,;]\s(?:and |but )?(?:the|my) (?:\w+ )?answer\b"
    r"|因此|所以|故选|故選|したがって|よって|따라서|그러므로)",
    re.IGNORECASE,
)
_STATES = re.compile(
    r"\b(?:is|was|be|are|:)\s+(?:the |a |an )?$|\b(?:answer|option|choice):?\s+(?:the |a |an )?$", re.IGNORECASE
)
_TIME = re.compile(r"\d:\d\d|\b\d+(?:\.\d+)?\s?-?s(?:ec(?:ond)?s?)?\b", re.IGNORECASE)
_IT_IS = re.compile(r"\b(?:it|this|that)\s?(?:is|was|['\u2019]s)\s+(?:the |a |an )?$", re.IGNORECASE)
_NOT_A_NUMBER = re.compile(r"\b(?:not|rather than|instead of)\s+[\d.,]{1,24}", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\s*(?:,|/|,?\s?\bor|,?\s?\band)\s+(?:the |an? )?", re.IGNORECASE)
_TIMED_NUMBER = re.compile(r"(?<!\d)\d{1,3}(?::\d\d){1,2}(?:\.\d{1,6})?")
# A conclusion stands near the end; further back a text only discusses.
_MAX_SENTENCES_BACK = 40
_MAX_CONCLUSION_CHARS = 1_000


@dataclass(frozen=True)
class Conclusion:
    """What a think text concludes, and where."""

    answer: Answer | None
    """None: it concludes nothing that can be read, or several things."""
    span: tuple[int, int] | None
    """Of the concluding sentence, or of its concluding clause; None: there is none."""
    reason: str
    """How it was read, or why not."""


def read_conclusion(think: str, *, kind: Kind, options: tuple[str, ...]) -> Conclusion:
    """The last explicit conclusion in the last 40 sentences of a think text (NFKC-normalised: `choices.normalise`).

    Choice: reading backwards, the first sentence that concludes. A sentence concludes when it names an option by a
    marked letter (`(B)`, `option B`), or by letter or text together with a cue ("so", "the answer is"), or, as the last
    sentence, by its text without a time or as "it is red". Negated options do not count ("not B but C" is C); a
    sentence that still names several, or a letter beside another option's text, is unreadable, and nothing before it is
    read in its place.

    Number: the last number, times of the clip left out, of the last sentence with a cue, else of the last sentence.
    Text: that sentence itself.
    """
    spans = sentences(think)
    if kind == "choice":
        return _choice_conclusion(spans, options)
    cued = [span for span in spans if _CUE.search(span.text)]
    if not spans:
        return Conclusion(None, None, "empty think block")
    span = (cued or spans)[-1]
    reason = "last sentence with a cue" if cued else "last sentence"
    where = _concluding_part(span) if cued else None
    if kind == "text":
        return Conclusion(span.text, where, reason)
    text = _NOT_A_NUMBER.sub(" ", _TIMED_NUMBER.sub(" ", span.text[-_MAX_CONCLUSION_CHARS:]))
    found = numbers(text)
    return Conclusion(found[-1] if found else None, where, reason if found else f"no number in the {reason}")


def _choice_conclusion(spans: Sequence[Span], options: tuple[str, ...]) -> Conclusion:
    for index in range(len(spans) - 1, max(-1, len(spans) - 1 - _MAX_SENTENCES_BACK), -1):
        span = spans[index]
        found = mentions(span.text, options)
        if not found:
            continue
        is_last = index == len(spans) - 1
        concludes = (
            any(mention.by == "marked" for mention in found)
            or _CUE.search(span.text) is not None
            or (is_last and _states(span.text, found))
        )
        live = [mention for mention in found if not mention.negated]
        if not concludes or not live:
            continue
        part = _concluding_part(span)
        if contradicts_itself(live, span.text):
            return Conclusion(None, part, "a letter beside another option's text")
        letter = (
            read_mentions(live, span.text)
            or read_mentions([mention for mention in live if span.start + mention.start >= part[0]], span.text)
            or _stated(live, span.text)
        )
        reason = "last concluding sentence" if letter else "several options in the concluding sentence"
        return Conclusion(letter, part, reason)
    return Conclusion(None, None, "no concluding sentence")


def _states(text: str, found: Sequence[Mention]) -> bool:
    """Whether the last sentence states an option's text as its finding rather than telling of an event at a time."""
    starts = [mention.start for mention in found if mention.by == "text"]
    return bool(starts) and (
        _TIME.search(text) is None or any(_IT_IS.search(text[max(0, start - 16) : start]) for start in starts)
    )


def _stated(live: list[Mention], text: str) -> str | None:
    """Of several option texts the one right behind "is": "so the answer is red, since the green one comes later"."""
    if any(mention.by != "text" for mention in live):
        return None
    if any(_ALTERNATIVE.fullmatch(text, first.end, second.start) for first, second in pairwise(live)):
        return None
    stated = {mention.letter for mention in live if _STATES.search(text[max(0, mention.start - 24) : mention.start])}
    return stated.pop() if len(stated) == 1 else None


def _concluding_part(span: Span) -> tuple[int, int]:
    turns = list(_TURN.finditer(span.text, max(0, len(span.text) - _MAX_CONCLUSION_CHARS)))
    return (span.start + turns[-1].start() if turns else span.start), span.end


def consistency_verdict(
    conclusion: Conclusion, answer_text: str | None, *, kind: Kind, options: tuple[str, ...], accuracy: AccuracyConfig
) -> Verdict:
    """1 where the think block concludes what the answer block says, 0 where it concludes something else.

    It does not matter whether either is right. Abstains where conclusion or answer cannot be read. A number agrees
    within the accuracy term's tolerance; a text agrees when the concluding sentence holds all its words in order, and
    counts as unreadable where it does not, since nothing says which of its words conclude.
    """
    answer = None if answer_text is None else read_answer(answer_text, kind, options)
    detail = {"conclusion": conclusion.answer, "answer": answer, "how": conclusion.reason}
    if conclusion.answer is None:
        return abstained("conclusion unreadable", detail)
    if answer is None:
        return abstained("answer unreadable", detail)
    if kind == "text":
        if _holds(words(str(conclusion.answer)), words(str(answer))):
            return scored(1.0, detail)
        return abstained("conclusion unreadable", detail)
    if kind == "number":
        return scored(agreement(answer, conclusion.answer, config=accuracy), detail)
    return scored(float(answer == conclusion.answer), detail)


def judged_consistency(reply: JudgeReply | None, think: str, answer_text: str | None) -> Verdict:
    """What the judge says instead; abstains where there is nothing to ask about, fails without a readable reply.

    Args:
        reply: None where the judge was not asked.
        think: text of the think block, empty where there is none.
    """
    if not think.strip():
        return abstained("empty think block")
    if not answer_text:
        return abstained("answer unreadable")
    if reply is None or reply.text is None:
        return failed(f"consistency: {reply.failure if reply else 'the judge was not asked'}")
    agree = read_consistency_reply(reply.text)
    if agree is None:
        return failed("consistency: the judge's reply is unreadable", {"reply": reply.text})
    return scored(float(agree), {"reply": reply.text})


def _holds(text: list[str], part: list[str]) -> bool:
    """Whether `part` stands in `text` as neighbouring words."""
    return bool(part) and f" {' '.join(part)} " in f" {' '.join(text)} "


def gate(verdict: Verdict, config: ConsistencyConfig) -> float:
    """What temporal alignment is multiplied by: the verdict's value, or 0 (closed) or 1 (open) without one."""
    if verdict.value is not None:
        return verdict.value
    return 1.0 if config.unreadable == "open" else 0.0
