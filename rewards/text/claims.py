"""Timestamped claims: what a think text says happened, and when. Deterministic and linear in the text.

A claim is a time or a range of times with the sentence around it, the time expression itself taken out (with the time
inside, sentence similarity of equal events falls from 1 to 0.77). Read as times:

    00:05   1:02:03   00:05.5   [00:05]   at 5 s   5.5 seconds   the 12-second mark   second 12   t = 5   2 min 5 s
    00:05-00:08   from 00:05 to 00:08   between 5 and 8 seconds   5-8 s   00:05 until 00:08   the 7th second   1m30s
    five seconds in   10 seconds into the video

Not read as times: durations (`for 5 seconds`, `5 seconds later`, `a 30-second clip`), times of day (`10:30 am`), scores
and ratios (`a ratio of 1:10`), verses, distances (`5 m away`), and numbers without a unit.

Several times in one sentence make several claims, each with its own clause; times in a list
(`at 00:05 and 00:08`) share one.

The sentence that answers the question is no event claim: see `read_claims`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple

from rewards.text.choices import CJK
from rewards.text.cjk_times import cjk_times
from rewards.text.no_events import is_decade, is_length, is_of_the_scene
from rewards.text.parsing import NUMBER_WORDS, sentences

_CLOCK = r"\d{1,3}:[0-5]\d(?::[0-5]\d)?(?:\.\d{1,6}|,\d{3}(?!\d))?(?!\d|:\d)"
_UNIT = r"(?:seconds?|secs?|s)(?![\w'/])"
_LONG_UNIT = r"(?:minutes?|mins?)(?![\w'])"
_SECONDS = rf"\d{{1,6}}(?:\.\d{{1,6}})?\s?{_UNIT}"
_MINUTES = (
    rf"(?:\d{{1,2}}\s?(?:hours?|hrs?|h),?\s?(?:and\s)?)?\d{{1,4}}\s?(?:minutes?|mins?|m)(?:(?![\w'/])(?!\sper\b)|(?=\d))"
    rf"(?:(?:,?\s(?:and\s)?|(?<=m))\d{{1,2}}(?:\.\d{{1,6}})?\s?{_UNIT})?"
)
_MARK = r"\d{1,6}(?:\.\d{1,6})?-(?:second|minute)(?=\s(?:mark|point|moment|timestamp)\b)"
_ORDINAL = r"\d{1,4}(?:st|nd|rd|th)\ssecond\b"
_POINT = rf"(?:{_CLOCK}|{_MARK}|{_SECONDS}|{_MINUTES})"
_NUMBER = r"\d{1,6}(?:\.\d{1,6})?(?![\d:.]*\d)"
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60}
_WORDS = f"(?:{'|'.join([*list(NUMBER_WORDS)[1:], *_TENS])})"
_JOIN = (
    r"(?:\s?(?:-{1,2}>|=>|\u2192|&|[-\u2010-\u2015\u2212~])\s?|\s(?:up\sto|to|until|till|through|and)\s"
    r"|,?\s(?:and\s)?(?:ending|ends|finishing|stopping)\s(?:at|by)\s)"
)
_CLOSE = r"[\])>`]?"
# The lookbehind keeps a match from starting inside a number or a word, so every digit is looked at a few times only.
_NUMERIC = (
    rf"(?P<range_start>{_CLOCK}){_CLOSE}(?P<clock_join>{_JOIN})[\[(<`]?(?P<range_end>{_CLOCK})"
    rf"|(?P<pair_start>{_NUMBER})(?:\s?{_UNIT}|-second(?:\smark)?)?(?P<pair_join>{_JOIN})(?:the\s)?(?:second\s)?"
    rf"(?P<pair_end>{_NUMBER})(?P<pair_unit>\s?{_UNIT}|\s{_LONG_UNIT}|-second(?=\smark))"
    rf"|(?P<first_th>\d{{1,4}}(?:st|nd|rd|th))(?:\sseconds?)?(?P<th_join>{_JOIN})(?:the\s)?(?P<last_th>\d{{1,4}}(?:st|nd|rd|th))"
    rf"\sseconds?\b"
    rf"|(?P<point>(?P<ordinal>{_ORDINAL})|{_POINT})"
    rf"|(?P<named>(?:seconds?\s|timestamp\s|t(?:ime)?\s?=\s?))(?P<bare>{_NUMBER})(?:\s?{_UNIT})?"
    rf"(?:(?P<bare_join>{_JOIN})(?:second\s)?(?P<bare_end>{_NUMBER}))?"
)
_SPELLED = rf"|(?P<words>{_WORDS}[\s-](?:second|minute)s?)\b"
_END = (
    rf"(?P<close>{_CLOSE})"
    r"(?P<mark>\s(?:mark|point|timestamp)s?\b|\sin(?=[,.]|$)"
    r"|\s(?:in)?to\s(?:the|this)\s(?:video|clip|footage|film|scene)\b)?"
)
_TIME = re.compile(rf"(?<![\w.:])(?=\d|second|time|t\s?=)(?:{_NUMERIC}|(?P<words>(?!))){_END}", re.IGNORECASE)
# Looks at every word, so only for sentences that may hold "five seconds".
_SPELLED_TIME = re.compile(rf"(?<![\w.:])(?:{_NUMERIC}{_SPELLED}){_END}", re.IGNORECASE)
_MAY_BE_SPELLED = re.compile(r"[a-z][\s-](?:second|minute)", re.IGNORECASE)
_DURATION_BEFORE = re.compile(
    r"\b(?:for|lasts?|lasting|lasted|within|every|another|takes?|took|over|next|first|last|than|of|in|an?|the|this|that)"
    r"(?:\s(?:the|about|around|approximately|only|at least|next|first|last|him|her|it|them|us))?\s?$",
    re.IGNORECASE,
)
_DURATION_AFTER = re.compile(
    r"\s(?:later|long|earlier|before|after|apart|ago|each|in total|remaining)\b|'|\s?-", re.IGNORECASE
)
_CLOCK_DURATION_AFTER = re.compile(r"\s(?:long|in total|in length)\b", re.IGNORECASE)
_SCORE_BEFORE = re.compile(
    r"\b(?:scores?|ratio|leads?|led|wins?|won|lost|odds|scale|aspect|tied|result|beats?)\b[^.;:]{0,24}$", re.IGNORECASE
)
_TIME_PREPOSITIONS = frozenset({"at", "by", "around", "near", "from", "between", "until", "after", "since"})
_METRES = re.compile(r"\d\s?m$", re.IGNORECASE)
# "John 3:16": a name inside a sentence.
_VERSE = re.compile(r"[^.!?]\s([A-Z][a-z]+)\s$")
_TIME_OF_DAY = re.compile(r"\s?(?:am|pm|a\.m|p\.m)\b", re.IGNORECASE)
_PREPOSITIONS = frozenset(
    [
        "at",
        "around",
        "about",
        "by",
        "near",
        "from",
        "between",
        "after",
        "since",
        "until",
        "till",
        "approximately",
        "roughly",
        "exactly",
        "approx",
        "approx.",
        "ca",
        "ca.",
        "the",
        "time",
        "timestamp",
        "timestamps",
        "starting",
        "beginning",
    ]
)
# Directly before a time these belong to it; before a preposition they do not ("the light is on from 00:05").
_NEXT_TO_TIME = _PREPOSITIONS | frozenset(
    ["in", "on", "during", "second", "seconds", "mark", "frame", "frames", "point", "t", "is"]
)
_OPENERS = tuple("[(<~@=*`")
_EDGE = re.compile(
    r"(?:[,;:.\u2013\u2014]|\s-|\b(?:and|then|but|while|when|where|next|finally|later|followed by))\s*$", re.IGNORECASE
)
_LIST = re.compile(r"\s*(?:,|/|&|,?\s?and|,?\s?or)?\s*", re.IGNORECASE)
_CLAUSE = re.compile(
    r"[,;]\s(?:and\s|then\s|but\s|while\s)?|\s(?:and then|and|then|but|while|before|followed by)\s", re.IGNORECASE
)
_CONNECTIVES = re.compile(
    r"(?:[\s,;:.)\]>*=\u2013\u2014\u3001\u3002-]|(?:and|then|but|while|so|next|first|firstly|secondly|finally|later|now|also|again|"
    r"lastly|initially|afterwards|followed by|i see|we see)(?=[\s,:]|$))+",
    re.IGNORECASE,
)
_TRAIL = " ,;:.([<*=~@\u2013\u2014-\u3001\u3002"
_TRAILING_WORDS = frozenset(["and", "then", "but", "while", "or", "at", "from"])
_DIGIT = re.compile(r"\d")
_MAY_HOLD_TIME = re.compile(r"\d|(?:second|minute)s?\s(?:mark|point|in)|(?:second|minute)s\b", re.IGNORECASE)
_CONTENT = re.compile(r"[^\W\d_]{2,}")
# The sentence encoder reads 256 tokens at most; a longer claim gains nothing and costs time.
_MAX_CLAIM_CHARS = 400
# More stamps than this are spam, whose precision is next to nothing anyway; the limit bounds its cost.
MAX_CLAIMS = 256
_MAX_TIMES_IN_SENTENCE = 64
# Every digit may start a time; 256 claims need fewer. The limit bounds the cost of a text of nothing but digits.
_MAX_DIGITS = 4_096


class Claim(NamedTuple):
    """Something said to happen at a time. A named tuple, since every response makes several."""

    start_s: float
    end_s: float
    """Equal to `start_s` for a point in time."""
    text: str
    """The claim without its time, as one sentence."""
    quote: str
    """The time as it was written."""


class _Time(NamedTuple):
    """A time expression in a sentence."""

    lead: int
    """Where its lead-in (`at`, `from the`) starts."""
    start: int
    end: int
    start_s: float
    end_s: float


def read_claims(think: str, *, conclusion: tuple[int, int] | None = None) -> list[Claim]:
    """The timestamped claims of a think text, in order of appearance; reading ends after 256, or 4,096 digits.

    Args:
        think: text of the think block.
        conclusion: where the sentence or clause stands that answers the question (`consistency.read_conclusion`), as
            positions in `think`. Times in it are the question's or repeat an event already claimed ("At 00:05 it is
            red (A)."), so it is neither a right nor a wrong claim. There is one conclusion at most, and what it says
            earns nothing either, so dressing claims up as conclusions does not pay.
    """
    claims: list[Claim] = []
    pending = ""
    limit = _end_of_reading(think)
    for sentence in sentences(think):
        end = min(sentence.end, limit)
        if conclusion and sentence.start < conclusion[1]:
            end = min(end, conclusion[0])
        text = think[sentence.start : max(sentence.start, end)]
        if not pending and not _MAY_HOLD_TIME.search(text):
            continue
        found = _read_sentence(text)
        if pending and found is None:
            found = _read_sentence(f"{pending} {text}")
        # A time alone on its line heads the next sentence.
        pending = text if found == () else ""
        claims.extend(found or ())
        if len(claims) >= MAX_CLAIMS:
            break
    return claims


def _end_of_reading(think: str) -> int:
    """Where the 4,097th digit stands, or the end."""
    if len(think) <= _MAX_DIGITS:
        return len(think)
    beyond = next(islice(_DIGIT.finditer(think), _MAX_DIGITS, None), None)
    return len(think) if beyond is None else beyond.start()


@lru_cache(maxsize=16_384)
def _read_sentence(text: str) -> tuple[Claim, ...] | None:
    """The claims of one sentence; None without a time, () where its times date nothing.

    Cached: the responses of a group repeat one another's sentences.
    """
    times = _times(text)
    return tuple(_claims_of(text, times)) if times else None


@lru_cache(maxsize=16_384)
def tidy(text: str) -> str:
    """One sentence in a plain form: connectives at the front and loose ends at the back removed, a full stop added.

    Cached: a group's references, and the claims that repeat them, are the same few sentences.
    """
    text = " ".join(text[:_MAX_CLAIM_CHARS].split())
    front = _CONNECTIVES.match(text)
    text = (text[front.end() :] if front else text).rstrip(_TRAIL)
    while text and text[text.rfind(" ") + 1 :].lower() in _TRAILING_WORDS:
        text = text[: text.rfind(" ") + 1].rstrip(_TRAIL)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _times(text: str) -> list[_Time]:
    if CJK.search(text):
        return [_Time(start, start, end, *interval) for start, end, interval in cjk_times(text)]
    found: list[_Time] = []
    lower = text.lower()
    # Looking for the words alone is cheaper than the pattern, and most sentences hold neither.
    may_be_spelled = ("second" in lower or "minute" in lower) and _MAY_BE_SPELLED.search(text)
    pattern = _SPELLED_TIME if may_be_spelled else _TIME
    for match in islice(pattern.finditer(text), _MAX_TIMES_IN_SENTENCE):
        before = text[max(0, match.start() - 40) : match.start()]
        if _is_time(match, text, before):
            found.extend(_read(match, lead=match.start() - len(before) + _lead_in(before), before=before))
    return found


def _is_time(match: re.Match[str], text: str, before: str) -> bool:
    """Whether a time expression says when, rather than how long, how far, or how many to how many."""
    if match["named"]:
        # "the second 2 men"
        return not (match["named"].lower().startswith("second") and re.search(r"\b(?:the|a)\s$", before, re.IGNORECASE))
    if match["range_start"] or match["first_th"]:
        return True
    if match["point"] and ":" in match["point"]:
        if is_of_the_scene(text, *match.span("point")) or is_length(text, *match.span("point")):
            return False
        if _TIME_OF_DAY.match(text, match.end()) or _CLOCK_DURATION_AFTER.match(text, match.end()):
            return False
        if _follows_preposition(before):
            return True
        name = _VERSE.search(before)
        return not (_SCORE_BEFORE.search(before) or (name and name[1].lower() not in _NEXT_TO_TIME))
    if match["mark"] or match["ordinal"]:
        return True
    if match["point"] and _METRES.search(match["point"]) and not re.search(r"\bat\s$", before, re.IGNORECASE):
        return False
    if match["point"] and is_decade(match["point"], before):
        return False
    if match["words"] and not _follows_preposition(before):
        return False
    is_range = match["pair_start"] and re.search(r"\b(?:from|between)\s(?:the\s)?$", before, re.IGNORECASE)
    return bool(is_range) or not (_DURATION_BEFORE.search(before) or _DURATION_AFTER.match(text, match.end()))


def _follows_preposition(before: str) -> bool:
    """Whether `before` is blank or ends in a bracket, "at", "from the", ..."""
    words = before.split()[-2:]
    if not words or before[-1] in "[(<`":
        return True
    word = words[0] if words[-1].lower() == "the" else words[-1]
    return word.lower() in _TIME_PREPOSITIONS


def _lead_in(before: str) -> int:
    """Where the prepositions and brackets at the end of `before` start."""
    text = before
    for words in (_NEXT_TO_TIME, _PREPOSITIONS, _PREPOSITIONS, _PREPOSITIONS):
        stripped = text.rstrip()
        if stripped.endswith(_OPENERS):
            text = stripped[:-1]
            continue
        word = stripped[stripped.rfind(" ") + 1 :].lstrip("*,;:([<\u2013\u2014-")
        if word.lower() not in words:
            break
        text = stripped[: len(stripped) - len(word)]
    return len(text)


def _read(match: re.Match[str], *, lead: int, before: str) -> list[_Time]:
    """One time, or two where `and` joins them without `between`."""
    single = match["point"] or match["words"] or (match["bare"] if match["bare_end"] is None else None)
    if single is not None:
        value = _seconds(single)
        return [_Time(lead, match.start(), match.end(), value, value)]
    scale = 1.0
    if match["range_start"]:
        first, last, join = "range_start", "range_end", "clock_join"
    elif match["first_th"]:
        first, last, join = "first_th", "last_th", "th_join"
    elif match["pair_start"]:
        first, last, join = "pair_start", "pair_end", "pair_join"
        scale = 60.0 if match["pair_unit"].strip().lower().startswith("m") else 1.0
    else:
        first, last, join = "bare", "bare_end", "bare_join"
    start_s, end_s = scale * _seconds(match[first]), scale * _seconds(match[last])
    if match[join].strip().lower() not in ("and", "&"):
        return [_Time(lead, match.start(), match.end(), min(start_s, end_s), max(start_s, end_s))]
    is_between = re.search(r"\bbetween\s(?:the\s)?(?:second\s)?[\[(<]?$", before, re.IGNORECASE)
    if is_between:
        return [_Time(lead, match.start(), match.end(), min(start_s, end_s), max(start_s, end_s))]
    return [
        _Time(lead, match.start(), match.start(join), start_s, start_s),
        _Time(match.end(join), match.end(join), match.end(), end_s, end_s),
    ]


def _seconds(text: str) -> float:
    """Seconds of one point in time in any of the forms that _TIME finds."""
    if ":" in text:
        value = 0.0
        for part in text.replace(",", ".").split(":"):
            value = value * 60 + float(part)
        return value
    if text[0].isalpha():
        word, unit = re.split(r"[\s-]", text.lower(), maxsplit=1)
        return float(NUMBER_WORDS.get(word) or _TENS[word]) * (60.0 if unit.startswith("m") else 1.0)
    amounts = [float(amount) for amount in re.findall(r"\d+(?:\.\d+)?", text)]
    if re.match(r"[\d.]+\s?h", text, re.IGNORECASE):
        return sum(amount * scale for amount, scale in zip(amounts, (3600.0, 60.0, 1.0), strict=False))
    if re.match(r"[\d.]+[\s-]?m", text, re.IGNORECASE):
        return amounts[0] * 60 + (amounts[1] if len(amounts) > 1 else 0.0)
    return amounts[0]


def _has_content(text: str) -> bool:
    front = _CONNECTIVES.match(text)
    return _CONTENT.search(text, front.end() if front else 0) is not None


def _claims_of(text: str, times: Sequence[_Time]) -> list[Claim]:
    """Give each time its clause.

    A time leads its clause ("at 00:05 a square appears") or trails it ("a square appears at 00:05"); times in a list
    share one.
    """
    if len(times) == 1 and not text[: times[0].lead].strip():
        groups, clauses = [[times[0]]], [text[times[0].end :]]  # The usual case, without the search for clause edges.
    else:
        groups = _lists(text, times)
        clauses = _clauses(text, groups)
    return [
        Claim(time.start_s, time.end_s, tidy(clause), text[time.start : time.end].rstrip(" ])>`"))
        for group, clause in zip(groups, clauses, strict=True)
        if _has_content(clause)
        for time in group
    ]


def _clauses(text: str, groups: Sequence[Sequence[_Time]]) -> list[str]:
    """The words that each group of times dates."""
    edges = [0, *(edge for group in groups for edge in (group[0].lead, group[-1].end)), len(text)]
    gaps = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    in_brackets = all(text[group[0].start - 1 : group[0].start] in ("[", "(", "<") for group in groups)
    leads = _leads(gaps, in_brackets=in_brackets)
    clauses: list[str] = []
    for index, is_leading in enumerate(leads):
        before, after = gaps[index], gaps[index + 1]
        next_leads = leads[index + 1] if index + 1 < len(leads) else True
        if is_leading:
            clause = after if next_leads else _split(after)[0]
        else:
            own = _split(before)[1] if index and leads[index - 1] else before
            clause = f"{own} {_CLAUSE.split(after.lstrip(' ,'), maxsplit=1)[0]}" if next_leads else own
            if not _has_content(clause) and clauses:
                clause = clauses[-1]
        clauses.append(clause)
    return clauses


def _lists(text: str, times: Sequence[_Time]) -> list[list[_Time]]:
    """Times that stand in a list, grouped."""
    groups = [[times[0]]]
    for index, time in enumerate(times[1:], start=1):
        previous = groups[-1][-1]
        following = times[index + 1].lead if index + 1 < len(times) else len(text)
        # "He enters at 00:05, and at 00:08 he sits": the second time opens a clause of its own.
        opens_clause = (
            time.lead < time.start
            and _has_content(text[time.end : following])
            and _has_content(text[: groups[-1][0].lead])
        )
        if _LIST.fullmatch(text, previous.end, time.lead) and not opens_clause:
            groups[-1].append(time)
        else:
            groups.append([time])
    return groups


def _leads(gaps: list[str], *, in_brackets: bool) -> list[bool]:
    """For each group of times between `gaps`, whether it leads its clause."""
    num_groups = len(gaps) - 1
    if in_brackets and not _has_content(gaps[0]):
        return [True] * num_groups
    if num_groups > 1 and _has_content(gaps[0]) and not _has_content(gaps[-1]):
        return [False] * num_groups
    leads = []
    for before, after in pairwise(gaps):
        if not _has_content(after):
            leads.append(False)
        elif not _has_content(before):
            leads.append(True)
        else:
            # "a square appears, at 00:05, in the corner" puts the time in brackets of commas.
            leads.append(_EDGE.search(before[-24:]) is not None and not after.lstrip().startswith(","))
    return leads


def _split(text: str) -> tuple[str, str]:
    """Split the words between a leading and a trailing time at their last clause edge; both get all without one."""
    for edge in reversed(list(_CLAUSE.finditer(text))):
        left, right = text[: edge.start()], text[edge.end() :]
        if _has_content(left) and _has_content(right):
            return left, right
    return text, text
