from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.terms.format import format_verdict
from rewards.text.parsing import MAX_BLOCK_CHARS, options_in, read_blocks, sentences, solution_text, words

GOOD = "<think>It is red.</think>\n<answer>A</answer>"


@pytest.mark.parametrize(
    "response", [GOOD, GOOD + "\n", "\n " + GOOD, GOOD.replace("\n", ""), GOOD.replace("\n", "\n\n")]
)
def test_a_think_block_and_an_answer_block_with_any_white_space_around_are_well_formed(response: str) -> None:
    assert read_blocks(response, answer_block="last").format_fault is None
    assert format_verdict(read_blocks(response, answer_block="last")).value == 1.0


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        ("", "tags"),
        ("A", "tags"),
        ("<answer>A</answer>", "tags"),
        ("<think>x</think>", "tags"),
        ("<answer>A</answer><think>x</think>", "tags"),
        ("<think>x</think><answer>A</answer><answer>B</answer>", "tags"),
        ("<think><think>x</think></think><answer>A</answer>", "tags"),
        ("<think>x</think><answer><answer>A</answer></answer>", "tags"),
        ("<think>x<answer>A</answer></think>", "tags"),
        ("<think>x</think><answer>A", "tags"),
        ("<THINK>x</THINK><answer>A</answer>", "tags"),
        ("Well. " + GOOD, "outside"),
        (GOOD + " Done.", "outside"),
        ("<think>x</think> so <answer>A</answer>", "between"),
        ("<think> \n</think><answer>A</answer>", "empty think"),
        ("<think>x</think><answer> </answer>", "empty answer"),
        (f"<think>{'x' * (MAX_BLOCK_CHARS + 1)}</think><answer>A</answer>", "longer"),
    ],
)
def test_anything_else_is_a_format_fault(response: str, fault: str) -> None:
    blocks = read_blocks(response, answer_block="last")
    assert blocks.format_fault is not None
    assert fault in blocks.format_fault
    assert format_verdict(blocks).value == 0.0


def test_the_configured_answer_block_counts() -> None:
    response = "<think>x</think><answer> A </answer><answer>B</answer>"
    assert read_blocks(response, answer_block="last").answer == "B"
    assert read_blocks(response, answer_block="first").answer == "A"


def test_of_nested_tags_the_innermost_pair_is_read() -> None:
    blocks = read_blocks("<think>a<think>b</think>c</think><answer>A<answer>B</answer></answer>", answer_block="last")
    assert (blocks.think, blocks.answer) == ("b", "B")


def test_a_think_block_behind_the_answer_is_not_read() -> None:
    assert read_blocks("<answer>A</answer><think>At 00:05 x.</think>", answer_block="last").think is None


def test_a_think_block_without_an_answer_is_read() -> None:
    assert read_blocks("<think>At 00:05 x.</think> cut he", answer_block="last").think == "At 00:05 x."


def test_blocks_beyond_the_limit_are_unreadable() -> None:
    long = "x" * (MAX_BLOCK_CHARS + 1)
    blocks = read_blocks(f"<think>{long}</think><answer>{long}</answer>", answer_block="last")
    assert (blocks.think, blocks.answer) == (None, None)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", " "]), max_size=12))
def test_well_formed_means_exactly_the_four_tags_in_order_with_text_inside_only(parts: list[str]) -> None:
    text = "".join(parts)
    compact = text.replace(" ", "")
    inside = compact.removeprefix("<think>").removesuffix("</answer>").split("</think><answer>")
    expected = (
        compact.startswith("<think>")
        and compact.endswith("</answer>")
        and len(inside) == 2
        and all(part and not part.replace("x", "") for part in inside)
    )
    assert (read_blocks(text, answer_block="last").format_fault is None) == expected


def test_a_solution_is_read_tagged_or_bare() -> None:
    assert solution_text("<think>so</think><answer> B </answer>") == "B"
    assert solution_text(" B ") == "B"
    for empty in ("", "  ", "<answer> </answer>"):
        with pytest.raises(ValueError, match="holds no answer"):
            solution_text(empty)


def test_sentences_end_at_punctuation_but_not_inside_numbers_times_or_abbreviations() -> None:
    text = "At 5.2 s it falls. At approx. 00:05.5 it rises! Why?\nNo end; \n\nlast"
    assert [span.text for span in sentences(text)] == [
        "At 5.2 s it falls.",
        "At approx. 00:05.5 it rises!",
        "Why?",
        "No end;",
        "last",
    ]


@given(st.text(alphabet="ab .!?;\n5:", max_size=60))
def test_sentences_cover_every_word_in_order_at_their_stated_places(text: str) -> None:
    spans = sentences(text)
    assert all(text[span.start : span.end] == span.text and span.text.strip() == span.text for span in spans)
    assert "".join("".join(span.text for span in spans).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which? A. red B. green C. blue D. yellow", ("red", "green", "blue", "yellow")),
        ("Which?\nOptions:\nA. a red car\nB. a cat, black\nAnswer with the letter.", ("a red car", "a cat, black")),
        ("Which? (A) red; (B) green", ("red", "green")),
        ("Which? A) 3\nB) 4\nC) 5", ("3", "4", "5")),
        ("Is A. Smith here? A: yes B: no", ("yes", "no")),
        ("What does vitamin A. do?", ()),
        ("How many?", ()),
        ("Which? B. red C. green", ()),
    ],
)
def test_options_are_read_from_the_question(question: str, options: tuple[str, ...]) -> None:
    assert options_in(question) == options


def test_words_ignore_case_width_punctuation_and_articles() -> None:
    assert words("The  RED, square!") == words("a \uff52\uff45\uff44 square") == ["red", "square"]
