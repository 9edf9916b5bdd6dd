"""Who does what to whom: two sentences of the same words in which two of them have changed places.

Without a grammar: a word that both sentences hold once is a pivot, such as a verb or "left of". Where one shared word
stands before it in one sentence and behind it in the other, and a second shared word the other way round, the two have
changed places. A passive ("is chased by") and a converse ("right of" for "left of") count as the exchange that they are;
an introduction ("On the table sits a cup") is put last first.
"""

from __future__ import annotations

from dataclasses import dataclass

from rewards.contrast_sets import CONVERSES, RELATIONS, SYMMETRIC
from rewards.english import FUNCTION_WORDS, stem, tokens

_INTRODUCTIONS = frozenset(
    "in on at under behind near next beside inside outside above below after before from between during with to by "
    "beneath over across along into".split()
)
_ARTICLES = frozenset({"a", "an", "the", "his", "her", "their", "its", "two", "three", "some", "he", "she", "they", "it"})
_BE = frozenset({"is", "are", "was", "were", "be", "been", "being", "get", "gets", "got"})
# "left" and "front" relate two things only as "left of", "in front of".
_NEEDS_OF = frozenset({"left", "right", "front"})


@dataclass(frozen=True)
class Roles:
    """What two sentences say about who is on which side of a shared relation."""

    swapped: bool
    """Two words have changed places."""
    agreeing: frozenset[str]
    """Sets whose words differ and yet mean the same: "A is left of B", "B is right of A"."""


def compare_roles(first: str, second: str) -> Roles:
    """Compare the places of shared words in two sentences."""
    ours, theirs = _plain_order(tokens(first)), _plain_order(tokens(second))
    left, right = _pivots(ours), _pivots(theirs)
    agreeing = set()
    swapped = False
    for pivot in left.keys() & right.keys():
        before, after, is_flipped = left[pivot]
        their_before, their_after, are_flipped = right[pivot]
        crossed = bool(before & their_after) and bool(after & their_before)
        straight = bool(before & their_before) and bool(after & their_after)
        if crossed and not straight:
            swapped = True
        elif straight and not crossed and pivot in RELATIONS and is_flipped != are_flipped:
            agreeing.add(RELATIONS[pivot])
    return Roles(swapped, frozenset(agreeing))


def _plain_order(words: list[str]) -> list[str]:
    """The words with an introduction moved behind the rest: "On the table sits a cup" -> "a cup on the table sits"."""
    if not words or words[0] not in _INTRODUCTIONS:
        return words
    if "," in words:
        end = words.index(",")
    else:
        # The first article belongs to the introduction itself, the second opens the main clause.
        articles = [place for place, word in enumerate(words) if word in _ARTICLES]
        end = next((place for place in articles if place > 1 and any(p < place - 1 for p in articles)), 0)
    return [*words[end:], *words[:end]]


def _pivots(words: list[str]) -> dict[str, tuple[frozenset[str], frozenset[str], bool]]:
    """Word -> the words before and behind it, sides exchanged where it is a passive or a converse, and whether it is."""
    stems = [stem(word) for word in words]
    singles = {word: place for place, word in enumerate(stems) if stems.count(word) == 1}
    found = {}
    for word, place in singles.items():
        raw = words[place]
        is_relation = raw in CONVERSES or raw in RELATIONS
        if raw in _NEEDS_OF and words[place + 1 : place + 2] != ["of"]:
            continue
        if not is_relation and (raw in FUNCTION_WORDS or word in SYMMETRIC or _is_symmetric(words, stems, place)):
            continue
        flipped = raw in CONVERSES or (_BE & set(words[max(0, place - 2) : place]) != set() and "by" in words[place:])
        sides = [
            frozenset(
                other
                for other, at in singles.items()
                if (at < place) == is_before and at != place and words[at] not in FUNCTION_WORDS
            )
            for is_before in (True, False)
        ]
        if flipped:
            sides.reverse()
        found[CONVERSES.get(raw, raw) if is_relation else word] = (sides[0], sides[1], flipped)
    return found


def _is_symmetric(words: list[str], stems: list[str], place: int) -> bool:
    """Whether what follows the word says the same of both sides: "stands beside", "talks with"."""
    return any(word in SYMMETRIC for word in (*words[place + 1 : place + 3], *stems[place + 1 : place + 3]))
