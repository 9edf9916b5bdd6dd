from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.text.claims import read_claims, tidy

# Labelled by hand: text -> (start, end, claim).
LABELLED: list[tuple[str, list[tuple[float, float, str]]]] = [
    ("At 00:08 a yellow circle appears.", [(8, 8, "A yellow circle appears.")]),
    ("At 01:02:03 he stops.", [(3723, 3723, "He stops.")]),
    ("At 00:05.5 he stops.", [(5.5, 5.5, "He stops.")]),
    ("At 5 s a dog barks.", [(5, 5, "A dog barks.")]),
    ("At 5s, a dog barks.", [(5, 5, "A dog barks.")]),
    ("At around 5.5 seconds, the door opens, revealing a man.", [(5.5, 5.5, "The door opens, revealing a man.")]),
    ("At the 12-second mark, a dog barks.", [(12, 12, "A dog barks.")]),
    ("Around the 00:12 mark a dog barks.", [(12, 12, "A dog barks.")]),
    ("At second 12 a dog barks.", [(12, 12, "A dog barks.")]),
    ("t=5s a dog barks", [(5, 5, "A dog barks.")]),
    ("At 2 min 5 s he runs.", [(125, 125, "He runs.")]),
    ("At 2 minutes and 5 seconds he runs.", [(125, 125, "He runs.")]),
    ("At 3 minutes he runs.", [(180, 180, "He runs.")]),
    ("A red square appears (5 s).", [(5, 5, "A red square appears.")]),
    ("A red square appears at 00:05.", [(5, 5, "A red square appears.")]),
    ("[00:05] A red square appears", [(5, 5, "A red square appears.")]),
    ("00:05 - A red square appears", [(5, 5, "A red square appears.")]),
    ("- **00:05**: A red square appears.", [(5, 5, "A red square appears.")]),
    ("00:05\nA red square appears.", [(5, 5, "A red square appears.")]),
    ("Then, at 00:05, a red square appears.", [(5, 5, "A red square appears.")]),
    ("In the video, at 00:05 a red square appears.", [(5, 5, "A red square appears.")]),
    ("A red square appears, at 00:05, in the corner.", [(5, 5, "A red square appears, in the corner.")]),
    ("A red square appears at 00:05 in the corner.", [(5, 5, "A red square appears in the corner.")]),
    ("From 00:05 to 00:08 the car moves left.", [(5, 8, "The car moves left.")]),
    ("Between 5 and 8 seconds the car stops.", [(5, 8, "The car stops.")]),
    ("Between 00:05 and 00:08 the car stops.", [(5, 8, "The car stops.")]),
    ("00:05-00:08 the car stops.", [(5, 8, "The car stops.")]),
    ("00:05 \u2013 00:08: the car stops.", [(5, 8, "The car stops.")]),
    ("5-8 s: the door opens.", [(5, 8, "The door opens.")]),
    ("From 5 s to 8 s the door opens.", [(5, 8, "The door opens.")]),
    ("From 00:08 to 00:05 the door opens.", [(5, 8, "The door opens.")]),
    ("The light is on from 00:05 until 00:09.", [(5, 9, "The light is on.")]),
    ("A red square appears at 00:05 and 00:08.", [(5, 5, "A red square appears."), (8, 8, "A red square appears.")]),
    ("At 00:05 and 00:08 a red square appears.", [(5, 5, "A red square appears."), (8, 8, "A red square appears.")]),
    ("At 5 and 8 seconds the light blinks.", [(5, 5, "The light blinks."), (8, 8, "The light blinks.")]),
    (
        "A cat jumps at 00:05, 00:08 and 00:11.",
        [(5, 5, "A cat jumps."), (8, 8, "A cat jumps."), (11, 11, "A cat jumps.")],
    ),
    (
        "A red square appears at 00:05, a blue circle at 00:08.",
        [(5, 5, "A red square appears."), (8, 8, "A blue circle.")],
    ),
    ("The man enters at 00:05, then at 00:08 he sits.", [(5, 5, "The man enters."), (8, 8, "He sits.")]),
    (
        "The man enters at 00:05, and at 00:08 he sits down, and at 00:10 he leaves.",
        [(5, 5, "The man enters."), (8, 8, "He sits down."), (10, 10, "He leaves.")],
    ),
    (
        "At 00:05 a red square appears and a blue circle appears at 00:08.",
        [(5, 5, "A red square appears."), (8, 8, "A blue circle appears.")],
    ),
    ("At 00:05 a red square appears; at 00:08 it goes.", [(5, 5, "A red square appears."), (8, 8, "It goes.")]),
    ("[00:05] A red square appears [00:09] It goes", [(5, 5, "A red square appears."), (9, 9, "It goes.")]),
    ("Red square: 00:05, blue circle: 00:08", [(5, 5, "Red square."), (8, 8, "Blue circle.")]),
    ("He waits for 5 seconds.", []),
    ("3 seconds later he goes.", []),
    ("It is a 30-second clip.", []),
    ("The clock shows 10:30 am.", []),
    ("The second 2 men enter.", []),
    ("There are 5 people.", []),
    ("The score is 3:2.", []),
    ("At 00:75 nothing is a time.", []),
    ("00:01 00:02 00:03", []),
    ("Nothing happens.", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), LABELLED)
