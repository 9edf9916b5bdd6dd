"""What of a reply stands outside of its thoughts, and that no reader takes a draft for the verdict."""

from __future__ import annotations

import pytest

from rewards.judge import (
    is_whole_before_cut,
    read_answer_reply,
    read_claims_reply,
    read_consistency_reply,
    read_vas_reply,
)
from rewards.text.thoughts import without_thoughts

TAGS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<THINK>", "</THINK>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<analysis>", "</analysis>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary to=x<|message|>", "<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
]
DRAFT = 'We need a verdict. Perhaps {"consistent": false, "answer": "A", "score": 3, "claims": []}\nTRUE\nscore: 3\n'


@pytest.mark.parametrize(("begin", "end"), TAGS)
def test_a_thought_is_passed_over_and_one_that_was_cut_off_takes_the_rest(begin: str, end: str) -> None:
    assert without_thoughts(f"{begin}{DRAFT}{end}TRUE").strip() == "TRUE"
    assert without_thoughts(f"{DRAFT}{end}TRUE").strip() == "TRUE"
    for cut in (f"{begin}{DRAFT}", f"\n{begin}{DRAFT}\n", f"{begin}{DRAFT}{end}", f"{begin}{DRAFT}{end}\n\n"):
        assert without_thoughts(cut).strip() == ""


@pytest.mark.parametrize(("begin", "end"), TAGS)
@pytest.mark.parametrize("reader", [read_consistency_reply, read_answer_reply, read_vas_reply, read_claims_reply])
def test_no_reader_takes_a_draft_for_the_verdict(reader: object, begin: str, end: str) -> None:
    assert callable(reader)
    assert reader(f"{begin}{DRAFT}") is None
    assert reader(f"{begin}{DRAFT}{end}") is None


@pytest.mark.parametrize(
    ("reply", "visible"),
    [
        ("<think>a</think> draft </think>FALSE", "FALSE"),  # Ended twice.
        ("<think>a</think>Hm.<think>b</think>FALSE", "Hm.\nFALSE"),
        ("<think>\n\n</think>\n\nTRUE", "TRUE"),
        ("FALSE\n<think>afterthought", "FALSE"),
        ('<think><think>a</think>{"score": 3}', '{"score": 3}'),
        # A quoted think block is no end of the thought that quotes it.
        ('<think>It says <think>At 5 s.</think><answer>B</answer>. Maybe {"score": 3}', ""),
        ('<think>It says <think>At 5 s.</think> and {"score": 3}. But</think>{"score": 7}', '{"score": 7}'),
        ("<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>TRUE<|end_of_solution|>", "TRUE"),
    ],
)
def test_thoughts_may_come_often_or_badly_ended(reply: str, visible: str) -> None:
    assert without_thoughts(reply).strip() == visible


@pytest.mark.parametrize(
    "reply",
    [
        '{"reason": "the <think> block ends early", "consistent": true}',
        '{"reason": "nothing after </think>", "consistent": true}',
        "FALSE. The <think> block says A, the answer B.",
        "FALSE\nBoth `<think>` and `</think>` are there.",
        "TRUE. Everything in <think>...</think> agrees.",
        "Analysis: they agree.\nTRUE",
        "I think they agree. TRUE",
        "1 < 2 and [B] TRUE",
        "",
    ],
)
def test_a_tag_that_is_only_spoken_of_is_text(reply: str) -> None:
    assert without_thoughts(reply) == reply


def test_a_claims_list_without_its_end_is_unreadable() -> None:
    whole = '{"claims": [{"time": "00:05", "event": "A dog barks."}, {"time": "00:09", "event": "It stops."}]}'
    assert read_claims_reply(whole) == (("00:05", "A dog barks."), ("00:09", "It stops."))
    assert read_claims_reply(whole[:70]) is None
    assert read_claims_reply(whole[11:70]) is None
    # Only commas are missing between them.
    assert read_claims_reply('[{"time": "00:05", "event": "a"} {"time": "00:09", "event": "b"}]') is not None


@pytest.mark.parametrize(
    ("reply", "is_whole"),
    [
        ('{"score": 3} and then', True),
        ('```json\n{"score": 3}', True),
        ('{"score": 3', False),
        ("Verdict: TRUE\nSince the", True),
        ("TRUE", False),  # Perhaps "TRUE or FALSE".
        ("Okay, TRUE would be\nright if", False),
        ('I would say {"score": 3}', False),
        ('<think>a</think>{"score": 3}', True),
        ('<think>{"score": 3}', False),
        ("", False),
    ],
)
def test_a_cut_reply_counts_where_the_verdict_came_first(reply: str, is_whole: bool) -> None:
    assert is_whole_before_cut(reply) is is_whole


def test_a_long_thought_leaves_the_verdict_behind_it() -> None:
    assert read_consistency_reply("<think>" + "so " * 40_000 + "</think>FALSE") is False
