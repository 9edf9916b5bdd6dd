"""Reading the skeleton of a response: blocks, sentences, options. Every function here is linear in its input."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from types import MappingProxyType
from typing import Literal, NamedTuple

_TAG = re.compile(r"</?(?:think|answer)>")
_WELL_FORMED = ("<think>", "</think>", "<answer>", "</answer>")
# A sentence ends at punctuation before white space (so not inside 5.2 or 00:05.5), at a semicolon or at a line break.
# The character comes first, so that the search passes over all others at once. Of a run of dots only the first is one:
# from every dot of it the search would be quadratic.
# Chinese and Japanese full stops need no space after them.
_SENTENCE_END = re.compile(
    r"[.!?;\n\u3002\uff01\uff1f\uff1b](?:(?<=[.!?])(?<![.!?]{2})[.!?]*[\"')\]*]{0,3}(?=\s|$)|(?<=;)(?=\s)|(?<=\n)\n*"
    r"|(?<=[\u3002\uff01\uff1f\uff1b])[\u300d\u300f\uff09\u201d\u2019]{0,3})"
)
_NO_END = re.compile(r"\b(?:approx|ca|e\.g|i\.e|vs|mr|mrs|dr)\Z", re.IGNORECASE)
_NO_END_LETTERS = frozenset({"ox", "ca", ".g", ".e", "vs", "mr", "rs", "dr"})
"""The last two letters of each; looked up before the pattern is tried."""
# "A. red, B. green" is no sentence that ends in A.
_LISTED_OPTION = re.compile(r"(?<![^\W_])[A-Z]\.\s[a-z]")
_OPTION_MARKS = (
    re.compile(
        r"(?<![A-Za-z0-9_'])(?:\(?([A-Z])[.):\u3001](?=\s|\w)|[\[(]([A-Z])[\])]|([A-Z])\s[-\u2013\u2014](?=\s))"
    ),
    re.compile(r"(?<![A-Za-z0-9_'])[\[(]([a-z])[\])]|(?:^|\n)\s*([a-z])[.):\u3001](?=\s)"),
)
"""Capital letters, and, where a question lists no options with them, small ones in brackets or at a line's start."""
# Chinese and Japanese set no spaces: each of their letters is a word of its own.
_IDEOGRAPH = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"\w+(?:[.,']\w+)*%?")


MAX_BLOCK_CHARS = 32_768
"""A longer block is a fault and unreadable, some 8,000 tokens: it bounds what any response can cost."""
_MAX_TAGS = 256
_MAX_SENTENCES = 2_000

