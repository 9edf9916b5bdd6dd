"""What the client asks for and takes for a reply: schemas, parameters, servers' words, thoughts beside an answer."""

from dataclasses import replace
from typing import Any

import pytest
from asked import AGREE, Start, prompts, thought
from fault_server import Act, raw, reply, status

from rewards.judge import claims_prompt, consistency_prompt
from videor2_rl.config.errors import ConfigError

pytestmark = pytest.mark.usefixtures("short_waits")


def test_structured_replies_are_asked_for_with_the_prompts_schema(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE), structured=True)
    asked.ask()
    form = asked.server.requests[0]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"] == prompts(1)[0].schema


def test_a_server_without_structured_replies_is_asked_for_free_text(start: Start) -> None:
    asked = start(
        lambda _, body: status(400, message="no response_format") if "response_format" in body else reply(AGREE),
        structured=True,
        concurrency=1,
    )
    assert asked.ask(3) == [(AGREE, None)] * 3
    assert ["response_format" in body for body in asked.server.requests] == [True, False, False, False]
    assert len(asked.notices) == 1 and "response_format" in asked.notices[0]


def test_a_prompt_refused_for_itself_does_not_end_structured_replies(start: Start) -> None:
    asked = start(lambda _, body: status(400) if thought(body) == 0 else reply(AGREE), structured=True, concurrency=1)
    assert asked.ask(2) == [(None, "status 400: scripted"), (AGREE, None)]
    assert "response_format" in asked.server.requests[-1]


def test_a_prompt_without_a_schema_that_is_refused_is_not_sent_again_as_free_text(start: Start) -> None:
    asked = start(lambda *_: status(400), structured=True)
    (answer,) = asked.client.ask([replace(prompts(1)[0], schema=None)])
    assert answer.failure == "status 400: scripted"
    assert len(asked.server.requests) == 1


def test_the_schema_is_binding(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE), structured=True)
    asked.ask()
    form = asked.server.requests[0]["response_format"]["json_schema"]
    assert (form["name"], form["strict"]) == ("consistency", True)


@pytest.mark.parametrize("code", [400, 404, 422, 500, 501])
def test_a_server_that_fails_a_schema_gets_the_request_without_and_from_then_on_only_that(
    start: Start, code: int
) -> None:
    asked = start(
        lambda _, body: status(code) if "response_format" in body else reply(AGREE), structured=True, concurrency=1
    )
    assert asked.ask(3) == [(AGREE, None)] * 3
    assert ["response_format" in body for body in asked.server.requests] == [True, False, False, False]
    assert len(asked.notices) == 1 and "response_format" in asked.notices[0]


def test_each_purpose_has_a_schema_of_its_own(start: Start) -> None:
    def script(_: int, body: dict[str, Any]) -> Act:
        form = body.get("response_format")
        return status(500) if form and form["json_schema"]["name"] == "claims" else reply(AGREE)

    asked = start(script, structured=True, concurrency=1)
    asked.client.ask([*prompts(1), claims_prompt("At 00:05 a."), claims_prompt("At 00:05 b."), *prompts(2)[1:]])
    forms = [body.get("response_format", {}).get("json_schema", {}).get("name") for body in asked.server.requests]
    assert forms == ["consistency", "claims", None, None, "consistency"]
    assert len(asked.notices) == 1


def test_a_server_that_has_answered_a_schema_keeps_it_through_an_outage(start: Start) -> None:
    asked = start(lambda number, _: status(500) if number in (1, 2) else reply(AGREE), structured=True, concurrency=1)
    assert asked.ask(2) == [(AGREE, None)] * 2
    assert all("response_format" in body for body in asked.server.requests)
    assert asked.notices == [] and asked.client.take_counts().retries == 2


def test_an_outage_from_the_start_pauses_and_does_not_end_structured_replies(start: Start) -> None:
    asked = start(
        lambda number, _: status(500) if number < 8 else reply(AGREE),
        structured=True,
        breaker_failures=2,
        concurrency=1,
    )
    assert asked.ask(2) == [(AGREE, None)] * 2
    assert "scoring pauses" in asked.notices[0]
    assert not any("response_format" in notice for notice in asked.notices)
    assert "response_format" in asked.server.requests[-1]


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_takes_max_completion_tokens_gets_that(start: Start, code: int) -> None:
    asked = start(
        lambda _, body: (
            status(code, message="Unsupported parameter: 'max_tokens'") if "max_tokens" in body else reply("OK")
        )
    )
    asked.client.check()
    asked.client.ask(prompts(2))
    limits = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in asked.server.requests]
    assert limits == [(64, None)] + [(None, 64)] * 3
    assert len(asked.notices) == 1 and "max_completion_tokens" in asked.notices[0]


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        ("Unsupported value: 'temperature' does not support 0.0", "judge.calls.extra_body={temperature:null}"),
        ("seed: Extra inputs are not permitted", "judge.calls.extra_body={seed:null}"),
        ("Unknown field top_k", "take top_k out of judge.calls.extra_body"),
        ("'max_tokens' is too large: 64", "lower judge.calls.max_tokens"),
    ],
)
def test_a_refused_parameter_is_named_with_how_to_leave_it_out(start: Start, message: str, mend: str) -> None:
    asked = start(lambda *_: status(400, message=message), extra_body={"top_k": 1})
    with pytest.raises(ConfigError) as error:
        asked.client.check()
    assert message in str(error.value) and mend in str(error.value) and "start it" not in str(error.value)
    [(text, failure)] = asked.ask()
    assert text is None and failure is not None and mend in failure


