"""Scenarios, questions and reasoning traces: what happens in a demo clip and what is said about it.

A clip shows three coloured shapes, one after the other, each in its own quadrant for two seconds. The events of a clip
differ in colour, so a wrong event at the right time also differs in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 190, 40),
    "blue": (40, 60, 230),
    "yellow": (230, 210, 30),
}
"""Name -> RGB; their order is the order of the options."""
SHAPES = ("square", "triangle")
"""Told apart in a frame of 28 x 28 pixels: one covers twice as much as the other."""
LETTERS = "ABCD"
DURATION_S = 16
DWELL_S = 2
NUM_EVENTS = 3

QuestionKind = Literal["first", "second", "last", "time"]
KINDS: tuple[QuestionKind, ...] = ("first", "second", "last", "time")


@dataclass(frozen=True)
class Event:
    """One coloured shape that appears and stays for DWELL_S seconds."""

    time_s: int
    colour: str
    shape: str
    quadrant: int
    """0 to 3: top left, top right, bottom left, bottom right."""
    shift: tuple[int, int]
    """Down and right, each -1, 0 or 1, in steps of the renderer."""

    @property
    def sentence(self) -> str:
        return f"A {self.colour} {self.shape} appears."


@dataclass(frozen=True)
class Question:
    """What is asked about a clip."""

    kind: QuestionKind
    text: str
    """With its options."""
    lead: str
    """How the reasoning restates it before it names the colour."""
    answer: int
    """Index of the event asked for."""


@dataclass(frozen=True)
class Faults:
    """How often a trace goes wrong, each a probability (0-1)."""

    late: float
    """Of a claim to be dated `late_by_s` too late."""
    late_by_s: int
    disagree: float
    """Of reasoning and answer to name different options, either of them the intended one."""
    both_wrong: float
    """Of reasoning and answer to agree on an option that is not the intended one."""
    systematic: float
    """Of the intended option to be that of a neighbouring event: a wrong habit, which greedy decoding shows."""


NO_FAULTS = Faults(late=0.0, late_by_s=0, disagree=0.0, both_wrong=0.0, systematic=0.0)


def make_events(rng: np.random.Generator) -> tuple[Event, ...]:
    """Three events, at least DWELL_S apart, with different colours and quadrants, in order of time."""
    gaps = DURATION_S - 2 - (NUM_EVENTS - 1) * (DWELL_S - 1)
    starts = np.sort(rng.choice(gaps, NUM_EVENTS, replace=False)) + 1 + np.arange(NUM_EVENTS) * (DWELL_S - 1)
    colours = rng.permutation(list(COLOURS))[:NUM_EVENTS]
    quadrants = rng.permutation(4)[:NUM_EVENTS]
    shapes = rng.integers(len(SHAPES), size=NUM_EVENTS)
    shifts = rng.integers(-1, 2, size=(NUM_EVENTS, 2))
    return tuple(
        Event(
            time_s=int(starts[i]),
            colour=str(colours[i]),
            shape=SHAPES[shapes[i]],
            quadrant=int(quadrants[i]),
            shift=(int(shifts[i, 0]), int(shifts[i, 1])),
        )
        for i in range(NUM_EVENTS)
    )


def time_key(time_s: int) -> str:
    """Seconds as MM:SS."""
    return f"{time_s // 60:02d}:{time_s % 60:02d}"


def options_text() -> str:
    return " ".join(f"{letter}. {colour}" for letter, colour in zip(LETTERS, COLOURS, strict=True))


def make_question(events: tuple[Event, ...], kind: QuestionKind, *, rng: np.random.Generator) -> Question:
    """A question of the given kind; `rng` picks the event where the kind leaves it open."""
    if kind == "time":
        answer = int(rng.integers(len(events)))
        when = time_key(events[answer].time_s)
        return Question(kind, f"Which colour appears at {when}? {options_text()}", f"At {when} it is", answer)
    answer = {"first": 0, "second": 1, "last": len(events) - 1}[kind]
    return Question(kind, f"Which colour appears {kind}? {options_text()}", f"So {kind}", answer)


def letter_of(event: Event) -> str:
    return LETTERS[list(COLOURS).index(event.colour)]


def grounding(events: tuple[Event, ...]) -> dict[str, str]:
    """TAR's reference: when each event happens, and what it is."""
    return {time_key(event.time_s): event.sentence for event in events}


def make_trace(events: tuple[Event, ...], question: Question, *, faults: Faults, rng: np.random.Generator) -> str:
    """A dated account of the clip, its order, a conclusion that restates the question, and the answer.

    Wrong as `faults` says. Order and conclusion put a colour right after its place: what followed a word before is the
    first thing that a small transformer learns to look up. With a word between them, one seed of three never did.
    """
    claims = []
    for event in events:
        late_s = faults.late_by_s if rng.random() < faults.late else 0
        claims.append(f"At {time_key(event.time_s + late_s)} a {event.sentence[2:]}")
    intended = question.answer
    if rng.random() < faults.systematic:
        intended = intended + 1 if intended + 1 < len(events) else intended - 1
    concluded, answered = _letters(letter_of(events[intended]), faults=faults, rng=rng)
    colour = list(COLOURS)[LETTERS.index(concluded)]
    reasoning = f"{' '.join(claims)} {_order(events)} {question.lead} {colour} ({concluded})."
    return f"<think>{reasoning}</think>\n<answer>{answered}</answer>"


def _order(events: tuple[Event, ...]) -> str:
    first, second, last = (event.colour for event in events)
    return f"In order: first {first}, second {second}, last {last}."


def _letters(intended: str, *, faults: Faults, rng: np.random.Generator) -> tuple[str, str]:
    """The letter that the reasoning concludes and the one that is answered."""
    draw = rng.random()
    wrong = [letter for letter in LETTERS if letter != intended][int(rng.integers(3))]
    is_reasoning_wrong = rng.random() < 0.5
    if draw < faults.disagree:
        return (wrong, intended) if is_reasoning_wrong else (intended, wrong)
    if draw < faults.disagree + faults.both_wrong:
        return wrong, wrong
    return intended, intended


def corpus() -> list[str]:
    """Every phrase that prompts and traces are made of: what the tokenizer is trained on."""
    times = [time_key(t) for t in range(DURATION_S + 4)]
    phrases = [f" At {when} a {colour} {shape} appears." for when in times for colour in COLOURS for shape in SHAPES]
    phrases += [f"At {when} a {colour} {shape} appears." for when in times for colour in COLOURS for shape in SHAPES]
    phrases += [f"Which colour appears at {when}? {options_text()}" for when in times]
    phrases += [f"Which colour appears {kind}? {options_text()}" for kind in ("first", "second", "last")]
    for letter, colour in zip(LETTERS, COLOURS, strict=True):
        phrases += [f" So {kind} {colour} ({letter})." for kind in ("first", "second", "last")]
        phrases.append(f" In order: first {colour}, second {colour}, last {colour}.")
        phrases += [f" At {when} it is {colour} ({letter})." for when in times]
        phrases.append(f"<think></think>\n<answer>{letter}</answer>")
    return [*phrases, "system\n", "user\n", "assistant\n", "\n"]
