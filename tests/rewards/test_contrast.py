from __future__ import annotations

import pytest

from rewards.contrast import contrast_members, contrasts

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
    assert contrasts("A red square appears beside a blue circle.", "A red square appears.") == ("colour", "shape")


def test_members_go_by_set() -> None:
    assert contrast_members("Two red squares don't appear.") == {
        "polarity": {"denied"},
        "count": {"2"},
        "colour": {"red"},
        "shape": {"square"},
        "visibility": {"appear"},
    }
