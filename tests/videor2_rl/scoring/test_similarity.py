from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from videor2_rl.scoring.similarity import SentenceEncoder


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> tuple[SentenceEncoder, list[list[str]]]:
    """An encoder of three vectors that records what it computes."""
    encoder = SentenceEncoder(cache_size=3)
    computed: list[list[str]] = []

    def compute(sentences: list[str]) -> NDArray[np.float32]:
        computed.append(sentences)
        return np.array([[float(len(sentence)), 1.0] for sentence in sentences], dtype=np.float32)

    monkeypatch.setattr(encoder, "_compute", compute)
    return encoder, computed


def test_each_sentence_is_computed_once_and_in_one_batch(counting: tuple[SentenceEncoder, list[list[str]]]) -> None:
    encoder, computed = counting
    vectors = encoder.encode(["a", "bb", "a"])
    assert vectors.tolist() == [[1, 1], [2, 1], [1, 1]]
    encoder.encode(["bb", "ccc"])
    assert computed == [["a", "bb"], ["ccc"]]


def test_the_least_recently_used_vector_leaves_first(counting: tuple[SentenceEncoder, list[list[str]]]) -> None:
    encoder, computed = counting
    for sentences in (["a", "bb", "ccc"], ["a"], ["dddd"], ["a"], ["bb"]):
        encoder.encode(sentences)
    assert computed == [["a", "bb", "ccc"], ["dddd"], ["bb"]]


def test_a_batch_larger_than_the_cache_is_complete(counting: tuple[SentenceEncoder, list[list[str]]]) -> None:
    encoder, _ = counting
    assert encoder.encode([*"abcdef"]).shape == (6, 2)


def test_importing_the_module_loads_no_torch() -> None:
    code = "import sys, videor2_rl.scoring.similarity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_pinned_model_gives_the_published_cosines_and_the_guard_is_needed() -> None:
    encoder = SentenceEncoder()
    table = encoder.similarity(
        ["A red square appears."],
        ["A red square appears.", "A blue circle appears.", "A red circle appears.", "A red square disappears."],
    )
    assert table.shape == (1, 4)
    assert table.dtype == np.float32
    # Measured with sentence-transformers elsewhere: 0.46, 0.76, 0.89.
    np.testing.assert_allclose(table[0], [1.0, 0.46, 0.76, 0.89], atol=0.01)
    assert encoder.similarity([], ["A red square appears."]).shape == (0, 1)
    assert encoder.encode([]).shape == (0, 384)
