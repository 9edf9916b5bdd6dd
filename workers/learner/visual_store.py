"""Where the visual embeddings of a run's clips lie: the driver's books, in which a clip is encoded only once.

The embeddings themselves stay in Ray's object store, put there by the learner ranks that encoded them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from videor2_rl.types import PromptHandle


@dataclass(frozen=True)
class EncodedClip:
    """What a learner rank answers for one clip."""

    clip_key: str
    ref: Any
    """Ray object reference of [merged patches, E] embeddings."""
    num_bytes: int


class VisualStore:
    """References by content address, up to a size; the one unused for longest goes first.

    A reference given out with a prompt keeps its embeddings alive as long as the prompt is in use.
    """

    def __init__(self, capacity_mib: int) -> None:
        self._capacity = capacity_mib << 20
        self._clips: OrderedDict[str, EncodedClip] = OrderedDict()
        self._ever: set[str] = set()
        self._encodings = 0
        self._lately_encoded = self._lately_reused = 0

    def missing(self, prompts: Sequence[PromptHandle]) -> list[PromptHandle]:
        """One prompt for each clip that has to be encoded, the longest first."""
        by_clip = {prompt.clip_key: prompt for prompt in prompts if prompt.clip_key not in self._clips}
        return sorted(by_clip.values(), key=lambda prompt: -prompt.num_tokens)

    def attach(self, prompts: Sequence[PromptHandle], new: Sequence[EncodedClip]) -> list[PromptHandle]:
        """The prompts with references to their clips' embeddings.

        Args:
            new: the clips of `missing`, encoded.
        """
        used = {prompt.clip_key for prompt in prompts}
        self._clips.update({clip.clip_key: clip for clip in new})
        self._ever |= used
        self._encodings += len(new)
        self._lately_encoded += len(new)
        self._lately_reused += len(used) - len(new)
        for key in sorted(used):
            self._clips.move_to_end(key)
        attached = [replace(prompt, visual=self._clips[prompt.clip_key].ref) for prompt in prompts]
        self._shrink()
        return attached

    def take_metrics(self) -> dict[str, float]:
        """Clips encoded, and taken from earlier, since the last call; encodings per clip since the start."""
        encoded, reused = self._lately_encoded, self._lately_reused
        self._lately_encoded = self._lately_reused = 0
        return {
            "data/clips_encoded": float(encoded),
            "data/clips_reused": float(reused),
            "data/encodings_per_clip": self._encodings / len(self._ever) if self._ever else 0.0,
        }

    def _shrink(self) -> None:
        size = sum(clip.num_bytes for clip in self._clips.values())
        while size > self._capacity:
            _, clip = self._clips.popitem(last=False)
            size -= clip.num_bytes


def encode_shares(prompts: Sequence[PromptHandle], *, num_ranks: int) -> list[list[PromptHandle | None]]:
    """Each rank's clips, equally many on every rank: sharded weights are gathered by all ranks together.

    None fills up. Sorted by length, the clips that ranks encode side by side are of like size.
    """
    per_rank = -(-len(prompts) // num_ranks)
    filled = [*prompts, *[None] * (per_rank * num_ranks - len(prompts))]
    return [filled[rank::num_ranks] for rank in range(num_ranks)]