def test_claims_are_read_as_labelled_by_hand(text: str, expected: list[tuple[float, float, str]]) -> None:
    assert [(claim.start_s, claim.end_s, claim.text) for claim in read_claims(text)] == expected


def test_a_claim_keeps_its_time_as_written() -> None:
    assert [claim.quote for claim in read_claims("(00:05) It falls. From 5 to 8 s it lies.")] == ["00:05", "5 to 8 s"]


def test_times_in_the_concluding_part_are_no_claims() -> None:
    text = "At 00:05 a red square appears. At 00:05 it is red (A)."
    start = text.index("At 00:05 it is")
    assert len(read_claims(text)) == 2
    assert [claim.text for claim in read_claims(text, conclusion=(start, len(text)))] == ["A red square appears."]


def test_only_the_concluding_clause_is_left_out() -> None:
    text = "At 00:05 a red square appears, so at 00:05 it is red (A)."
    claims = read_claims(text, conclusion=(text.index(" so at"), len(text)))
    assert [(claim.start_s, claim.text) for claim in claims] == [(5, "A red square appears.")]


def test_reading_ends_after_a_fixed_number_of_claims() -> None:
    assert len(read_claims("At 00:05 a red square appears. " * 400)) == 256
    assert len(read_claims("At 00:05 a red square appears " * 400)) <= 64


def test_reading_ends_after_a_fixed_number_of_digits() -> None:
    assert len(read_claims("1 " * 4_092 + ". At 00:05 a red square appears.")) == 1
    assert read_claims("1 " * 4_093 + ". At 00:05 a red square appears.") == []


CLAUSES = st.sampled_from(["a red square appears", "the man sits", "two dogs run", "the door opens"])


@given(st.lists(st.tuples(st.integers(0, 5999), CLAUSES), max_size=8))
def test_a_stamped_sentence_each_is_read_back_exactly(events: list[tuple[int, str]]) -> None:
    text = " ".join(f"At {second // 60:02d}:{second % 60:02d} {clause}." for second, clause in events)
    claims = read_claims(text)
    assert [(claim.start_s, claim.text) for claim in claims] == [
        (float(second), f"{clause[0].upper()}{clause[1:]}.") for second, clause in events
    ]


@given(st.integers(0, 5999), st.integers(0, 5999), st.sampled_from(["-", " - ", "\u2013", " to ", " until "]), CLAUSES)
def test_a_range_is_read_in_either_order(first: int, second: int, join: str, clause: str) -> None:
    stamps = [f"{value // 60:02d}:{value % 60:02d}" for value in (first, second)]
    (claim,) = read_claims(f"From {stamps[0]}{join}{stamps[1]} {clause}.")
    assert (claim.start_s, claim.end_s) == (min(first, second), max(first, second))


@given(st.text(max_size=120) | st.text(alphabet="0123456789:.-s at,andto[]()\n", max_size=120))
def test_any_text_is_read_without_error_and_claims_are_clean(text: str) -> None:
    for claim in read_claims(text):
        assert 0 <= claim.start_s <= claim.end_s
        assert claim.text == tidy(claim.text)
        assert claim.quote in text


def test_tidy_brings_equal_sentences_to_one_form() -> None:
    assert tidy(" and then, a red  square appears ,") == tidy("A red square appears.") == "A red square appears."
    assert tidy(" , and ") == ""
    assert len(tidy("x" * 1000)) == 401


@pytest.mark.parametrize("half", ["tuning", "held-out"])
def test_the_parser_agrees_with_texts_labelled_by_hand(
    half: str, read_corpus: Callable[..., list], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in read_corpus("claims") if row.half == half]
    labelled = [[_label(cell) for cell in row.cells[1:]] for row in rows]
    read = [[(claim.start_s, claim.end_s, claim.text) for claim in read_claims(row.cells[0])] for row in rows]
    report = []
    for name, width, bound in (("times", 2, 0.97), ("times and sentences", 3, 0.9)):
        expected = [Counter(claim[:width] for claim in claims) for claims in labelled]
        found = [Counter(claim[:width] for claim in claims) for claims in read]
        right = sum((ours & theirs).total() for ours, theirs in zip(found, expected, strict=True))
        precision = right / sum(claims.total() for claims in found)
        recall = right / sum(claims.total() for claims in expected)
        report.append(f"{name}: precision {precision:.3f}, recall {recall:.3f}")
        assert min(precision, recall) >= bound
    with capsys.disabled():
        print(f"\n{half}: {len(rows)} texts, {sum(map(len, labelled))} claims; {'; '.join(report)}")


def _label(cell: str) -> tuple[float, float, str]:
    time, sentence = cell.split(" ", 1)
    start, _, end = time.partition("-")
    return float(start), float(end or start), sentence


def test_the_corpus_has_at_least_150_texts(read_corpus: Callable[..., list]) -> None:
    assert len(read_corpus("claims")) >= 150


def test_reading_ends_after_4096_digits_also_before_a_conclusion() -> None:
    sentence = "At 00:05 a dog enters, so the answer is B."
    for digits, count in ((4_092, 1), (4_093, 0)):
        filler = f"Look {'7' * digits}.\n"
        start = len(filler) + sentence.index("so")
        conclusion = (start, len(filler) + len(sentence))
        assert (
            len(read_claims(filler + sentence)) == len(read_claims(filler + sentence, conclusion=conclusion)) == count
        )
