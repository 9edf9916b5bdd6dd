"""Answers, options, times and texts in Chinese, Japanese and Korean, and other spellings that people report."""

from __future__ import annotations

import pytest

from rewards.terms.accuracy import agreement, read_answer, text_overlap
from rewards.terms.consistency import read_conclusion
from rewards.text.choices import normalise, read_choice
from rewards.text.claims import read_claims
from rewards.text.numerals import is_number, numbers
from rewards.text.parsing import options_in, sentences, words
from rewards.text.times import parse_time_key, times_in, whole_time
from rewards.types import AccuracyConfig

COLOURS = ("red", "green", "blue", "yellow")
ACCURACY = AccuracyConfig(weight=1.0, number_score="tolerance", number_relative_tolerance=0.01, partial_text=True)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("答案是B", "B"),
        ("故选B。", "B"),
        ("选项B", "B"),
        ("B项", "B"),
        ("正确答案：Ｂ", "B"),
        ("答えはBです", "B"),
        ("正解：B。", "B"),
        ("정답은 B입니다", "B"),
        ("B번", "B"),
        ("不是A，而是B", "B"),
        ("A不对，选B", "B"),
        ("AではなくBです", "B"),
        ("A或B", None),
        ("option b", "B"),
        ("Option b is correct", "B"),
        ("the answer is c.", "C"),
        ('{"answer": "d"}', "D"),
        ('{"answer":"d"}', "D"),
        ("(b)", "B"),
        ("It is (b) green", "B"),
        ("b) green", "B"),
        ("b. green", "B"),
        # No letters: the article, a plural, a list that is none.
        ("answer a question", None),
        ("a dog", None),
        ("two dog(s) run", None),
        ("the option", None),
        ("option x", None),
    ],
)
def test_letters_beside_other_scripts_and_small_letters_with_a_mark(answer: str, letter: str | None) -> None:
    assert read_choice(answer, COLOURS) == letter


def test_an_options_own_text_is_found_where_no_spaces_are_set() -> None:
    options = ("红色", "绿色")
    assert read_choice("是绿色的", options) == "B"
    assert read_choice("不是红色，而是绿色", options) == "B"
    think = normalise("第一个是红色方块。因此答案是B。后来又有红色。")
    assert read_conclusion(think, kind="choice", options=()).answer == "B"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("共5个", [5]),
        ("５匹です", [5]),
        ("3万人", [30_000]),
        ("2억", [2e8]),
        ("Answer:42", [42]),
        ("count:5", [5]),
        ("Total: 5", [5]),
        ("10:42", []),
        ("at 1:05", []),
        (r"\frac{1}{2}", [0.5]),
        (r"-\frac{1}{2}", [-0.5]),
        (r"\dfrac34", [0.75]),
        (r"1\frac{1}{2}", [1.5]),
        (r"$\boxed{\frac{3}{4}}$", [0.75]),
        ("1½", [1.5]),
        ("2 1/4", [2.25]),
        ("10^3", [1000]),
        ("10³", [1000]),
        ("10⁻²", [0.01]),
        ("2^{10}", [1024]),
        ("2**5", [32]),
        (r"1.5\times10^3", [1500]),
        (r"\sqrt{9}", [3]),
        (r"\sqrt[3]{8}", [2]),
        ("√16", [4]),
        ("5 m^2", [5]),
        ("9.8 m/s²", [9.8]),
        (r"5\text{ kg}", [5]),
        (r"\$5", [5]),
        (r"3\,000", [3000]),
        (r"90^\circ", [90]),
        # Not understood, so nothing rather than something else.
        ("9^9^9^9", []),
        ("10^400", []),
        (r"2\pi", []),
        (r"\frac{\pi}{2}", []),
    ],
)
def test_numbers_in_other_spellings(text: str, found: list[float]) -> None:
    assert numbers(text) == pytest.approx(found)


