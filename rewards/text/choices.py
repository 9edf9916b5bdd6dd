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
_LOWER = re.compile(
    r"\b(?:option|choice|answer|letter)s?(?:\s(?:is|are))?:?\s[\"'(\[]?(?P<named>[a-z])(?![\w'\u2019-])"
    r"|(?<!\w)[(\[{](?P<inside>[a-z])[)\]}](?!\w)|(?<=: )[\"'](?P<quoted>[a-z])[\"']|(?<=:)[\"'](?P<tight>[a-z])[\"']",
    re.IGNORECASE,
)
_LOWER_FIRST = re.compile(r"\s*([a-z])[.):](?=\s|$)")
CJK = re.compile("[ぁ-ヿ㐀-䶿一-鿿가-힯\uf900-\ufaff]")
"""A Chinese, Japanese or Korean letter."""
CJK_EDGE = re.compile(rf"(?<={CJK.pattern})(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?={CJK.pattern})")
_SUPERSCRIPTS = re.compile("[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_VULGAR_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_MARK_BEFORE = re.compile(r"(?:[(\[{*]|\b(?:option|choice|answer|letter)s?(?: is| are)?:?) ?$", re.IGNORECASE)
_MARK_AFTER = re.compile(r" ?[)\]}*]|[.:](?=\s|$)")
# "A" before one of these is a letter, before any other lower-case word it is the article (and "I" the pronoun).
_AFTER_LETTER = re.compile(
    r"\s+(?:(?:and|or|is|isn't|was|but|because|since|as|not|seems|looks|matches|fits|cannot|can|must|would|nor)\b|[^a-z\s])"
)
_CLAUSE_EDGE = re.compile(
    r"[,.;:\u3001\u3002]|而是|\b(?:but|so|thus|therefore|hence|because|since|means)\b", re.IGNORECASE
)
_NOT_BEFORE = re.compile(
    r"\b(?:not|never|neither|nor|cannot|without|rather than|instead of|rul\w+ out|eliminat\w+|exclud\w+|reject\w*)\b"
    r"|n['\u2019]t\b|不(?:是|选|選|应|應)|并非|並非|而非|排除",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"(?:(?:,?\s(?:and|or)|,)\s\(?[A-Z]\b\)?){0,5}[)\]*.:\s]{0,3}(?:(?:is|was|are|be|can|could|would|seems?|looks?|clearly|therefore|also)\s+){0,3}"
    r"(?:(?:not|never|wrong|incorrect|false|ruled out|eliminated|excluded|impossible|cannot)\b|\w{2,6}n['\u2019]t\b)"
    r"|\s?(?:选项|選項|项|項|번)?[\sはが是被]{0,3}"
    r"(?:不对|不對|不正|不可|错|錯|誤|排除|間違|"
    r"(?:で|じ)\s?(?:は|ゃ)?\s?な|(?:은|는|이|가)?\s?(?:아니|아닙|틀린|틀렸))",
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
    for match in islice(_LOWER.finditer(text), _MAX_MENTIONS):
        letter = next(group for group in match.groups() if group is not None)
        # Upper-case ones were found above, and "answer a question" and "option i" name none.
        if letter.islower() and string.ascii_lowercase.index(letter) < num_options:
            is_word = letter in "ai" and match.lastgroup == "named" and re.match(r"\s+[a-z]", text[match.end() :][:8])
            if not is_word or _AFTER_LETTER.match(text, match.end()):
                start, end = match.span(match.lastgroup or 0)
                found.append(_mention_at(text, start, end, letter.upper(), "marked"))
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
    return _mention_at(text, match.start(), match.end(), letter, by)


def _mention_at(text: str, start: int, end: int, letter: str, by: Literal["marked", "bare", "text"]) -> Mention:
    before = text[max(0, start - 48) : start]
    clause = before[max((edge.end() for edge in _CLAUSE_EDGE.finditer(before)), default=0) :]
    negated = bool(_NOT_BEFORE.search(clause) or _NOT_AFTER.match(text, end))
    return Mention(letter, start, end, by, negated)


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
    alternatives = "|".join(_whole_word(text) for text in sorted(letter_of, key=len, reverse=True))
    return re.compile(alternatives, re.IGNORECASE), letter_of


def _whole_word(text: str) -> str:
    """A pattern of the text with nothing of a word beside it, but where a script sets no spaces between words."""
    before = "" if CJK.match(text[0]) else r"(?<![\w.:])"
    after = "" if CJK.match(text[-1]) else r"(?![\w:]|\.\d)"
    return f"{before}{re.escape(text)}{after}"


def normalise(text: str) -> str:
    """NFKC, so that full-width letters and digits read like plain ones; powers, fractions and letters beside Chinese,
    Japanese or Korean stay what they are: `10\u00b3` is `10^3`, `1\u00bd` is `1 1/2`, and a space sets `B` apart from
    its neighbours.
    """
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    text = _VULGAR_FRACTION.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text)
    plain = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    return CJK_EDGE.sub(" ", plain) if CJK.search(plain) else plain


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
    first = _LOWER_FIRST.match(text)
    if first and string.ascii_lowercase.index(first[1]) < (len(options) or 26):
        text = text[: first.start(1)] + first[1].upper() + text[first.end(1) :]
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
