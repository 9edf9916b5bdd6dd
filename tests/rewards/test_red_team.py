"""Attempts to be paid without seeing: none earns more than an honest weak answer, and none costs much time."""

from __future__ import annotations

import time

import pytest

from rewards.compose import score_response
from rewards.types import Similarity, Target, VideoR2Config

# Two events of three right, the third at a wrong time, and an answer that follows but is wrong: 1 + 0 + 2/3.
HONEST_WEAK = (
    "<think>At 00:02 a red square appears. At 00:07 a yellow circle appears. At 00:15 a blue triangle appears. "
    "The first is blue (C).</think>\n<answer>C</answer>"
)
WRONG = "The first is blue (C).</think>\n<answer>C</answer>"

ATTEMPTS = {
    "empty": "",
    "empty blocks": "<think></think><answer></answer>",
    "empty think": "<think></think><answer>A</answer>",
    "every option": f"<think>At 00:01 a {{}} thing. {WRONG}".replace("<answer>C", "<answer>A B C D"),
    "every option in several blocks": f"<think>x. {WRONG}<answer>A</answer><answer>B</answer>",
    "options by or": f"<think>The answer is A or B or C or D.</think><answer>A or B or C or D</answer>",  # noqa: F541
    "range over the whole video": f"<think>From 00:00 to 00:16 a red square appears. {WRONG}",
    "all events over the whole video": "<think>From 00:00 to 00:16 a red square appears, a yellow circle appears and a "
    f"blue triangle appears. {WRONG}",
    "a stamp every second": "<think>" + "".join(f"At 00:{s:02d} a red square appears. " for s in range(60)) + WRONG,
    "every event every second": "<think>"
    + "".join(
        f"At 00:{s:02d} a {colour} {shape} appears. "
        for s in range(16)
        for colour in ("red", "green", "blue", "yellow")
        for shape in ("square", "circle", "triangle")
    )
    + WRONG,
    "every colour and shape in one claim": "<think>At 00:02 a red green blue yellow square circle triangle appears. "
    + WRONG,
    "opposite events": "<think>At 00:02 a red square disappears. At 00:08 a yellow circle disappears. " + WRONG,
    "no event": "<think>At 00:02 no red square appears. At 00:08 no yellow circle appears. " + WRONG,
    "the question's words": f"<think>At 00:02 which colour appears first? {WRONG}",
    "claims as conclusions": "<think>At 00:02 a red square appears (C). At 00:05 a yellow circle appears (C). "
    f"At 00:15 a blue triangle (C). {WRONG}",
    "nothing but a conclusion": f"<think>At 00:02 a red square appears (C).</think><answer>C</answer>",  # noqa: F541
    "swapped": "<answer>C</answer><think>At 00:02 a red square appears. The first is blue (C).</think>",
    "nested": f"<think><think>At 00:02 a red square appears. {WRONG}</think>",
    "all in the answer": "<think>x</think><answer>At 00:02 a red square appears. C</answer>",
    "unreadable conclusion": "<think>At 00:02 a red square appears.</think><answer>C</answer>",
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


def test_one_safe_claim_is_seen_by_recall_and_f1(
    config: VideoR2Config, toy_target: Target, by_words: Similarity
) -> None:
    scored = score_response(f"<think>At 00:02 a red square appears. {WRONG}", toy_target, config, similarity=by_words)
    # Precision, the paper's statistic, cannot see what is left out; `statistic=f1` pays 0.5.
    assert scored.metrics["tar_precision"] == 1.0
    assert scored.metrics["tar_recall"] == pytest.approx(1 / 3)
    assert scored.metrics["tar_f1"] == pytest.approx(1 / 2)


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
def test_no_text_takes_long(unit: str, kind: str, config: VideoR2Config, by_words: Similarity) -> None:
    """100 kB, and as much as a block may hold, within 50 ms."""
    for size in (100_000, 32_000):
        text = unit * (size // len(unit))
        for shape in ("<think>{} It is red (A).</think><answer>A</answer>", "<think>x</think><answer>{}</answer>"):
            # No two alike: readings are cached.
            attempts = (shape.format(f"{text}{i}") for i in range(5))
            assert any(_is_fast(response, TARGETS[kind], config, by_words) for response in attempts)


def _is_fast(response: str, target: Target, config: VideoR2Config, similarity: Similarity) -> bool:
    """Within 50 ms of CPU time, or on a slow or busy machine within the time of a million and a half loop turns."""
    start = time.process_time()
    score_response(response, target, config, similarity=similarity)
    taken = time.process_time() - start
    if taken < 0.05:
        return True
    start = time.process_time()
    for _ in range(1_500_000):
        pass
    return taken < time.process_time() - start