NUMBER_WORDS: Mapping[str, int] = MappingProxyType(
    {
        word: value
        for value, word in enumerate(
            [
                "zero",
                "one",
                "two",
                "three",
                "four",
                "five",
                "six",
                "seven",
                "eight",
                "nine",
                "ten",
                "eleven",
                "twelve",
                "thirteen",
                "fourteen",
                "fifteen",
                "sixteen",
                "seventeen",
                "eighteen",
                "nineteen",
                "twenty",
            ]
        )
    }
)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a response."""

    think: str | None
    """Text of the last think block before the answer block (before the end, where there is no answer block)."""
    answer: str | None
    """Text of the answer block, stripped. Both are None where missing or longer than MAX_BLOCK_CHARS."""
    format_fault: str | None
    """None: exactly one think block, then one answer block, neither empty, only white space around them."""


class Span(NamedTuple):
    """A piece of a text and where it stands. A named tuple, since every response makes many."""

    start: int
    end: int
    text: str


def read_blocks(response: str, *, answer_block: Literal["last", "first"]) -> Blocks:
    """Split a response into its blocks.

    A block is an opening tag whose next tag is its closing tag, so of nested tags only the innermost pair counts.
    An answer that stands before the think block has no think block. Of more than 256 tags none is read.
    """
    tags = list(islice(_TAG.finditer(response), _MAX_TAGS + 1))
    if len(tags) > _MAX_TAGS:
        return Blocks(None, None, f"more than {_MAX_TAGS} tags")
    answers = _pairs(tags, "answer")
    chosen = (answers[-1] if answer_block == "last" else answers[0]) if answers else None
    limit = chosen[0].start() if chosen else len(response)
    thinks = [pair for pair in _pairs(tags, "think") if pair[1].end() <= limit]
    think = response[thinks[-1][0].end() : thinks[-1][1].start()] if thinks else None
    answer = response[chosen[0].end() : chosen[1].start()].strip() if chosen else None
    return Blocks(
        think=think if think is None or len(think) <= MAX_BLOCK_CHARS else None,
        answer=answer if answer is None or len(answer) <= MAX_BLOCK_CHARS else None,
        format_fault=_format_fault(response, tags),
    )


def _pairs(tags: list[re.Match[str]], name: str) -> list[tuple[re.Match[str], re.Match[str]]]:
    start, end = f"<{name}>", f"</{name}>"
    return [(opening, closing) for opening, closing in pairwise(tags) if opening[0] == start and closing[0] == end]


def _format_fault(response: str, tags: list[re.Match[str]]) -> str | None:
    if tuple(tag[0] for tag in tags) != _WELL_FORMED:
        return "tags are not <think></think><answer></answer>"
    opening, end_of_think, answer, closing = tags
    if any(text.strip() for text in (response[: opening.start()], response[closing.end() :])):
        return "text outside the blocks"
    if response[end_of_think.end() : answer.start()].strip():
        return "text between the blocks"
    for name, text in (
        ("think", response[opening.end() : end_of_think.start()].strip()),
        ("answer", response[answer.end() : closing.start()].strip()),
    ):
        if not text:
            return f"empty {name} block"
        if len(text) > MAX_BLOCK_CHARS:
            return f"{name} block longer than {MAX_BLOCK_CHARS} characters"
    return None


@lru_cache(maxsize=1024)
def solution_text(solution: str) -> str:
    """The expected answer of a solution, tagged or bare. Cached: a target's reading asks several times.

    Raises:
        ValueError: it is empty, or its answer block is.
    """
    answer = read_blocks(solution, answer_block="last").answer
    text = solution.strip() if answer is None else answer
    if not text:
        raise ValueError(f"The solution {solution!r} holds no answer; give one, bare or inside <answer></answer>.")
    return text


@lru_cache(maxsize=1024)
def sentences(text: str) -> tuple[Span, ...]:
    """The first 2,000 sentences of a text with their positions, blank ones left out.

    Cached, since claims and conclusion both ask.
    """
    marks = [match.span() for match in islice(_SENTENCE_END.finditer(text), _MAX_SENTENCES)]
    ends = [end for begin, end in marks if text[begin:end] != "." or not _is_inner_point(text, begin)]
    if len(marks) < _MAX_SENTENCES:
        ends.append(len(text))
    spans = []
    start = 0
    for end in ends:
        piece = text[start:end].lstrip()
        if piece:
            first, piece = end - len(piece), piece.rstrip()
            spans.append(Span(first, first + len(piece), piece))
        start = end
    return tuple(spans)


def _is_inner_point(text: str, place: int) -> bool:
    """Whether a full stop belongs to an abbreviation or to an option's letter in a list."""
    before = text[max(0, place - 2) : place]
    if before[-1:].isupper() and _LISTED_OPTION.match(text, place - 1):
        return True
    return before.lower() in _NO_END_LETTERS and _NO_END.search(text, max(0, place - 6), place) is not None


def words(text: str) -> list[str]:
    """Words of a text for comparison: NFKC, case folded, without punctuation and articles."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not folded.isascii():
        folded = _IDEOGRAPH.sub(r" \g<0> ", folded)
    return [word for word in _WORD.findall(folded) if word not in ("a", "an", "the")]


@lru_cache(maxsize=4096)
def options_in(question: str) -> tuple[str, ...]:
    """Texts of the options A, B, C, ... that a question lists, or ().

    Read are `A. red`, `(B) green`, `C: blue`, `[D] pink`, `A - red`, the Chinese list comma after a letter, and
    `(a) red`, `[a] red`, `a) red`.
    """
    question = unicodedata.normalize("NFKC", question)
    for pattern in _OPTION_MARKS:
        marks: list[re.Match[str]] = []
        for mark in pattern.finditer(question):
            letter = mark[mark.lastindex or 1].upper()
            if letter == "A" and len(marks) < 2:
                marks = [mark]
            elif marks and len(marks) < 26 and letter == string.ascii_uppercase[len(marks)]:
                marks.append(mark)
        if len(marks) >= 2:
            return _between(question, marks)
    return ()


def _between(question: str, marks: Sequence[re.Match[str]]) -> tuple[str, ...]:
    ends = [mark.start() for mark in marks[1:]] + [_line_end(question, marks[-1].end())]
    return tuple(question[mark.end() : end].strip(" \t\r\n,;.") for mark, end in zip(marks, ends, strict=True))


def _line_end(text: str, start: int) -> int:
    """End of the line that `start` is in, white space at its front left out: what follows is an instruction."""
    start += len(text[start:]) - len(text[start:].lstrip())
    end = text.find("\n", start)
    return len(text) if end < 0 else end