@pytest.mark.parametrize("text", ["10³", r"\frac{1}{2}", "1/2", "50%", "1 1/2", "-3"])
def test_a_solution_that_is_a_number_in_any_spelling_is_one(text: str) -> None:
    assert is_number(text)
    assert not is_number(f"{text} dogs")


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("0:05", "00:05", 1.0),
        ("5 s", "00:05", 1.0),
        ("5", "00:05", 1.0),
        ("At 00:05.", "00:05", 1.0),
        ("the dog barks at 5 seconds", "00:05", 1.0),
        ("在第5秒", "00:05", 1.0),
        ("0:05 - 0:10", "00:05-00:10", 1.0),
        ("from 5 s to 10 s", "00:05-00:10", 1.0),
        ("1 min 5 s", "01:05", 1.0),
        ("0:06", "00:05", 0.0),
        ("0:05", "00:05-00:10", 0.0),
        ("00:05 or 00:09", "00:05", 0.0),
        ("five", "00:05", 0.0),
    ],
)
def test_a_solution_that_is_a_time_compares_as_one(answer: str, reference: str, score: float) -> None:
    assert agreement(read_answer(answer, "text", ()), reference, config=ACCURACY) == score


def test_what_only_looks_like_a_time_stays_a_text() -> None:
    # Scores, ratios and plain numbers.
    assert [whole_time(text) for text in ("2:1", "16:9", "5", "red at 00:05", "30 fps")] == [None] * 5
    assert agreement("2:1", "2:1", config=ACCURACY) == 1.0
    assert agreement("1:2", "2:1", config=ACCURACY) < 1.0


@pytest.mark.parametrize(
    ("key", "interval"),
    [
        ("[5.0, 10.0]", (5, 10)),
        ("(5; 10)", (5, 10)),
        ("[00:05, 00:10]", (5, 10)),
        ("1m05s", (65, 65)),
        ("0h01m05s", (65, 65)),
        ("1 min 5 s", (65, 65)),
        ("00:00:05,500", (5.5, 5.5)),
        ("00:00:05,500 --> 00:00:07,250", (5.5, 7.25)),
        ("00:05 → 00:10", (5, 10)),
        ("00:05 -> 00:10", (5, 10)),
        ("~00:05", (5, 5)),
        ("around 5 s", (5, 5)),
        ("between 5 and 10 s", (5, 10)),
        ("5秒", (5, 5)),
        ("第5秒", (5, 5)),
        ("1分05秒", (65, 65)),
        ("00:05到00:10", (5, 10)),
        ("5秒から10秒まで", (5, 10)),
        ("5초", (5, 5)),
        ("００：０５", (5, 5)),
        ("00:05 and 00:10", None),
        ("00:05,5", None),
        ("00:05 -", None),
        ("1:2:3:4", None),
        ("", None),
        ("the start", None),
    ],
)
def test_time_keys_in_other_forms(key: str, interval: tuple[float, float] | None) -> None:
    assert parse_time_key(key) == interval


def test_times_in_an_answer_come_in_order() -> None:
    assert times_in("first 00:05, then from 7 s to 9 s") == [(5, 5), (7, 9)]


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("哪个？\nA、红色\nB、绿色", ("红色", "绿色")),
        ("哪个？A．红色 B．绿色", ("红色", "绿色")),
        ("（A）红色（B）绿色", ("红色", "绿色")),
        ("颜色A、红B、绿C、蓝", ("红", "绿", "蓝")),
        ("Which?\n(a) red\n(b) green", ("red", "green")),
        ("Which?\na) red\nb) green", ("red", "green")),
        ("Which?\n[A] red\n[B] green", ("red", "green")),
        ("Which? A - red B - green", ("red", "green")),
        ("Is Mr. A. Smith here?", ()),
        ("A man (a) walks and (c) runs", ()),
        ("Which of vitamins A-B is it?", ()),
    ],
)
def test_option_lists_in_other_forms(question: str, options: tuple[str, ...]) -> None:
    assert options_in(question) == options


def test_texts_without_spaces_earn_their_overlap() -> None:
    assert words("一只红色的狗 runs") == ["一", "只", "红", "色", "的", "狗", "runs"]
    assert words("빨간 개가 짖는다") == ["빨간", "개가", "짖는다"]
    assert text_overlap("一只红色的狗", "红色的狗") > text_overlap("一只蓝色的猫", "红色的狗") > 0
    assert text_overlap("红色的狗", "红色的狗") == 1.0


