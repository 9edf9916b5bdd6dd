from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.match.contrast import contrasts, read_sentence
from rewards.match.roles import compare_roles
from rewards.types import VideoR2Config

OPPOSITES = [
    ("A red square appears.", "A blue square appears."),
    ("A red square appears.", "A red circle appears."),
    ("A red square appears.", "A red square disappears."),
    ("A red square appears.", "A red square vanishes."),
    ("A red square appears.", "A red square is no longer visible."),
    ("The car turns left.", "The car turns right."),
    ("The balloon rises.", "The balloon is falling."),
    ("A man opens the door.", "A man closes the door."),
    ("A man opens the door.", "A man shut the door."),
    ("A man enters the room.", "A man leaves the room."),
    ("A man enters the room.", "A woman enters the room."),
    ("The music starts.", "The music stopped."),
    ("He turns on the lamp.", "He turns off the lamp."),
    ("He picks up the cup.", "He drops the cup."),
    ("She pushes the cart.", "She pulls the cart."),
    ("She puts on a coat.", "She takes off a coat."),
    ("The dog sits.", "The dog stands."),
    ("The circle grows.", "The circle shrinks."),
    ("The train accelerates.", "The train slows down."),
    ("The speed increases.", "The speed decreases."),
    ("Two dogs run.", "Three dogs run."),
    ("2 dogs run.", "three dogs run."),
    ("One dog runs.", "Two dogs run."),
    ("It is day.", "It is night."),
    ("He fills the glass.", "He empties the glass."),
    ("She wins the game.", "She loses the game."),
    ("The wheel turns clockwise.", "The wheel turns counter-clockwise."),
    ("The cup is on the table.", "The cup is not on the table."),
    ("The man speaks.", "The man doesn't speak."),
    ("A text appears at the top.", "A text appears at the bottom."),
    ("A red or blue square appears.", "A red square appears."),
]
PARAPHRASES = [
    ("A red square appears.", "A red square emerges."),
    ("A crimson square shows up.", "A red square appears."),
    ("A ball appears.", "A circle appears."),
    ("The square appears.", "A red square appears."),
    ("A red square appears in the corner.", "A red square appears."),
    ("The car turns left at the crossing.", "The car makes a left turn."),
    ("The man close to the door speaks.", "The man speaks by the open door."),
    ("The man appears right after the dog.", "The man appears left of the dog."),
    ("Three dogs run.", "3 dogs run."),
    ("One of the dogs runs.", "Two dogs run."),
    ("The last one falls.", "Two of them fall."),
    ("He begins to sing.", "He started to sing."),
    ("A square is no longer visible.", "A square disappears."),
    ("Somebody walks.", "A person walks."),
    ("", "A red square appears."),
]


@pytest.mark.parametrize(("claim", "reference"), OPPOSITES)
def test_opposites_are_set_apart(claim: str, reference: str) -> None:
    assert contrasts(claim, reference)


@pytest.mark.parametrize(("claim", "reference"), PARAPHRASES)
def test_paraphrases_are_not_set_apart(claim: str, reference: str) -> None:
    assert contrasts(claim, reference) == ()


def test_the_claim_may_say_less_than_the_reference_but_no_other_member() -> None:
    assert contrasts("A square appears.", "A red square appears beside a blue circle.") == ()
    assert contrasts("A red square appears.", "A red square appears beside a blue circle.") == ()
    assert contrasts("A red square appears beside a blue circle.", "A red square appears.") == ("shape",)


def test_of_things_the_claim_may_name_one_more_but_no_list() -> None:
    assert contrasts("A dog runs past a cat.", "A dog runs.") == ()
    assert contrasts("A dog, a cat and a horse run.", "A dog runs.") == ("animal",)
    assert contrasts("A cat runs.", "A dog runs.") == ("animal",)


def test_a_detail_belongs_to_its_noun() -> None:
    assert contrasts("A man in a red shirt leaves a white car.", "A man in a red shirt leaves a car.") == ()
    assert contrasts("A red square and a blue circle.", "A blue square and a red circle.")[0] == "colour"
    assert contrasts("Two dogs and three cats play.", "Three dogs and two cats play.")[0] == "count"
    assert contrasts("The light turns red.", "A green light.") == ("colour",)
    assert contrasts("A blue car stops.", "A red vehicle stops.") == ("colour",)


