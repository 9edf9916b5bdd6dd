"""The client against a real server with scripted faults: order, bounds, retries, hedges, cache, outages."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from asked import AGREE, CALLS, Start, prompts, thought
from fault_server import CUT, CUT_IN_BODY, NEVER, Act, FaultServer, raw, reply, status

from videor2_rl.config.errors import ConfigError
from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.connection import JudgeServer, retry_after_s
from videor2_rl.judge.counts import CallCounts

pytestmark = pytest.mark.usefixtures("short_waits")


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


@pytest.mark.parametrize(("before", "after"), [(2, 6), (6, 2)])
def test_the_bound_can_change_while_nobody_asks(start: Start, before: int, after: int) -> None:
    asked = start(lambda *_: reply(AGREE, delay_s=0.05), concurrency=before)
    asked.client.resize(after)
    asked.ask(30)
    assert asked.server.most_at_once == after


@pytest.mark.parametrize(("calls", "hedges"), [(3, 1), (4, 0)])
def test_the_bound_counts_hedges_too(start: Start, calls: int, hedges: int) -> None:
    asked = start(lambda *_: reply(AGREE, delay_s=0.5), concurrency=4, hedge_after_s=0.1, deadline_s=5.0)
    asked.ask(calls)
    assert asked.server.most_at_once == 4
    assert asked.client.take_counts().hedges == hedges


def test_threads_wait_beside_each_other(start: Start) -> None:
    asked = start(lambda *_: reply(AGREE, delay_s=1.0), concurrency=8, deadline_s=10.0)
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(asked.client.ask, prompts(4)[half]) for half in (slice(2), slice(2, 4)))
    assert [answer.text for answer in (*first.result(), *second.result())] == [AGREE] * 4
    assert asked.server.most_at_once == 4
    assert asked.client.take_counts().replies == 4


def test_whoever_has_nothing_to_ask_leaves_the_others_their_breaker(start: Start) -> None:
    """As where all replies are in the cache."""
    is_back = threading.Event()
    asked = start(lambda *_: reply(AGREE) if is_back.is_set() else status(503), breaker_failures=1, patience_s=30.0)
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(asked.client.ask, prompts(1))
        while not asked.notices:
            time.sleep(0.01)
        assert asked.client.ask([]) == []
        is_back.set()
    assert held.result()[0].text == AGREE
    assert len(asked.notices) == 2 and "going on" in asked.notices[1]


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


def test_a_cached_reply_that_cannot_be_read_any_more_is_asked_for_again(start: Start, tmp_path: Path) -> None:
    first = start(lambda *_: reply(AGREE), cache_dir=str(tmp_path))
    first.ask()
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text().replace(AGREE.replace('"', '\\"'), "<think>" + AGREE.replace('"', '\\"')))
    assert "<think>" in file.read_text()
    again = start(lambda *_: reply(AGREE), cache_dir=str(tmp_path))
    assert again.ask() == [(AGREE, None)]
    assert len(again.server.requests) == 1 and again.client.take_counts().cached == 0
