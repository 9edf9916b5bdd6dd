"""The client against a real server with scripted faults."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from fault_server import CUT, CUT_IN_BODY, NEVER, Act, FaultServer, raw, reply, status

from rewards.judge import JudgePrompt, claims_prompt, consistency_prompt
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import CallsConfig
from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.connection import JudgeServer, retry_after_s
from videor2_rl.judge.counts import CallCounts

AGREE = '{"reason": "same", "consistent": true}'
CALLS = CallsConfig(
    concurrency=8,
    deadline_s=1.0,
    retries=2,
    hedge_after_s=None,
    structured=False,
    max_tokens=64,
    seed=7,
    extra_body={},
    cache_dir=None,
    breaker_failures=20,
    probe_every_s=0.05,
    patience_s=20.0,
    max_failed_frac=0.5,
)


def prompts(count: int) -> list[JudgePrompt]:
    """Distinct ones."""
    return [consistency_prompt(f"Thought {i}.", "A", question="Q?", options=()) for i in range(count)]


def thought(body: dict[str, Any]) -> int:
    """Which of `prompts` a request carries; -1: a probe."""
    _, found, rest = body["messages"][1]["content"].partition("Thought ")
    return int(rest.split(".")[0]) if found else -1


class Asked:
    """A client, its server and what it announced."""

    def __init__(self, server: FaultServer, calls: CallsConfig) -> None:
        self.server = server
        self.notices: list[str] = []
        self.client = JudgeClient(
            JudgeServer(server.base_url, "judge-model", "secret", mend="start it again", is_own=True),
            calls,
            concurrency=calls.concurrency,
            notify=self.notices.append,
        )

    def ask(self, count: int = 1) -> list[tuple[str | None, str | None]]:
        return [(answer.text, answer.failure) for answer in self.client.ask(prompts(count))]


Start = Callable[..., Asked]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videor2_rl.judge.client._FIRST_WAIT_S", 0.02)


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Asked] = []

    def begin(script: Callable[[int, dict[str, Any]], Act], **changes: Any) -> Asked:
        running.append(Asked(FaultServer(script).__enter__(), replace(CALLS, **changes)))
        return running[-1]

    yield begin
    for asked in running:
        asked.client.close()
        asked.server.__exit__()


def test_every_prompt_gets_its_own_reply_in_order(start: Start) -> None:
    asked = start(lambda _, body: reply(f"reply {thought(body)}", delay_s=0.02 * (thought(body) % 3)))
    assert asked.ask(20) == [(f"reply {i}", None) for i in range(20)]


def test_a_request_carries_prompt_model_key_and_deterministic_sampling(start: Start) -> None:
    asked = start(
        lambda *_: reply(AGREE), extra_body={"chat_template_kwargs": {"enable_thinking": False}, "temperature": 1.0}
    )
    asked.ask()
    (prompt,), (body,) = prompts(1), asked.server.requests
    assert [(m["role"], m["content"]) for m in body["messages"]] == [("system", prompt.system), ("user", prompt.user)]
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("judge-model", 0.0, 7, 64)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["authorization"] == "Bearer secret"
    assert "response_format" not in body


def test_no_more_requests_are_under_way_than_allowed(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE, delay_s=0.01), concurrency=5)
    asked.ask(60)
    assert asked.server.most_at_once == 5


@pytest.mark.parametrize(("calls", "hedges"), [(3, 1), (4, 0)])
def test_the_bound_counts_hedges_too(start: Start, calls: int, hedges: int) -> None:
    asked = start(lambda *_: reply(AGREE, delay_s=0.5), concurrency=4, hedge_after_s=0.1, deadline_s=5.0)
    asked.ask(calls)
    assert asked.server.most_at_once == 4
    assert asked.client.take_counts().hedges == hedges


def test_equal_prompts_are_asked_once(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE))
    answers = asked.client.ask(prompts(1) * 5)
    assert len(answers) == 5 and len(asked.server.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        status(500),
        status(503),
        status(429),
        status(429, retry_after="0"),
        CUT,
        CUT_IN_BODY,
        raw("<html>garbage</html>"),
        raw(""),
        raw('{"unexpected": "json"}'),
        raw("[]"),
        raw('{"choices": []}'),
        raw('{"choices": [{"message": {"content": 5}}]}'),
        reply(""),
        reply("  \n"),
        reply(None),
        NEVER,
        reply(AGREE, delay_s=5.0),
    ],
    ids=repr,
)
def test_a_fault_that_passes_costs_no_reply(start: Start, fault: Act) -> None:
    asked = start(lambda number, _: fault if number == 0 else reply(AGREE))
    assert asked.ask() == [(AGREE, None)]
    assert asked.client.take_counts().retries == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(500, message="overloaded"), "status 500: overloaded"),
        (CUT, "no connection"),
        (raw("garbage"), "the reply is no JSON"),
        (raw("{}"), "the reply is no chat completion"),
        (reply(""), "an empty reply"),
        (reply(None, finish_reason="length"), "no text within judge.calls.max_tokens=64"),
        (NEVER, "no reply within 1 s"),
    ],
    ids=lambda value: repr(value),
)
def test_a_prompt_that_fails_while_others_are_answered_fails_alone(start: Start, fault: Act, reason: str) -> None:
    asked = start(lambda _, body: fault if thought(body) == 0 else reply(AGREE, delay_s=0.01), concurrency=2)
    (text, failure), *others = asked.ask(60)
    assert text is None and failure is not None and reason in failure
    assert others == [(AGREE, None)] * 59


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_refused_prompt_is_not_asked_again(start: Start, code: int) -> None:
    asked = start(lambda *_: status(code, message="too long for this model"))
    assert asked.ask() == [(None, f"status {code}: too long for this model")]
    assert len(asked.server.requests) == 1


def test_retry_after_is_waited_for(start: Start) -> None:
    times: list[float] = []

    def script(number: int, _: dict[str, Any]) -> Act:
        times.append(time.monotonic())
        return status(429, retry_after="0.4") if number == 0 else reply(AGREE)

    assert start(script).ask() == [(AGREE, None)]
    assert times[1] - times[0] >= 0.4


def test_retry_after_is_read_as_seconds_or_date() -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    assert retry_after_s({"retry-after": "12"}) == 12
    assert 25 < (retry_after_s({"retry-after": soon}) or 0) <= 30
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None


def test_a_hedge_saves_a_call_that_hangs(start: Start) -> None:
    asked = start(lambda number, _: NEVER if number == 0 else reply(AGREE), hedge_after_s=0.05, deadline_s=30.0)
    started = time.monotonic()
    assert asked.ask() == [(AGREE, None)]
    assert time.monotonic() - started < 30
    counts = asked.client.take_counts()
    assert (counts.hedges, counts.retries) == (1, 0)


def test_a_hedge_whose_first_request_fails_still_counts(start: Start) -> None:
    asked = start(
        lambda number, _: Act("status", "late", 500, delay_s=0.1) if number == 0 else reply(AGREE, delay_s=0.2),
        hedge_after_s=0.02,
    )
    assert asked.ask() == [(AGREE, None)]
    assert asked.client.take_counts().retries == 0


def test_replies_come_back_from_the_cache(start: Start, tmp_path: Path) -> None:
    first = start(lambda *_: reply(AGREE), cache_dir=str(tmp_path / "cache"))
    first.ask(6)
    again = start(lambda *_: status(500), cache_dir=str(tmp_path / "cache"))
    assert again.ask(6) == [(AGREE, None)] * 6
    assert again.server.requests == []
    counts = again.client.take_counts()
    assert (counts.cached, counts.replies, counts.requests) == (6, 6, 0)


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"max_tokens": 65}, {"extra_body": {"top_k": 1}}, {"structured": True}]
)
def test_another_sampling_is_another_cache_entry(start: Start, tmp_path: Path, change: dict[str, Any]) -> None:
    start(lambda *_: reply(AGREE), cache_dir=str(tmp_path)).ask()
    other = start(lambda *_: reply(AGREE), cache_dir=str(tmp_path), **change)
    other.ask()
    assert len(other.server.requests) == 1


def test_failures_and_unreadable_replies_are_not_cached(start: Start, tmp_path: Path) -> None:
    asked = start(lambda _, body: status(400) if thought(body) else reply("no idea"), cache_dir=str(tmp_path))
    assert asked.ask(2) == [("no idea", None), (None, "status 400: scripted")]
    counts = asked.client.take_counts()
    assert (counts.replies, counts.unreadable, counts.failures) == (1, 1, 1)
    asked.ask(2)
    assert len(asked.server.requests) == 4


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


@pytest.mark.parametrize("kind", ["down", "500", "401", "404", "garbage", "never"])
def test_an_outage_pauses_and_costs_no_reply(start: Start, kind: str) -> None:
    outage = {
        "500": status(500),
        "401": status(401),
        "404": status(404),
        "garbage": raw("?"),
        "never": NEVER,
        "down": CUT,
    }[kind]
    is_back = threading.Event()
    asked = start(lambda *_: reply(AGREE, delay_s=0.01) if is_back.is_set() else outage, deadline_s=1.0)
    if kind == "down":
        asked.server.down()

    def come_back() -> None:
        deadline = time.monotonic() + 30
        while not asked.notices and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        is_back.set()
        if kind == "down":
            asked.server.up()

    thread = threading.Thread(target=come_back)
    thread.start()
    answers = asked.ask(40)
    thread.join()
    assert answers == [(AGREE, None)] * 40
    assert len(asked.notices) == 2
    assert "scoring pauses" in asked.notices[0] and asked.server.base_url in asked.notices[0]
    assert "going on" in asked.notices[1]
    assert asked.client.take_counts().pause_s >= 0.3


def test_while_paused_only_probes_are_sent(start: Start) -> None:
    asked = start(lambda *_: status(503), patience_s=1.0, breaker_failures=4, retries=0)
    with pytest.raises(JudgeDown):
        asked.ask(100)
    assert len(asked.server.prompts) <= CALLS.concurrency
    assert len(asked.server.requests) > len(asked.server.prompts)


def test_patience_ends_with_one_sentence_that_names_address_and_mend(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE), patience_s=0.3)
    asked.server.down()
    with pytest.raises(JudgeDown) as error:
        asked.ask(3)
    assert asked.server.base_url in str(error.value) and "start it again" in str(error.value)
    assert "\n" not in str(error.value)
    asked.server.up()
    assert asked.ask(3) == [(AGREE, None)] * 3


def test_a_single_call_that_always_fails_ends_when_the_probe_is_answered(start: Start) -> None:
    asked = start(lambda _, body: status(500) if thought(body) == 0 else reply("OK"), retries=1)
    assert asked.ask(1) == [(None, "status 500: scripted (after 3 requests)")]
    # Two requests, and two more after each of three pauses; the pause after that gives no fresh start.
    assert len(asked.server.prompts) == 9


def test_check_accepts_a_server_whatever_it_says(start: Start) -> None:
    asked = start(lambda *_: reply(""))
    asked.client.check()
    assert len(asked.server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "reason"), [(status(401, message="bad key"), "bad key"), (status(404), "404"), (CUT, "no connection")]
)
def test_check_names_the_address_and_what_is_wrong(start: Start, fault: Act, reason: str) -> None:
    asked = start(lambda *_: fault)
    with pytest.raises(ConfigError) as error:
        asked.client.check()
    assert asked.server.base_url in str(error.value) and reason in str(error.value)
    assert "judge-model" in str(error.value)


def test_a_failure_says_how_often_was_asked_and_the_counts_name_the_last_problem(start: Start) -> None:
    asked = start(lambda _, body: status(500) if thought(body) == 0 else reply(AGREE, delay_s=0.01), concurrency=2)
    assert asked.ask(60)[0] == (None, "status 500: scripted (after 3 requests)")  # The first, and two retries.
    counts = asked.client.take_counts()
    assert (counts.replies, counts.failures) == (59, 1)
    assert counts.last_problem == "status 500: scripted (after 3 requests)"


def test_a_long_complaint_of_the_server_is_cut(start: Start) -> None:
    asked = start(lambda *_: status(400, message="no\n" + "x" * 1000))
    [(text, failure)] = asked.ask()
    assert text is None and failure == "status 400: no " + "x" * 197


@pytest.mark.timeout(60)
def test_no_wait_that_a_server_asks_for_is_longer_than_patience(start: Start) -> None:
    asked = start(
        lambda number, _: status(429, retry_after="3600") if number == 0 else reply(AGREE), patience_s=0.2, retries=1
    )
    assert asked.ask() == [(AGREE, None)]


def test_a_time_in_the_past_asks_for_no_wait() -> None:
    assert retry_after_s({"retry-after": "-5"}) == 0
    assert retry_after_s({"retry-after": " 0.5 "}) == 0.5


def test_counts_are_those_since_they_were_last_taken(start: Start, tmp_path: Path) -> None:
    asked = start(
        lambda number, _: CUT if number == 0 else reply(AGREE, delay_s=0.05),
        breaker_failures=1,
        cache_dir=str(tmp_path),
        concurrency=1,
    )
    asked.ask(3)
    asked.ask(3)
    asked.ask(2)
    counts = asked.client.take_counts()
    assert (counts.replies, counts.cached, counts.answered) == (8, 5, 3)
    # One that was cut, and its retry; the probe in between is no request for a reply.
    assert (counts.requests, counts.retries, counts.hedges) == (4, 1, 0)
    assert counts.latency_s >= 3 * 0.05
    assert counts.pause_s > 0
    assert asked.client.take_counts() == CallCounts()


def test_a_request_that_lost_against_its_hedge_is_given_up(start: Start) -> None:
    delays_s = [0.3, 0.0]  # The first request and its hedge; what comes after takes long enough for the first to end.
    asked = start(
        lambda number, _: reply(AGREE, delay_s=delays_s[number] if number < 2 else 0.6),
        hedge_after_s=0.05,
        deadline_s=10.0,
        concurrency=2,
    )
    assert asked.ask(1) == [(AGREE, None)]
    asked.client.ask(prompts(2)[1:])
    counts = asked.client.take_counts()
    assert (counts.replies, counts.requests, counts.hedges) == (2, 4, 2)
    assert counts.answered == 2


def test_a_hedge_that_lost_is_given_up_too_and_hedging_never_ends(start: Start) -> None:
    # By turns the hedge and the first request is the quicker one.
    delays_s = [5.0, 0.0, 0.3, 5.0]
    asked = start(
        lambda number, _: reply(f"reply {number}", delay_s=delays_s[number % 4]),
        hedge_after_s=0.05,
        deadline_s=10.0,
        concurrency=2,
    )
    answers = [asked.client.ask([prompt])[0].text for prompt in prompts(4)]
    assert answers == ["reply 1", "reply 2", "reply 5", "reply 6"]
    # More hedges than there are permits: each was given back.
    counts = asked.client.take_counts()
    assert (counts.hedges, counts.requests, counts.answered) == (4, 8, 4)


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


def test_requests_one_after_another_share_a_connection(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE), concurrency=1)
    asked.ask(20)
    assert (len(asked.server.requests), asked.server.connections) == (20, 1)


@pytest.mark.parametrize(("is_own", "says"), [(True, "the judge"), (False, "the proxy")])
def test_a_server_of_the_run_is_reached_directly_and_any_other_through_the_environments_proxy(
    is_own: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(lambda *_: reply("the judge")) as judge, FaultServer(lambda *_: reply("the proxy")) as proxy:
        for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        server = JudgeServer(judge.base_url, "m", None, mend="start it again", is_own=is_own)
        client = JudgeClient(server, CALLS, concurrency=1)
        assert [answer.text for answer in client.ask(prompts(1))] == [says]
        client.close()


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


def test_a_cached_reply_that_cannot_be_read_any_more_is_asked_for_again(start: Start, tmp_path: Path) -> None:
    first = start(lambda *_: reply(AGREE), cache_dir=str(tmp_path))
    first.ask()
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text().replace(AGREE.replace('"', '\\"'), "<think>" + AGREE.replace('"', '\\"')))
    assert "<think>" in file.read_text()
    again = start(lambda *_: reply(AGREE), cache_dir=str(tmp_path))
    assert again.ask() == [(AGREE, None)]
    assert len(again.server.requests) == 1 and again.client.take_counts().cached == 0
