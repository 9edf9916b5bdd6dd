from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from videor2_rl.scoring.batch import KnownSimilarity


def nine_tenths(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
    return np.full((len(claims), len(references)), 0.9, dtype=np.float32)


def test_a_full_table_is_exact_and_asks_nobody() -> None:
    table = KnownSimilarity({"a": {"x": 0.7, "y": 1}}, None)
    assert table(["a"], ["y", "x"]).tolist() == [[1.0, 0.7]]
    assert table.missing == []


def test_sentences_are_found_as_written_and_as_tidied() -> None:
    table = KnownSimilarity({" and a cat sits ": {"a dog runs": 0.5}, "A cat sits.": {"A dog runs.": 0.25}}, None)
    assert table(["A cat sits."], ["A dog runs."]).tolist() == [[0.25]]
    table = KnownSimilarity({" and a cat sits ": {"a dog runs": 0.5}}, None)
    assert table(["A cat sits."], ["A dog runs."]).tolist() == [[0.5]]
    assert table(["and a cat sits"], ["a dog runs"]).tolist() == [[0.5]]
    assert table.missing == []


def test_pairs_left_out_are_remembered_and_come_from_the_encoder() -> None:
    incomplete = {"a": {"x": 0.5}}
    table = KnownSimilarity(incomplete, None)
    assert table(["a", "b"], ["x", "y"]).tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert table.missing == ["a", "b", "x", "y"]
    filled = KnownSimilarity(incomplete, nine_tenths)(["a", "b"], ["x", "y"])
    np.testing.assert_allclose(filled, [[0.5, 0.9], [0.9, 0.9]], rtol=1e-6)


def test_no_claims_and_no_references_give_an_empty_matrix() -> None:
    assert KnownSimilarity({}, nine_tenths)([], ["x"]).shape == (0, 1)