def test_sentences_end_at_full_stops_of_other_scripts() -> None:
    text = "在第5秒，一只狗叫了。所以是B！对吗？So A."
    assert [span.text for span in sentences(text)] == ["在第5秒，一只狗叫了。", "所以是B！", "对吗？", "So A."]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("在第5秒，一只狗叫了。", [(5, 5, "一只狗叫了.")]),
        ("5秒时一只狗叫了。", [(5, 5, "一只狗叫了.")]),
        ("从00:05到00:10，一只狗叫了。", [(5, 10, "一只狗叫了.")]),
        ("在5秒到10秒之间，狗在跑。", [(5, 10, "狗在跑.")]),
        ("1分05秒，门打开了。", [(65, 65, "门打开了.")]),
        ("5秒目に犬が吠える。", [(5, 5, "犬が吠える.")]),
        ("5秒から10秒まで犬が走る。", [(5, 10, "犬が走る.")]),
        ("5초에 개가 짖는다.", [(5, 5, "개가 짖는다.")]),
        ("狗叫了，在00:05。", [(5, 5, "狗叫了.")]),
        # How long, how many, what a clock in the scene shows.
        ("视频长度为30秒。", []),
        ("狗跑了，持续5秒。", []),
        ("犬が5秒間走る。", []),
        ("개가 5초 동안 뛴다.", []),
        ("墙上的时钟显示10:15。", []),
        ("共5个人。", []),
    ],
)
def test_claims_in_other_scripts(text: str, claims: list[tuple[float, float, str]]) -> None:
    assert [(claim.start_s, claim.end_s, claim.text) for claim in read_claims(normalise(text))] == claims


@pytest.mark.parametrize(
    "sentence",
    [
        "The clock on the wall reads 10:15.",
        "A digital clock showing 09:41 is on the desk.",
        "The scoreboard shows 21:15.",
        "The countdown timer reads 01:30.",
        "The time on the phone is 09:41.",
        "His watch says 12:30.",
        "The microwave displays 2:30.",
        "The license plate reads AB 12:34.",
        "10:15 is shown on the scoreboard.",
        "The video lasts 0:30.",
        "The total length of the video is 00:45.",
        "The clip is about 00:45 long.",
        "It is a 0:30 clip.",
        "A man runs at 10 m/s.",
        "A man in his 30s walks by.",
        "He drives at 5 m per second.",
    ],
)
def test_times_that_date_no_event_are_no_claims(sentence: str) -> None:
    assert read_claims(sentence) == []


@pytest.mark.parametrize(
    ("sentence", "claim"),
    [
        ("He holds a phone at 00:08.", (8, 8, "He holds a phone.")),
        ("She looks at the clock at 00:12.", (12, 12, "She looks at the clock.")),
        ("The countdown starts at 00:05.", (5, 5, "The countdown starts.")),
        ("The phone shows a cat at 00:05.", (5, 5, "The phone shows a cat.")),
        ("At 00:05 the clock shows 10:15.", (5, 5, "The clock shows 10:15.")),
        ("10:15 is shown on the scoreboard at 00:07.", (7, 7, "10:15 is shown on the scoreboard.")),
        ("The timer at the top left reads 00:05 as he jumps.", (5, 5, "The timer at the top left reads as he jumps.")),
        ("From 00:05 up to 00:10 a dog barks.", (5, 10, "A dog barks.")),
        ("Between 00:05 & 00:10 a dog barks.", (5, 10, "A dog barks.")),
        ("From 00:05 → 00:10 a dog barks.", (5, 10, "A dog barks.")),
        ("From the 5th to the 10th second a dog barks.", (5, 10, "A dog barks.")),
        ("Starting at 00:05 and ending at 00:10, a dog barks.", (5, 10, "A dog barks.")),
        ("At 00:00:05,500 a dog barks.", (5.5, 5.5, "A dog barks.")),
        ("At 1:05, 200 people run.", (65, 65, "200 people run.")),
        ("At 0h01m05s a dog barks.", (65, 65, "A dog barks.")),
        ("At 30s he runs.", (30, 30, "He runs.")),
    ],
)
def test_events_beside_clocks_and_ranges_in_words_are_claims(sentence: str, claim: tuple[float, float, str]) -> None:
    assert [(found.start_s, found.end_s, found.text) for found in read_claims(sentence)] == [claim]