def test_a_null_leaves_a_field_out(start: Start) -> None:
    left_out = {"temperature": None, "seed": None, "max_tokens": None, "max_completion_tokens": 32}
    asked = start(lambda *_: reply(AGREE), extra_body=left_out)
    asked.ask()
    (body,) = asked.server.requests
    assert body.keys() == {"model", "messages", "max_completion_tokens", "authorization"}
    assert body["max_completion_tokens"] == 32


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (raw('{"error": {"message": "insufficient balance", "code": 402}}'), "insufficient balance (code 402)"),
        (raw('{"error": "model is loading"}'), "model is loading"),
        (raw('{"choices": [{"error": {"message": "upstream broke", "code": 502}}]}'), "upstream broke"),
        (raw("<html><head><title>502</title></head><body><h1>Bad Gateway</h1></body></html>", code=502), "Bad Gateway"),
        (raw("no healthy upstream", code=503), "status 503: no healthy upstream"),
        (raw('{"detail": "Not Found"}', code=404), "status 404: Not Found"),
        (raw('{"object": "error", "message": "worker died", "code": 50001}', code=500), "worker died"),
        (raw("upstream request timeout"), "upstream request timeout"),
    ],
)
def test_the_servers_own_words_are_passed_on(start: Start, fault: Act, words: str) -> None:
    asked = start(lambda *_: fault)
    with pytest.raises(ConfigError) as error:
        asked.client.check()
    assert words in str(error.value) and "<" not in str(error.value)


def test_a_refusal_in_the_body_of_a_200_is_one(start: Start) -> None:
    asked = start(lambda *_: raw('{"error": {"message": "prompt too long", "code": 400}}'))
    assert asked.ask() == [(None, "an error in place of a reply: prompt too long (code 400)")]
    assert len(asked.server.requests) == 1


def test_content_in_parts_is_read_and_thoughts_beside_it_are_not(start: Start) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "FALSE?"}]},
        {"type": "text", "text": '{"reason": "same", '},
        {"type": "text", "text": '"consistent": true}'},
    ]
    asked = start(lambda *_: reply(parts, reasoning_content='{"consistent": false}'))
    assert asked.ask() == [(AGREE, None)]


def test_a_thought_in_a_field_of_its_own_is_no_reply(start: Start) -> None:
    asked = start(lambda *_: reply(None, finish_reason="length", reasoning_content=AGREE))
    assert asked.ask() == [(None, "no text within judge.calls.max_tokens=64; raise it")]


@pytest.mark.parametrize("cut", ["<think>It says " + AGREE, "Let me see. " + AGREE + " Hm,", '{"reason": "sa', "TRUE"])
def test_a_reply_cut_off_at_the_token_limit_holds_no_verdict_and_is_not_asked_again(start: Start, cut: str) -> None:
    asked = start(lambda *_: reply(cut, finish_reason="length"))
    [(text, failure)] = asked.ask()
    assert text is None and failure is not None and "judge.calls.max_tokens=64" in failure
    assert len(asked.server.requests) == 1


@pytest.mark.parametrize(
    "whole", [AGREE + " Because", "```json\n" + AGREE + "\n``", "**TRUE**\nSince both", "<think>a</think>" + AGREE]
)
def test_what_was_said_before_the_token_limit_counts(start: Start, whole: str) -> None:
    assert start(lambda *_: reply(whole, finish_reason="length")).ask() == [(whole, None)]


def test_a_model_that_declines_says_why(start: Start) -> None:
    asked = start(lambda *_: reply(None, refusal="I cannot help."), structured=True)
    assert asked.ask() == [(None, "the model declines: I cannot help.")]
    assert len(asked.server.requests) == 1 and asked.notices == []


def test_a_lone_surrogate_in_a_response_can_be_asked_about(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE))
    (answer,) = asked.client.ask([consistency_prompt("a \ud83d b", "A", question="Q?", options=())])
    assert answer.text == AGREE
