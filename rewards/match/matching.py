"""One-to-one matching of claims and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from scipy.optimize import linear_sum_assignment

Pair: TypeAlias = tuple[int, int]
"""Index of a claim, index of a reference."""


def match_optimal(allowed: Mapping[Pair, float]) -> list[Pair]:
    """One-to-one pairs, as many as possible, among those the greatest sum of similarity.

    Args:
        allowed: similarity in [-1, 1] of the pairs that may match.
    """
    rows, columns = sorted({row for row, _ in allowed}), sorted({column for _, column in allowed})
    if len(rows) == len(columns) == len(allowed):
        return sorted(allowed)  # Nothing competes.
    # One pair more outweighs any gain in similarity, which over n pairs is at most 2 n.
    bonus = 2.0 * min(len(rows), len(columns)) + 1.0
    worth = np.zeros((len(rows), len(columns)))
    for (row, column), similarity in allowed.items():
        worth[rows.index(row), columns.index(column)] = bonus + similarity
    chosen = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
    pairs = [(rows[place], columns[other]) for place, other in chosen]
    return [pair for pair in pairs if pair in allowed]


def match_greedy(allowed: Mapping[Pair, float], *, order: Sequence[int]) -> list[Pair]:
    """Each claim, in `order`, takes the most similar allowed reference that is left (arXiv:2511.23478).

    Of equally similar references the earliest is taken.
    """
    by_row: dict[int, list[int]] = {}
    for row, column in sorted(allowed):
        by_row.setdefault(row, []).append(column)
    taken: dict[int, int] = {}
    for row in order:
        free = [column for column in by_row.get(row, ()) if column not in taken]
        if free:
            best = max(allowed[row, column] for column in free)
            taken[next(column for column in free if allowed[row, column] == best)] = row
    return sorted((row, column) for column, row in taken.items())
