"""The books on encoded clips: once each, bounded, shared out evenly."""

from __future__ import annotations

from videor2_rl.types import PromptHandle
from workers.learner.visual_store import EncodedClip, VisualStore, encode_shares

MIB = 1 << 20


def prompt(clip: str, *, tokens: int = 10, sample: str = "s") -> PromptHandle:
    return PromptHandle(sample, clip, tokens, None)


def step(store: VisualStore, *clips: str, mib: int = 1) -> list[str]:
    """One step over these clips; returns those that had to be encoded."""
    prompts = [prompt(clip) for clip in clips]
    missing = [handle.clip_key for handle in store.missing(prompts)]
    attached = store.attach(prompts, [EncodedClip(clip, f"ref {clip}", mib * MIB) for clip in missing])
    assert [(handle.clip_key, handle.visual) for handle in attached] == [(clip, f"ref {clip}") for clip in clips]
    return missing


def test_a_clip_is_encoded_once_however_many_prompts_and_steps_ask() -> None:
    store = VisualStore(capacity_mib=8)
    assert step(store, "a", "b", "a") == ["a", "b"]
    assert store.take_metrics() == {"data/clips_encoded": 2, "data/clips_reused": 0, "data/encodings_per_clip": 1}
    assert step(store, "b", "c") == ["c"]
    assert step(store, "a", "b", "c") == []
    assert store.take_metrics() == {"data/clips_encoded": 1, "data/clips_reused": 4, "data/encodings_per_clip": 1}
    assert store.take_metrics()["data/clips_reused"] == 0


def test_the_clip_unused_for_longest_goes_first_and_is_encoded_again() -> None:
    store = VisualStore(capacity_mib=2)
    step(store, "a", "b")
    step(store, "a")
    assert step(store, "c") == ["c"]
    assert step(store, "a") == []
    assert step(store, "b") == ["b"]
    assert store.take_metrics()["data/encodings_per_clip"] == 4 / 3


def test_a_step_larger_than_the_capacity_is_served_whole() -> None:
    store = VisualStore(capacity_mib=2)
    assert step(store, "a", "b", "c", "d") == ["a", "b", "c", "d"]
    assert step(store, "c", "d") == []


def test_every_rank_encodes_equally_many_the_longest_side_by_side() -> None:
    handles = [prompt(clip, tokens=tokens) for clip, tokens in (("s", 1), ("l", 9), ("m", 5))]
    longest_first = VisualStore(capacity_mib=1).missing(handles)
    first, second = encode_shares(longest_first, num_ranks=2)
    assert [handle and handle.clip_key for handle in first] == ["l", "s"]
    assert [handle and handle.clip_key for handle in second] == ["m", None]
