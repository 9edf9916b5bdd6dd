"""Who does what to whom: two sentences of the same words in which two of them have changed places.

Without a grammar: a word that both sentences hold once is a pivot, such as a verb or "left of". Where one shared word
stands before it in one sentence and behind it in the other, and a second shared word the other way round, the two have
changed places. A passive ("is chased by") and a converse ("right of" for "left of") count as the exchange that they
are; an introduction ("On the table sits a cup") is put last first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from rewards.match.contrast_sets import RELATIONS, SYMMETRIC
from rewards.text.english import FUNCTION_WORDS, stem, tokens

_INTRODUCTION_WORDS = """
in on at under behind near next beside inside outside above below after before from between during with to by beneath
over across along into
"""
_INTRODUCTIONS = frozenset(_INTRODUCTION_WORDS.split())
_ARTICLE_WORDS = "a an the his her their its two three some he she they it"
_ARTICLES = frozenset(_ARTICLE_WORDS.split())
_BE = frozenset({"is", "are", "was", "were", "be", "been", "being", "get", "gets", "got"})
# "left" and "front" relate two things only as "left of", "in front of".
_NEEDS_OF = frozenset({"left", "right", "front"})
_CROSSED, _STRAIGHT = {(True, False), (False, True)}, {(True, True), (False, False)}
# Who does what to whom is said early; it bounds the cost of a pair.
_MAX_WORDS = 32


@dataclass(frozen=True)
class Roles:
    """What two sentences say about who is on which side of a shared relation."""

    swapped: bool
    """Two words have changed places."""
    agreeing: frozenset[str]
    """Sets whose words differ and yet mean the same: "A is left of B", "B is right of A"."""


@dataclass(frozen=True)
class _Order:
    """The words that a sentence holds once, and where."""

    places: Mapping[str, int]
    """Content words (their stems) by place."""
    pivots: Mapping[str, tuple[int, bool]]
    """Pivot (a stem, or a relation in parentheses) -> its place, and whether its two sides are exchanged."""


def compare_roles(first: str, second: str) -> Roles:
    """Compare the places of the words that two sentences share, among their first 32."""
    ours, theirs = _order(first), _order(second)
    shared = ours.places.keys() & theirs.places.keys()
    if len(shared) < 2:
        return Roles(False, frozenset())
    agreeing: set[str] = set()
    swapped = False
    for pivot in ours.pivots.keys() & theirs.pivots.keys():
        (our_place, our_exchange), (their_place, their_exchange) = ours.pivots[pivot], theirs.pivots[pivot]
        # Whether a word stands before the pivot, in either sentence.
        sides = {
            ((ours.places[word] < our_place) != our_exchange, (theirs.places[word] < their_place) != their_exchange)
            for word in shared
            if word != pivot
        }
        crossed, straight = sides >= _CROSSED, sides >= _STRAIGHT
        if crossed and not straight:
            swapped = True
        elif straight and not crossed and pivot.startswith("(") and our_exchange != their_exchange:
            agreeing.add(pivot.strip("()"))
    return Roles(swapped, frozenset(agreeing))


@lru_cache(maxsize=65_536)
def _order(sentence: str) -> _Order:
    words = _plain_order(tokens(sentence)[:_MAX_WORDS])
    stems = [stem(word) for word in words]
    singles = {word: place for place, word in enumerate(stems) if stems.count(word) == 1}
    is_symmetric = [raw in SYMMETRIC or word in SYMMETRIC for raw, word in zip(words, stems, strict=True)]
    pivots = {}
    for word, place in singles.items():
        raw = words[place]
        if raw in RELATIONS:
            if raw not in _NEEDS_OF or words[place + 1 : place + 2] == ["of"]:
                relation, is_exchanged = RELATIONS[raw]
                pivots[f"({relation})"] = (place, is_exchanged)
        # Such a word, or one right behind, says the same of both sides: "meets", "stands beside", "talks with".
        elif raw not in FUNCTION_WORDS and not any(is_symmetric[place : place + 3]):
            is_passive = not _BE.isdisjoint(words[max(0, place - 2) : place]) and "by" in words[place:]
            pivots[word] = (place, is_passive)
    places = {word: place for word, place in singles.items() if words[place] not in FUNCTION_WORDS}
    return _Order(MappingProxyType(places), MappingProxyType(pivots))


def _plain_order(words: list[str]) -> list[str]:
    """The words with an introduction moved behind the rest: "On the table sits a cup" -> "a cup on the table sits"."""
    if not words or words[0] not in _INTRODUCTIONS:
        return words
    if "," in words:
        end = words.index(",")
    else:
        # The introduction's own article comes first, the next one opens the main clause.
        articles = [place for place, word in enumerate(words) if place and word in _ARTICLES]
        end = articles[1] if len(articles) > 1 else 0
    return [*words[end:], *words[:end]]
