"""Which option of a multiple-choice question a text names: letters, option texts, negation."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Literal

_LETTER = re.compile(r"(?<![\w'\u2019-])[A-Z](?![\w'\u2019-])")
_LONE_LETTER = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_MARK_BEFORE = re.compile(r"(?:[(\[{*]|\b(?:option|choice|answer|letter)s?(?: is| are)?:?) ?$", re.IGNORECASE)
_MARK_AFTER = re.compile(r" ?[)\]}*]|[.:](?=\s|$)")
# "A" before one of these is a letter, before any other lower-case word it is the article (and "I" the pronoun).
_AFTER_LETTER = re.compile(
    r"\s+(?:(?:and|or|is|isn't|was|but|because|since|as|not|seems|looks|matches|fits|cannot|can|must|would|nor)\b|[^a-z\s])"
)
_CLAUSE_EDGE = re.compile(r"[,.;:]|\b(?:but|so|thus|therefore|hence|because|since|means)\b", re.IGNORECASE)
_NOT_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|cannot|without|rather than|instead of|rul\w+ out|eliminat\w+|exclud\w+|reject\w*)\b"
    r"|n['\u2019]t\b",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"(?:(?:,?\s(?:and|or)|,)\s\(?[A-Z]\b\)?){0,5}[)\]*.:\s]{0,3}(?:(?:is|was|are|be|can|could|would|seems?|looks?|clearly|therefore|also)\s+){0,3}"
    r"(?:(?:not|never|wrong|incorrect|false|ruled out|eliminated|excluded|impossible|cannot)\b|\w{2,6}n['\u2019]t\b)",
    re.IGNORECASE,
)
_ATTACHED = re.compile(r"[\s(\[.:)*\]]{0,4}")
# Whoever names options more often than this names them all; it bounds the cost of such a text.
_MAX_MENTIONS = 32


@dataclass(frozen=True)
class Mention:
    """One place where a text names an option."""

    letter: str
    start: int
    end: int
    by: Literal["marked", "bare", "text"]
    """marked: `(B)`, `B.`, `option B`; bare: a capital alone; text: the option's own words."""
    negated: bool
    """`not B`, `B is wrong`, `C rather than B`."""


@lru_cache(maxsize=16_384)
def mentions(text: str, options: tuple[str, ...]) -> tuple[Mention, ...]:
    """The mentions of options in a sentence or an answer, in order; of letters and of texts the first 32 each.

    Args:
        text: NFKC-normalised (`normalise`).
        options: texts of options A, B, ...; empty: every capital letter may be an option.

    Cached: the responses of a group repeat one another's sentences.
    """
    num_options = len(options) or 26
    found = []
    for match in islice(_LETTER.finditer(text), _MAX_MENTIONS):
        if string.ascii_uppercase.index(match[0]) < num_options:
            by = _letter_kind(text, match)
            if by is not None:
                found.append(_mention(text, match, match[0], by))
    pattern, letter_of = _option_pattern(options)
    if pattern is not None:
        for match in islice(pattern.finditer(text), _MAX_MENTIONS):
            found.append(_mention(text, match, letter_of[match[0].casefold()], "text"))
    return tuple(sorted(found, key=lambda mention: mention.start))


def _letter_kind(text: str, match: re.Match[str]) -> Literal["marked", "bare"] | None:
    start, end = match.span()
    if _MARK_BEFORE.search(text, max(0, start - 14), start) or _MARK_AFTER.match(text, end):
        is_word = match[0] in "AI" and not _MARK_AFTER.match(text, end) and re.match(r"\s+[a-z]", text[end : end + 8])
        if not is_word or text[max(0, start - 1) : start] in "([{*" or _AFTER_LETTER.match(text, end):
            return "marked"
        return None
    if match[0] in "AI" and re.match(r"\s+[a-z]", text[end : end + 8]) and not _AFTER_LETTER.match(text, end):
        return None
    return "bare"


def _mention(text: str, match: re.Match[str], letter: str, by: Literal["marked", "bare", "text"]) -> Mention:
    before = text[max(0, match.start() - 48) : match.start()]
    clause = before[max((edge.end() for edge in _CLAUSE_EDGE.finditer(before)), default=0) :]
    negated = bool(_NOT_BEFORE.search(clause) or _NOT_AFTER.match(text, match.end()))
    return Mention(letter, match.start(), match.end(), by, negated)


@lru_cache(maxsize=4096)
def _option_pattern(options: tuple[str, ...]) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    """A pattern that finds option texts as whole words, the longest first, and the letter of each text.

    Texts that two options share, and those without a word, name no option.
    """
    texts = [normalise(option).strip(" .,;:!?\"'").casefold() for option in options]
    letter_of = {
        text: string.ascii_uppercase[index]
        for index, text in enumerate(texts[:26])
        if texts.count(text) == 1 and any(char.isalnum() for char in text)
    }
    if not letter_of:
        return None, {}
    alternatives = "|".join(re.escape(text) for text in sorted(letter_of, key=len, reverse=True))
    return re.compile(rf"(?<![\w.:])(?:{alternatives})(?![\w:]|\.\d)", re.IGNORECASE), letter_of


def normalise(text: str) -> str:
    """NFKC, so that full-width letters and digits read like plain ones."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def contradicts_itself(found: Sequence[Mention], text: str) -> bool:
    """True where a letter stands right beside another option's text: `red (B)`, `B. red` when red is A."""
    return any(
        first.letter != second.letter
        and (first.by == "text") != (second.by == "text")
        and _ATTACHED.fullmatch(text, first.end, second.start) is not None
        for first, second in pairwise(found)
    )


def read_choice(answer: str, options: tuple[str, ...]) -> str | None:
    """The one option an answer names, or None.

    `B`, `b`, `(B)`, `B. green`, `The answer is B`, `not A but B` and B's own text are all B. An answer that names
    several options, none, or a letter beside another option's text is unreadable. Letters go before texts.
    """
    text = normalise(answer)
    lone = _LONE_LETTER.fullmatch(text)
    if lone:
        letter = lone[1].upper()
        return letter if string.ascii_uppercase.index(letter) < (len(options) or 26) else None
    return read_mentions(mentions(text, options), text)


def read_mentions(found: Sequence[Mention], text: str) -> str | None:
    """The one letter that mentions agree on, letters before texts, negated ones left out; else None."""
    if contradicts_itself(found, text):
        return None
    for kinds in (("marked", "bare"), ("text",)):
        letters = {mention.letter for mention in found if mention.by in kinds and not mention.negated}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None
