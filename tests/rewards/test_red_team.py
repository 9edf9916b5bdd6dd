"""Attempts to be paid without seeing: none earns more than an honest weak answer, and none costs much time."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

try:
    from re._parser import parse
except ImportError:  # Python 3.10
    from sre_parse import parse

from rewards.compose import score_response
from rewards.text.parsing import MAX_BLOCK_CHARS
from rewards.types import Similarity, Target, VideoR2Config

TIMES = ("00:02", "00:08", "00:12")
# Two events of three right, the third at a wrong time, and an answer that follows but is wrong: 1 + 0 + 2/3.
HONEST_WEAK = (
    "<think>At 00:02 a red square appears. At 00:07 a yellow circle appears. At 00:15 a blue triangle appears. "
    "The first is blue (C).</think>\n<answer>C</answer>"
)
EVENTS = ("a red square appears", "a yellow circle appears", "a blue triangle appears")
OPTIONS = "The options are A. red, B. green, C. blue, D. yellow."


def think(text: str, answer: str = "C") -> str:
    """A well-formed response whose think text ends in the honest weak answer's conclusion."""
    return f"<think>{text} The first is blue (C).</think>\n<answer>{answer}</answer>"


ATTEMPTS = {
    # One safe claim, and little variations of it.
    "one safe claim": think("At 00:02 a red square appears."),
    "one safe claim twice": think("At 00:02 a red square appears. At 00:02 a red square appears."),
    "one safe claim in a range": think("From 00:01 to 00:04 a red square appears."),
    # The right time with the opposite event.
    "opposite events": think("At 00:02 a red square disappears. At 00:08 a yellow circle disappears."),
    "denied events": think("At 00:02 no red square appears. At 00:08 no yellow circle appears."),
    "other colours": think("At 00:02 a green square appears. At 00:08 a blue circle appears."),
    "every colour and shape in one claim": think("At 00:02 a red green blue yellow square circle triangle appears."),
    "appears or disappears": think("".join(f"At {t} {e} or disappears. " for t, e in zip(TIMES, EVENTS, strict=True))),
    # Ranges over the whole video.
    "one range over the whole video": think("From 00:00 to 00:16 a red square appears."),
    "all events over the whole video": think("".join(f"From 00:00 to 00:16 {event}. " for event in EVENTS)),
    "all events in one range": think(f"From 00:00 to 00:16 {', '.join(EVENTS)}."),
    "ranges at the limit": think("".join(f"From 00:0{s} to 00:0{s + 4} {EVENTS[0]}. " for s in (0, 1, 2, 3))),
    # Stamps everywhere.
    "a stamp every second": think("".join(f"At 00:{s:02d} a red square appears. " for s in range(60))),
    "every event every four seconds": think(
        "".join(f"At 00:{s:02d} {event}. " for s in range(0, 17, 4) for event in EVENTS)
    ),
    "every event every second": think(
        "".join(
            f"At 00:{s:02d} a {colour} {shape} appears. "
            for s in range(16)
            for colour in ("red", "green", "blue", "yellow")
            for shape in ("square", "circle", "triangle")
        )
    ),
    "a list of every second": think(f"At {', '.join(f'00:{s:02d}' for s in range(60))} a red square appears."),
    # Words of others.
    "parroted subtitles": think("".join(f'At {t} "Look at the screen, it appears now!" ' for t in TIMES)),
    "parroted subtitles in a range": think('From 00:00 to 00:16 the subtitle says "a red square appears".'),
    "claims copied from the question": think("".join(f"At {t} which colour appears first? " for t in TIMES)),
    "claims copied from the options": think("".join(f"At {t} red, green, blue or yellow appears. " for t in TIMES)),
    "options as events": think(f"{''.join(f'At {t} {OPTIONS} ' for t in TIMES)}"),
    # Every option.
    "every option": think("", "A B C D"),
    "every option by or": think("The answer is A or B or C or D.", "A or B or C or D"),
    "every option in several blocks": think("x.") + "<answer>A</answer><answer>B</answer>",
    "every option by text": think(OPTIONS, "red green blue yellow"),
    "every option but in a sentence": think("", "A, or maybe B, C, or D"),
    # Nothing.
    "empty": "",
    "empty blocks": "<think></think><answer></answer>",
    "empty think": "<think></think><answer>A</answer>",
    "blank think": "<think> \n </think><answer>A</answer>",
    "empty answer": "<think>At 00:02 a red square appears.</think><answer></answer>",
    "nothing but a conclusion": "<think>At 00:02 a red square appears (C).</think><answer>C</answer>",
    "claims as conclusions": think("At 00:02 a red square appears (C). At 00:05 a yellow circle appears (C)."),
    "no conclusion": "<think>At 00:02 a red square appears.</think><answer>C</answer>",
    # Blocks out of place.
    "swapped": "<answer>C</answer><think>At 00:02 a red square appears. The first is blue (C).</think>",
    "think in answer": "<answer><think>At 00:02 a red square appears. The first is blue (C).</think>C</answer>",
    "tags inside tags": f"<think><think>{think('At 00:02 a red square appears.')}</think></answer>",
    "answer inside think": "<think>At 00:02 a red square appears. <answer>A</answer><answer>C</answer></think>",
    "all in the answer": "<think>x</think><answer>At 00:02 a red square appears. C</answer>",
    "tags without end": "<think>" * 300 + "<answer>A</answer>" * 300,
    # Sheer size.
    "100 kB of letters": think("a" * 100_000),
    "100 kB of claims": think("At 00:02 a red square appears. " * 3_300),
    "100 kB of every event": think("".join(f"At {t} {e}. " for t, e in zip(TIMES, EVENTS, strict=True)) * 1_100),
    "100 kB of answers": think("", "A " * 50_000),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_no_attempt_earns_more_than_an_honest_weak_answer(
    name: str, config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    honest = score_response(HONEST_WEAK, toy_target, config, similarity=by_words).reward
    assert honest == pytest.approx(5 / 3)
    attempt = score_response(ATTEMPTS[name], toy_target, config, similarity=by_words).reward
    assert attempt is not None and honest is not None
    assert attempt <= honest


def test_one_safe_claim_is_paid_for_what_it_leaves_out_too(
    reward_config: Callable[..., VideoR2Config], toy_target: Target, by_words: Similarity
) -> None:
    paid = {
        statistic: score_response(
            ATTEMPTS["one safe claim"],
            toy_target,
            reward_config("video_r2", f"reward.temporal_alignment.statistic={statistic}"),
            similarity=by_words,
        )
        .terms["temporal_alignment"]
        .value
        for statistic in ("precision", "recall", "f_beta")
    }
    # The paper pays it in full.
    assert paid == {"precision": 1.0, "recall": pytest.approx(1 / 3), "f_beta": pytest.approx(1 / 2)}


@pytest.mark.slow
def test_no_attempt_earns_more_with_the_sentence_encoder(config: VideoR2Config, toy_target: Target) -> None:
    from videor2_rl.scoring.similarity import SentenceEncoder

    similarity = SentenceEncoder().similarity
    honest = score_response(HONEST_WEAK, toy_target, config, similarity=similarity).reward
    assert honest is not None and honest == pytest.approx(5 / 3)
    rewards = {
        name: score_response(text, toy_target, config, similarity=similarity).reward for name, text in ATTEMPTS.items()
    }
    assert {name: reward for name, reward in rewards.items() if reward is None or reward > honest} == {}


UNITS = [
    *(
        "a",
        " ",
        "\n",
        ".",
        "<",
        "*",
        "-",
        "'",
        "1",
        "1 ",
        "1.",
        "1,",
        "1e1",
        "5-",
        "at ",
        "5 s ",
        "5 m ",
        "00:05",
        "00:05 ",
    ),
    *(
        "(A) ",
        "A ",
        "A. ",
        "red ",
        "so ",
        "so, ",
        "not ",
        "not A. ",
        "and ",
        "is ",
        ". ",
        "!)",
        ", ",
        "<think>",
        "</think>",
    ),
    *("At 00:05 a red square appears. ", "At 00:05 a red square appears, ", "lorem ipsum, ", "for 5 s. ", "second 5 "),
]
TARGETS = {
    "choice": Target("Which? A. red B. green", "A", temporal_grounding={"00:05": "A red square appears."}),
    "number": Target("How many?", "5", problem_type="numerical", temporal_grounding={"00:05": "A red square appears."}),
    "text": Target("What?", "a cat runs", problem_type="free-form"),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("shape", ["<think>{} It is red (A).</think><answer>A</answer>", "<think>x</think><answer>{}"])
def test_the_work_on_a_text_is_bounded(
    unit: str, kind: str, shape: str, config: VideoR2Config, by_words: Similarity
) -> None:
    """As many calls for 100 kB as for nothing, and few enough for as much as a block may hold."""
    calls = {
        size: _calls(shape.format(unit * (size // len(unit))), TARGETS[kind], config, by_words)
        for size in (100_000, MAX_BLOCK_CHARS - 100)
    }
    assert calls[100_000] <= 2_000
    # 10 million calls a second at the very least: 30 ms.
    assert calls[MAX_BLOCK_CHARS - 100] <= 300_000


def test_the_work_on_claims_that_crowd_around_many_references_is_bounded(
    config: VideoR2Config, by_words: Similarity
) -> None:
    """256 claims, no two alike, each in time with every one of 20 references."""
    grounding = {f"00:05.{place:02d}": f"A man number {place} opens the red door." for place in range(20)}
    target = Target("Which? A. red B. green", "A", temporal_grounding=grounding)
    claims = "".join(f"At 00:05 a man of {'i' * place} years opens the door. " for place in range(100, 356))
    calls = _calls(f"<think>{claims[:32_000]} It is red (A).</think><answer>A</answer>", target, config, by_words)
    assert calls <= 300_000


def _calls(response: str, target: Target, config: VideoR2Config, similarity: Similarity) -> int:
    """How many functions, of Python and of C, scoring a response calls."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        score_response(response, target, config, similarity=similarity)
    finally:
        sys.setprofile(None)
    return calls


def test_no_regular_expression_repeats_a_repetition_in_two_ways() -> None:
    """What makes matching exponential: (x+)*. With a separator, (,x+)*, there is one way to match only."""
    modules = [module for name, module in sys.modules.items() if name.startswith("rewards.")]
    patterns = {value.pattern for module in modules for value in vars(module).values() if isinstance(value, re.Pattern)}
    assert len(patterns) > 30
    assert [pattern for pattern in patterns if _is_ambiguous(parse(pattern), outer=None)] == []
    for pattern in (r"(?:\s+)*", r"(?:a+b?)*", r"(?:\w+|-)+x"):
        assert _is_ambiguous(parse(pattern), outer=None)


def _is_ambiguous(tree: Any, *, outer: Any) -> bool:
    """Whether an open repetition stands in an open repetition `outer` that may start with the same characters."""
    for operation, argument in tree:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, body = argument
            is_open = int(most) > 1_000
            if is_open and outer is not None and not _is_separated(outer, body):
                return True
            if _is_ambiguous(body, outer=body if is_open else outer):
                return True
        elif name in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
            if _is_ambiguous(argument[-1], outer=outer):
                return True
        elif name == "BRANCH" and any(_is_ambiguous(branch, outer=outer) for branch in argument[1]):
            return True
    return False


def _is_separated(outer: Any, inner: Any) -> bool:
    firsts = _first_characters(outer)
    return bool(firsts) and all(not _matches(inner, first) for first in firsts)


def _first_characters(tree: Any) -> set[str]:
    """The characters that a tree must start with; empty: not known."""
    name, argument = str(tree[0][0]), tree[0][1]
    if name == "LITERAL":
        return {chr(argument)}
    if name == "IN" and all(str(kind) == "LITERAL" for kind, _ in argument):
        return {chr(value) for _, value in argument}
    if name == "SUBPATTERN":
        return _first_characters(argument[-1])
    if name == "BRANCH":
        branches = [_first_characters(branch) for branch in argument[1]]
        return set().union(*branches) if all(branches) else set()
    return set()


def _matches(inner: Any, character: str) -> bool:
    """Whether a repeated single item may match a character; True where that is not known."""
    name, argument = str(inner[0][0]), inner[0][1]
    items = argument if name == "IN" else [inner[0]]
    tests = {"CATEGORY_SPACE": str.isspace, "CATEGORY_DIGIT": str.isdigit, "CATEGORY_WORD": str.isalnum}
    for kind, value in items:
        if str(kind) == "LITERAL":
            found = chr(value) == character
        elif str(kind) == "CATEGORY" and str(value) in tests:
            found = tests[str(value)](character) or (character == "_" and str(value) == "CATEGORY_WORD")
        else:
            found = True
        if found:
            return True
    return False
