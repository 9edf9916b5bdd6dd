"""Word error rate and ROUGE as the paper's accuracy reward uses them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from rewards.official.porter import stem

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Words inserted, deleted and replaced, by the number of words of the reference (at least 1); may exceed 1."""
    ours, theirs = hypothesis.split(), reference.split()
    row = list(range(len(ours) + 1))
    for place, word in enumerate(theirs, start=1):
        diagonal, row[0] = row[0], place
        for column, other in enumerate(ours, start=1):
            best = diagonal if word == other else 1 + min(row[column], row[column - 1], diagonal)
            diagonal, row[column] = row[column], best
    return row[-1] / max(1, len(theirs))


def mean_rouge(reference: str, hypothesis: str) -> float:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L over stemmed words, as the package rouge_score defines them."""
    theirs, ours = _tokens(reference), _tokens(hypothesis)
    unigrams = _f(_common(theirs, ours), len(theirs), len(ours))
    bigrams = _f(_common(list(pairwise(theirs)), list(pairwise(ours))), len(theirs) - 1, len(ours) - 1)
    return (unigrams + bigrams + _f(_longest_common_subsequence(theirs, ours), len(theirs), len(ours))) / 3


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[str, ...]:
    """ASCII words and digits, lower case; words of more than three characters are stemmed."""
    words = _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()
    return tuple(stem(word) if len(word) > 3 else word for word in words)


def _common(first: Sequence[object], second: Sequence[object]) -> int:
    return sum((Counter(first) & Counter(second)).values())


def _f(common: int, num_reference: int, num_hypothesis: int) -> float:
    # In this order of operations, so that the result is the same to the last bit.
    precision, recall = common / max(num_hypothesis, 1), common / max(num_reference, 1)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by Hyyroe's bit-parallel recurrence (2004): linear in `second`, with one wide integer for `first`."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()