def test_what_a_sentence_says() -> None:
    reading = read_sentence("Two red squares don't appear, they fall into the box.")
    assert reading.members == {"shape": {"square"}, "visibility": {"appear"}, "vertical": {"down"}}
    assert reading.details["colour"]["squar"] == {"red"}
    assert reading.details["count"]["squar"] == {"2"}
    assert reading.directions == {"box": {"to"}}
    assert (reading.negations, reading.absences) == (1, 0)


@pytest.mark.parametrize(
    ("first", "second", "swapped", "agreeing"),
    [
        ("A van overtakes a car.", "A car overtakes a van.", True, set()),
        ("A van overtakes a car.", "A car is overtaken by a van.", False, set()),
        ("A van overtakes a car.", "A van is overtaken by a car.", True, set()),
        ("The cup is left of the plate.", "The plate is right of the cup.", False, {"side"}),
        ("The cup is left of the plate.", "The plate is left of the cup.", True, set()),
        ("The lamp is above the desk.", "The desk is below the lamp.", False, {"height"}),
        ("On the table sits a cup.", "A cup sits on the table.", False, set()),
        ("A boy meets a girl.", "A girl meets a boy.", False, set()),
        ("A boy stands beside a girl.", "A girl stands beside a boy.", False, set()),
        ("A dog barks.", "A cat meows.", False, set()),
        ("", "", False, set()),
    ],
)
def test_who_does_what_to_whom(first: str, second: str, swapped: bool, agreeing: set[str]) -> None:
    roles = compare_roles(first, second)
    assert (roles.swapped, roles.agreeing) == (swapped, agreeing)


WORDS = "a the red blue car van dog man two not overtakes appears left of by is , on sits"
SENTENCES = st.lists(st.sampled_from(WORDS.split()), max_size=9).map(" ".join)


@given(SENTENCES)
def test_no_sentence_contrasts_with_itself(sentence: str) -> None:
    assert contrasts(sentence, sentence) == ()


@given(SENTENCES | st.text(max_size=60), SENTENCES | st.text(max_size=60))
def test_changed_places_are_seen_from_both_sides(first: str, second: str) -> None:
    assert compare_roles(first, second) == compare_roles(second, first)


CORPORA = [(half, name) for half in ("tuning", "held-out") for name in ("contrasts", "paraphrases")]


@pytest.mark.parametrize(("half", "name"), CORPORA)
def test_the_guard_errs_on_few_pairs_of_the_corpora(
    half: str, name: str, read_corpus: Callable[..., list], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [row.cells for row in read_corpus(name) if row.half == half]
    errors = [pair for pair in pairs if bool(contrasts(*pair)) != (name == "contrasts")]
    with capsys.disabled():
        print(f"\n{half} {name}: the guard errs on {len(errors)} of {len(pairs)}: {errors}")
    assert len(pairs) >= 60
    assert len(errors) / len(pairs) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("half", "name"), CORPORA)
def test_the_guard_repairs_what_the_encoder_does_not_see(
    half: str, name: str, read_corpus: Callable[..., list], config: VideoR2Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which pairs would match at the default threshold: by the encoder alone, and with the guard."""
    from videor2_rl.scoring.similarity import SentenceEncoder

    pairs = [row.cells for row in read_corpus(name) if row.half == half]
    encoder = SentenceEncoder()
    encoder.encode([sentence for pair in pairs for sentence in pair])
    similar = [
        encoder.similarity([claim], [reference]).item() >= config.temporal_alignment.similarity_threshold
        for claim, reference in pairs
    ]
    both = [match and not contrasts(*pair) for match, pair in zip(similar, pairs, strict=True)]
    with capsys.disabled():
        print(f"\n{half} {name}: {sum(similar)} of {len(pairs)} match by the encoder alone, {sum(both)} with the guard")
    if name == "contrasts":
        assert sum(both) / len(pairs) <= 0.05 < sum(similar) / len(pairs)
    else:
        assert sum(similar) - sum(both) <= 0.05 * len(pairs)
