"""The demo's dataset files: which clips each split has, and the rows about them, in the paper's JSON layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videor2_rl.demo.clips import encode, frame_times, render
from videor2_rl.demo.events import (
    COLOURS,
    NO_FAULTS,
    Event,
    Faults,
    QuestionKind,
    grounding,
    letter_of,
    make_events,
    make_question,
    make_trace,
)

SPLITS = ("base", "sft", "grpo", "heldout", "validation")
"""base: clean traces; sft: faulty ones; grpo: answers alone; heldout, validation: clean ones on clips of their own."""
_SUBTITLES_EVERY = 16
_SUBTITLES = (
    "1\n00:00:00,000 --> 00:00:08,000\nShapes come and go.\n\n2\n00:00:08,000 --> 00:00:16,000\nWatch their colours.\n"
)


@dataclass(frozen=True)
class Split:
    """One dataset file with its own clips."""

    name: Literal["base", "sft", "grpo", "heldout", "validation"]
    num_clips: int
    questions_per_clip: int
    kinds: tuple[QuestionKind, ...]
    """At least `questions_per_clip`: a clip's questions are of different kinds, in turn."""


def clip_name(split: Split, index: int) -> str:
    """The clip's path relative to the demo folder. One clip, the first held-out one, has a variable frame rate."""
    return f"clips/{split.name}/{index:05d}.{'mkv' if _is_variable(split, index) else 'mp4'}"


def write_clip(folder: Path, split: Split, index: int, *, seed: int) -> None:
    """Render and encode one clip, and beside every 16th its subtitles. A pure function of its arguments."""
    times_s = frame_times(variable=_is_variable(split, index))
    frames = render(_events(split, index, seed=seed), times_s, rng=_generator(seed, split, index, purpose="noise"))
    path = folder / clip_name(split, index)
    encode(path, frames, times_s=times_s)
    if index % _SUBTITLES_EVERY == 0:
        path.with_suffix(".srt").write_text(_SUBTITLES, encoding="utf-8")


def make_rows(split: Split, *, faults: Faults, seed: int) -> list[dict[str, Any]]:
    """The split's rows; `faults` applies to the sft split alone."""
    rows = []
    for index in range(split.num_clips):
        events = _events(split, index, seed=seed)
        rng = _generator(seed, split, index, purpose="questions")
        for number in range(split.questions_per_clip):
            rows.append(_row(split, index, number, events=events, faults=faults, rng=rng))
    return rows


def _row(
    split: Split, index: int, number: int, *, events: tuple[Event, ...], faults: Faults, rng: np.random.Generator
) -> dict[str, Any]:
    kind = split.kinds[(index + number) % len(split.kinds)]
    question = make_question(events, kind, rng=rng)
    if split.name == "grpo":
        solution = f"<answer>{letter_of(events[question.answer])}</answer>"
    else:
        solution = make_trace(events, question, faults=faults if split.name == "sft" else NO_FAULTS, rng=rng)
    return {
        "id": f"{split.name}-{index:05d}-{kind}",
        "video": clip_name(split, index),
        "conversations": [
            {"from": "human", "value": f"<video>\n{question.text}"},
            {"from": "gpt", "value": solution},
        ],
        "problem_type": "multiple choice",
        "options": list(COLOURS),
        "temporal_grounding": grounding(events),
    }


def _is_variable(split: Split, index: int) -> bool:
    return split.name == "heldout" and index == 0


def _events(split: Split, index: int, *, seed: int) -> tuple[Event, ...]:
    return make_events(_generator(seed, split, index, purpose="events"))


def _generator(
    seed: int, split: Split, index: int, *, purpose: Literal["events", "noise", "questions"]
) -> np.random.Generator:
    """Streams that do not depend on how many clips there are or in which order or process they are made."""
    purposes = ("events", "noise", "questions")
    return np.random.default_rng((seed, SPLITS.index(split.name), index, purposes.index(purpose)))
