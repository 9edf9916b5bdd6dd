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

from rewards.contrast_sets import RELATIONS, SYMMETRIC
from rewards.english import FUNCTION_WORDS, stem, tokens

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
        sides = [(_is_before(ours, pivot, word), _is_before(theirs, pivot, word)) for word in shared - {pivot}]
        crossed = (True, False) in sides and (False, True) in sides
        straight = (True, True) in sides and (False, False) in sides
        if crossed and not straight:
            swapped = True
        elif straight and not crossed and pivot.startswith("(") and ours.pivots[pivot][1] != theirs.pivots[pivot][1]:
            agreeing.add(pivot.strip("()"))
    return Roles(swapped, frozenset(agreeing))


def _is_before(order: _Order, pivot: str, word: str) -> bool:
    place, is_exchanged = order.pivots[pivot]
    return (order.places[word] < place) != is_exchanged


@lru_cache(maxsize=65_536)
def _order(sentence: str) -> _Order:
    words = _plain_order(tokens(sentence)[:_MAX_WORDS])
    stems = [stem(word) for word in words]
    singles = {word: place for place, word in enumerate(stems) if stems.count(word) == 1}
    pivots = {}
    for word, place in singles.items():
        raw = words[place]
        if raw in RELATIONS:
            if raw not in _NEEDS_OF or words[place + 1 : place + 2] == ["of"]:
                relation, is_exchanged = RELATIONS[raw]
                pivots[f"({relation})"] = (place, is_exchanged)
        elif raw not in FUNCTION_WORDS and not _is_symmetric(words[place : place + 3]):
            is_passive = not _BE.isdisjoint(words[max(0, place - 2) : place]) and "by" in words[place:]
            pivots[word] = (place, is_passive)
    places = {word: place for word, place in singles.items() if words[place] not in FUNCTION_WORDS}
    return _Order(MappingProxyType(places), MappingProxyType(pivots))


def _is_symmetric(words: list[str]) -> bool:
    """Whether a word, or what follows it, says the same of both sides: "meets", "stands beside", "talks with"."""
    return any(word in SYMMETRIC or stem(word) in SYMMETRIC for word in words)


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
