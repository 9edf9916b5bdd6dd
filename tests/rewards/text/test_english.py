"""The inflections of a word have one stem, and different words have different ones."""

from __future__ import annotations

import pytest

from rewards.text.english import stem, tokens


@pytest.mark.parametrize(
    "forms",
    [
        "run runs ran running",
        "write writes wrote written writing",
        "chase chases chased chasing",
        "carry carries",
        "stop stops stopped stopping",
        "watch watches watched watching",
        "box boxes",
        "kiss kisses kissed kissing",
        "man men",
        "child children",
    ],
)
def test_the_inflections_of_a_word_have_one_stem(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


@pytest.mark.parametrize(
    ("word", "other"),
    [("bus", "bu"), ("glass", "glas"), ("left", "leave"), ("ring", "r"), ("bed", "b"), ("tie", "ty"), ("see", "se")],
)
def test_what_only_looks_like_an_inflection_is_a_word_of_its_own(word: str, other: str) -> None:
    assert stem(word) != stem(other)


def test_words_are_divided_at_hyphens_and_commas_are_kept() -> None:
    assert tokens("A Red-haired man, 2 dogs.") == ["a", "red", "haired", "man", ",", "2", "dogs"]
