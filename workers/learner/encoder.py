"""Clips to visual embeddings, once for all passes over them, by ranks that hold the frozen vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from videor2_rl.types import PromptHandle
from workers.learner.ranks import RankGroup
from workers.learner.visual_store import VisualStore, encode_shares
from workers.merger import Merger

TOKENS_PER_CALL = 4096
"""For each rank: clips of more tokens wait for the next call, so that the first ones go on soon; long ones go alone."""


class Encoder:
    """Attaches embeddings to prompts, for every later pass of learner, reference and rollouts."""

    def __init__(self, ranks: RankGroup | None, *, cache_mib: int) -> None:
        """
        Args:
            ranks: the learner's, the reference's or others that hold the tower; None: prompts pass as they are, and
                each pass over a clip runs the tower.
            cache_mib: of embeddings kept for clips that come back.
        """
        self._cache_mib = cache_mib
        self.take(ranks)
        # One call after the other: the store's books are its thread's.
        self._merger = Merger(self._encode, is_full=_fills_a_call, name="encoder")

    def take(self, ranks: RankGroup | None) -> None:
        """Others encode from now on; what was encoded before is gone with those who did."""
        self._ranks = ranks
        self._store = VisualStore(self._cache_mib)

    def begin_encode(self, prompts: Sequence[PromptHandle]) -> Future[list[PromptHandle]]:
        """The prompts with references to their clips' embeddings; each clip goes through the tower once, as long as
        the cache holds it."""
        return self._merger.begin(self._ranks, prompts)

    def encode(self, prompts: Sequence[PromptHandle]) -> list[PromptHandle]:
        """`begin_encode`, waited for."""
        return self.begin_encode(prompts).result()

    def metrics(self) -> dict[str, float]:
        """Clips encoded and reused since the last call; nothing where each pass computes its own."""
        return {} if self._ranks is None else self._store.take_metrics()

    def shutdown(self) -> None:
        """Nothing is encoded any more; the ranks belong to others."""
        self._merger.shutdown()

    def _encode(self, ranks: RankGroup | None, prompts: Sequence[PromptHandle]) -> list[PromptHandle]:
        if ranks is None:
            return list(prompts)
        missing = self._store.missing(prompts)
        shares = encode_shares(missing, num_ranks=ranks.num_ranks)
        answers = ranks.run("encode", shares, what=f"encoding {len(missing)} clips") if missing else []
        return self._store.attach(prompts, [clip for share in answers for clip in share if clip is not None])


def _fills_a_call(ranks: RankGroup | None, prompts: Sequence[PromptHandle]) -> bool:
    return ranks is not None and sum(prompt.num_tokens for prompt in prompts) >= TOKENS_PER_CALL * ranks.num_ranks
