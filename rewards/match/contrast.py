"""Opposites that sentence similarity does not see.

MiniLM gives "A red square appears." and "A red square disappears." a cosine of 0.89, red square against red circle
0.76, a van overtaking a car against the reverse 0.99, all above the paper's threshold. The guard compares what claim
and reference say in words: sets whose members exclude one another (`contrast_sets.py`), what goes with which noun, who
does what to whom (`roles.py`), to or from where, how many, and whether it is affirmed or denied. It is English.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from rewards.match.contrast_sets import (
    ABSENCES,
    DENIALS,
    DETAIL_SETS,
    EVENT_SETS,
    NEGATIONS,
    NEUTRAL,
    RELATIONS,
    THING_SETS,
)
from rewards.match.roles import compare_roles
from rewards.text.english import FUNCTION_WORDS, stem, tokens
from rewards.text.parsing import NUMBER_WORDS

_NO_COUNT_BEFORE_ONE = frozenset(
    {"the", "this", "that", "another", "each", "every", "first", "last", "next", "which", "no", "red", "other"}
)
_NO_COUNT_AFTER_ONE = frozenset({"of", "by", "another", "side", "is", "who", "that", "after", "hand", "arm", "foot"})
_TO, _FROM = frozenset({"to", "into", "onto"}), frozenset({"from", "out", "off"})
_NEUTRAL = "neutral"
_PREFIXES = ("un", "dis")
# "A is left of B" and "B is right of A" agree: who stands where decides.
RELATIVE_SETS = frozenset(name for name, _ in RELATIONS.values())


@dataclass(frozen=True)
class Reading:
    """What a sentence says, as far as the guard compares it."""

    members: Mapping[str, frozenset[str]]
    """Event or thing set -> its members in the sentence; sets it does not speak of are left out."""
    details: Mapping[str, Mapping[str, frozenset[str]]]
    """`colour`, `size`, `count` -> noun (its stem) -> values."""
    directions: Mapping[str, frozenset[str]]
    """Noun (its stem) -> "to", "from"."""
    negations: int
    """Negations and verbs that deny; an odd number denies, so "does not miss" affirms."""
    absences: int
    """Words such as "empty", which deny only where the other sentence denies in another way."""
    stems: frozenset[str]
    unprefixed: Mapping[str, str]
    """Stems that start with "un" or "dis" -> what follows it."""


@lru_cache(maxsize=65_536)
def read_sentence(sentence: str) -> Reading:
    """Read a sentence for comparison. Linear in its length; cached, since a group's responses repeat one another."""
    words, table = tokens(sentence), _table()
    members: dict[str, set[str]] = {}
    values: list[tuple[int, str, str]] = []
    negations = absences = 0
    place = 0
    while place < len(words):
        word = words[place]
        width, entries = _entry_at(words, place, table[word]) if word in table else (1, ())
        if width == 1:
            negations += word in NEGATIONS or word in DENIALS or word.endswith(("n't", "n\u2019t"))
            absences += word in ABSENCES
        for name, member in entries:
            if name in DETAIL_SETS:
                values.append((place, name, member))
            elif name != _NEUTRAL:
                members.setdefault(name, set()).add(member)
        if not entries and (count := _count(words, place)) is not None:
            values.append((place, "count", count))
        place += width
    stems = frozenset(map(stem, words))
    return Reading(
        members=MappingProxyType({name: frozenset(found) for name, found in members.items()}),
        details=_details(words, values),
        directions=_directions(words),
        negations=negations,
        absences=absences,
        stems=stems,
        unprefixed=MappingProxyType(
            {
                word: word.removeprefix("un" if word.startswith("un") else "dis")
                for word in stems
                if word.startswith(_PREFIXES)
            }
        ),
    )


_Entries: TypeAlias = tuple[tuple[str, str], ...]
"""The (set, member) pairs that a phrase stands for."""
_Phrases: TypeAlias = tuple[tuple[tuple[str, ...], _Entries], ...]
"""Phrases, the longest first, and what they stand for."""


