"""What a group's page says, against the log and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from viewed_runs import byte_tokenizer, make_record, with_failure

from videor2_rl.report.claims import note_of, shift_s
from videor2_rl.report.data import read_settings
from videor2_rl.view.group import shown_group, weight_of
from videor2_rl.view.tokens import pieces

EVENTS = [
    {"start_s": 5.0, "end_s": 5.0, "text": "A red square appears."},
    {"start_s": 9.0, "end_s": 11.0, "text": "A blue circle appears."},
]


def claim(time_s: float, text: str, outcome: str = "time") -> dict[str, Any]:
    return {"start_s": time_s, "end_s": time_s, "text": text, "outcome": outcome, "reference": None}


@pytest.mark.parametrize(
    ("time_s", "text", "note"),
    [
        (7.0, "A red square appears.", "2 s late"),
        (3.5, "A red square appears.", "1.5 s early"),
        (12.0, "A blue circle appears.", "1 s late"),
        (1.0, "A dog barks.", "no event at this time"),
    ],
)
def test_a_claim_says_how_far_it_is_from_the_event_it_tells_of(time_s: float, text: str, note: str) -> None:
    assert note_of(claim(time_s, text), EVENTS) == note


def test_a_claim_within_its_event_is_not_late() -> None:
    assert shift_s(claim(10.0, "A blue circle appears."), EVENTS) == 0
    assert note_of(claim(10.0, "A blue circle appears.", "taken"), EVENTS) == "event already claimed"


def test_what_the_terms_paid_adds_up_to_the_reward(viewed: Path) -> None:
    config = viewed / "config.yaml"
    settings = read_settings(config.read_text(), config)
    for seed in range(12):
        shown = shown_group(make_record(seed, seed=seed, video="a.mp4"), settings, step=3, tokenizer=None)
        for response in shown["responses"]:
            paid = sum(term["paid"] or 0 for term in response["terms"])
            assert paid == pytest.approx(response["reward"])
            assert all(term["why"] for term in response["terms"])
        found = [sum(any(c["reference"] == k for c in r["claims"]) for r in shown["responses"]) for k in range(3)]
        assert shown["found_by"] == found


def test_a_failure_says_why_and_pays_nothing(viewed: Path) -> None:
    settings = read_settings((viewed / "config.yaml").read_text(), viewed / "config.yaml")
    record = with_failure(make_record(1, seed=1, video="a.mp4"), 2)
    response = shown_group(record, settings, step=1, tokenizer=None)["responses"][2]
    [term] = [term for term in response["terms"] if term["verdict"] == "failure"]
    assert (response["reward"], term["paid"], term["why"]) == (None, None, "failed: judge is down")


def test_weights_are_the_configuration_s() -> None:
    settings = {
        "reward": {"accuracy": {"weight": 2}, "consistency": {"reader": "rules"}, "extra": {"mine": {"weight": -1}}}
    }
    assert weight_of("accuracy", settings) == 2
    assert weight_of("consistency", settings) == 0
    assert weight_of("mine", settings) == -1
    assert weight_of("mine", {}) is None


def test_each_token_has_its_surprise_its_gap_and_its_entropy() -> None:
    tokenizer = byte_tokenizer()
    record = make_record(1, seed=1, size=2, video="a.mp4")
    record["responses"][0] |= {
        "text": "ab",
        "token_ids": tokenizer.encode("ab").ids,
        "log_probs": [-0.5, None],
        "learner_log_probs": [-0.25, -1.0],
        "entropy": [0.75, None],
    }
    trained, other = shown_group(record, {}, step=1, tokenizer=tokenizer)["responses"]
    assert trained["tokens"] == [["a", -0.5, 0.25, 0.75], ["b", None, None, None]]
    assert {tuple(values) for _, _, *values in other["tokens"]} == {(None, None)}


def test_tokens_come_back_as_the_text_they_are_of() -> None:
    tokenizer = byte_tokenizer()
    text = "At 00:05 ein Mädchen läuft, \U0001f600 and 猫\n"
    ids = tokenizer.encode(text).ids
    found = pieces(tokenizer, ids)
    assert "".join(found) == text and len(found) == len(ids)
    assert pieces(tokenizer, [10**6]) == ["\ufffd"]
