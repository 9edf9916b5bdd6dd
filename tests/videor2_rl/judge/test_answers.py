"""What stands in the body of a server's answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from videor2_rl.judge.answers import Completion, NoCompletion, first_line, names_field, read_completion, words_of


def completion(content: Any, **message: Any) -> str:
    return json.dumps({"choices": [{"message": {"content": content, **message}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("TRUE", "TRUE"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "TR"}, {"text": "U"}, "E"], "TRUE"),
        ({"type": "text", "text": "TRUE"}, "TRUE"),
        ([{"type": "reasoning", "text": "FALSE"}, {"type": "output_text", "text": "TRUE"}], "TRUE"),
        ([{"type": "image_url", "image_url": {}}], ""),
    ],
)
def test_the_text_of_a_message_is_read_whole_or_in_parts(content: Any, text: str) -> None:
    assert read_completion(completion(content, reasoning="FALSE")) == Completion(text, "stop", None)


def test_an_error_that_is_null_is_none() -> None:
    assert read_completion('{"error": null, "choices": [{"message": {"content": "A"}}]}') == Completion("A", None, None)


@pytest.mark.parametrize(
    ("body", "reason", "code"),
    [
        ("", "the reply is no JSON", None),
        ("{}", "the reply is no chat completion", None),
        ("[]", "the reply is no chat completion", None),
        ('{"choices": [{"message": {"content": 5}}]}', "the reply is no chat completion", None),
        (
            '{"choices": [], "error": {"message": "down", "code": "429"}}',
            "an error in place of a reply: down (code 429)",
            429,
        ),
        ('{"status": 422, "detail": "bad"}', "an error in place of a reply: bad (code 422)", 422),
        ('{"error": {"message": "no", "code": "invalid_key"}}', "an error in place of a reply: no", None),
    ],
)
def test_a_body_that_is_no_completion_says_what_it_is(body: str, reason: str, code: int | None) -> None:
    with pytest.raises(NoCompletion) as error:
        read_completion(body)
    assert (str(error.value), error.value.code) == (reason, code)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "a", "type": "t"}}', "a"),
        ('{"error": "a"}', "a"),
        ('{"message": "a", "object": "error"}', "a"),
        ('{"detail": [{"loc": ["body", "seed"], "msg": "not permitted", "type": "x"}]}', "body.seed: not permitted"),
        ('{"error": {"message": "Bad value", "param": "seed"}}', "seed: Bad value"),
        ('{"error": {"message": "Bad seed", "param": "seed"}}', "Bad seed"),
        ('{"errors": [{"message": "a"}, {"message": "b"}]}', "a; b"),
        ('[{"error": {"message": "a", "status": "INVALID"}}]', "a"),
        ('{"id": 5}', ""),
        (
            "<!DOCTYPE html><html><head><title>T</title><style>p{}</style></head><body><p>Bad &amp; worse</p></body>",
            "Bad & worse",
        ),
        ("<html><head><title>504 Time-out</title></head><body></body></html>", "504 Time-out"),
        ("  plain \n", "plain"),
        ("2 < 3", "2 < 3"),
    ],
)
def test_an_error_of_any_usual_form_is_put_into_words(body: str, words: str) -> None:
    assert words_of(body) == words


def test_a_field_is_named_as_a_word_of_its_own() -> None:
    assert names_field("Unsupported parameter: 'max_tokens'.", "max_tokens")
    assert not names_field("max_tokens_total is wrong", "max_tokens")
    assert not names_field("the model was seeded", "seed")


def test_a_sentence_takes_one_line_of_a_long_text() -> None:
    assert first_line("a\n b" + "x" * 1000) == "a b" + "x" * 197
    assert first_line(ValueError()) == "ValueError"