@lru_cache(maxsize=1)
def _table() -> Mapping[str, _Phrases]:
    """First word -> the phrases that start with it."""
    entries_of: dict[tuple[str, ...], _Entries] = {}
    for name, members in {**EVENT_SETS, **THING_SETS, **DETAIL_SETS, _NEUTRAL: ("|".join(NEUTRAL),)}.items():
        for member in members:
            entries = member.split("|")
            for entry in entries:
                for form in _forms(entry):
                    entries_of[form] = (*entries_of.get(form, ()), (name, entries[0].replace("*", "")))
    table: dict[str, _Phrases] = {}
    for phrase in sorted(entries_of, key=len, reverse=True):
        table[phrase[0]] = (*table.get(phrase[0], ()), (phrase, entries_of[phrase]))
    return MappingProxyType(table)


def _forms(entry: str) -> list[tuple[str, ...]]:
    """The phrases that an entry stands for: only its first word is inflected."""
    first, *rest = entry.split()
    return [(form, *rest) for form in (_verb_forms(first[:-1]) if first.endswith("*") else (first,))]


def _verb_forms(verb: str) -> tuple[str, ...]:
    if verb.endswith("e"):
        return verb, f"{verb}s", f"{verb}d", f"{verb[:-1]}ing"
    plural = "es" if verb.endswith(("s", "x", "z", "ch", "sh")) else "s"
    doubled = (
        verb[-1] if len(verb) > 2 and verb[-1] in "bgmnpt" and verb[-2] in "aeiou" and verb[-3] not in "aeiou" else ""
    )
    return verb, f"{verb}{plural}", f"{verb}ed", f"{verb}ing", f"{verb}{doubled}ed", f"{verb}{doubled}ing"


def _entry_at(words: Sequence[str], place: int, phrases: _Phrases) -> tuple[int, _Entries]:
    """The longest of some phrases that stands here: its number of words, and what it stands for."""
    for phrase, entries in phrases:
        if len(phrase) == 1 or tuple(words[place : place + len(phrase)]) == phrase:
            return len(phrase), entries
    return 1, ()


def _count(words: Sequence[str], place: int) -> str | None:
    word = words[place]
    following = words[place + 1] if place + 1 < len(words) else ""
    if word in ("pair", "couple") and following == "of":
        return "2"
    if word in ("one", "single") and (
        (place and words[place - 1] in _NO_COUNT_BEFORE_ONE) or following in _NO_COUNT_AFTER_ONE
    ):
        return None
    if word == "single":
        return "1"
    if word in NUMBER_WORDS:
        return str(NUMBER_WORDS[word])
    return word if word[0].isdigit() else None


def _details(
    words: Sequence[str], values: Sequence[tuple[int, str, str]]
) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Give each value its nouns: what follows ("a red wooden door"), else what precedes it ("the light turns red")."""
    is_value = {place for place, _, _ in values}
    bound: dict[str, dict[str, frozenset[str]]] = {}
    for place, name, value in values:
        after = place + 1
        while after < len(words) and (
            after in is_value or (after + 1 in is_value and words[after] in ("or", "and", ","))
        ):
            after += 1
        nouns = _run(words, after, step=1)
        # "in red" goes with the person before it.
        if not nouns:
            nouns = [word for word in reversed(words[:place]) if word not in FUNCTION_WORDS][:3]
        table = bound.setdefault(name, {})
        for noun in map(stem, nouns):
            table[noun] = table.get(noun, frozenset()) | {value}
    return MappingProxyType({name: MappingProxyType(nouns) for name, nouns in bound.items()})


def _run(words: Sequence[str], start: int, *, step: int) -> list[str]:
    """Up to three words from `start` on before the next function word."""
    found: list[str] = []
    while 0 <= start < len(words) and words[start] not in FUNCTION_WORDS and len(found) < 3:
        found.append(words[start])
        start += step
    return found


def _directions(words: Sequence[str]) -> Mapping[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for place, word in enumerate(words):
        direction = "to" if word in _TO else "from" if word in _FROM else None
        if direction is None:
            continue
        after = place + 1
        while after < len(words) and words[after] in ("of", "the", "a", "an", "his", "her", "its", "their"):
            after += 1
        for noun in _run(words, after, step=1)[:2]:
            found[stem(noun)] = found.get(stem(noun), frozenset()) | {direction}
    return MappingProxyType(found)


@lru_cache(maxsize=65_536)
def contrast(claim: str, reference: str) -> str | None:
    """The first of `contrasts`, or None: all that matching asks, at less cost."""
    return None if claim == reference else next(_contrasts(claim, reference), None)


def contrasts(claim: str, reference: str) -> tuple[str, ...]:
    """The respects in which a claim says something that its reference excludes; empty: none.

    Only what both speak of counts, so a claim may leave a detail out or add one of another kind. In a shared set the
    claim's members must all be the reference's ("a red or blue square" is no claim about a red one); of things it may
    name one more.
    """
    return tuple(_contrasts(claim, reference))


def _contrasts(claim: str, reference: str) -> Iterator[str]:
    ours, theirs = read_sentence(claim), read_sentence(reference)
    relative = []
    for name, members in ours.members.items():
        if name in theirs.members and _excludes(name, members, theirs.members[name]):
            if name in RELATIVE_SETS:
                relative.append(name)
            else:
                yield name
    for name, values in ours.details.items():
        if name in theirs.details and _details_differ(values, theirs.details[name], theirs.stems):
            yield name
    for name, differs in _RULES.items():
        if differs(ours, theirs):
            yield name
    roles = compare_roles(claim, reference)
    yield from (name for name in relative if name not in roles.agreeing)
    if roles.swapped:
        yield "roles"


def _excludes(name: str, ours: frozenset[str], theirs: frozenset[str]) -> bool:
    if name in THING_SETS:
        return not ours & theirs or len(ours - theirs) > 1
    return not ours <= theirs


def _details_differ(
    ours: Mapping[str, frozenset[str]], theirs: Mapping[str, frozenset[str]], their_stems: frozenset[str]
) -> bool:
    """Whether a noun has another value in the claim than in the reference.

    A value of a noun that has none in the reference is a detail more. With a noun that the reference lacks ("a blue
    car" for "a red vehicle"), one of the reference's values must be there.
    """
    for noun, values in ours.items():
        if noun in theirs and not values <= theirs[noun]:
            return True
    if not theirs or ours.keys() <= their_stems:
        return False
    return frozenset().union(*theirs.values()).isdisjoint(frozenset().union(*ours.values()))


def _polarity_differs(ours: Reading, theirs: Reading) -> bool:
    difference = ours.negations - theirs.negations
    return difference % 2 == 1 and (difference + ours.absences - theirs.absences) % 2 == 1


def _directions_differ(ours: Reading, theirs: Reading) -> bool:
    return any(
        not ours.directions[noun] & theirs.directions[noun]
        for noun in ours.directions.keys() & theirs.directions.keys()
    )


def _prefix_differs(ours: Reading, theirs: Reading) -> bool:
    """`loads` and `unloads`, `appear` and `disappear`."""
    return _has_prefixed(ours, theirs) or _has_prefixed(theirs, ours)


def _has_prefixed(one: Reading, other: Reading) -> bool:
    """Whether only `other` has some word with a prefix and only `one` has it without."""
    for longer, word in other.unprefixed.items():
        if len(word) > 2 and longer not in one.stems and word in one.stems and word not in other.stems:
            return True
    return False


_RULES: Mapping[str, Callable[[Reading, Reading], bool]] = MappingProxyType(
    {
        "polarity": _polarity_differs,
        "direction": _directions_differ,
        "prefix": _prefix_differs,
    }
)
