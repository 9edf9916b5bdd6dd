"""From the configuration to a client that has been answered."""

from __future__ import annotations

import pytest
from fault_server import FaultServer, reply, status

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import CallsConfig, OpenAIJudge, RulesJudge
from videor2_rl.judge.access import check_server, connected_judge, named_server
from videor2_rl.judge.connection import JudgeServer

CALLS = CallsConfig(2, 5.0, 0, None, False, 64, 0, {}, None, 3, 0.05, 1.0, 0.5)
KEY = "TEST_JUDGE_KEY"


def judge_at(base_url: str, *, api_key_env: str | None = None) -> OpenAIJudge:
    return OpenAIJudge("openai", "judge", base_url, "m", api_key_env, CALLS)


def test_a_named_server_is_somebody_else_s_and_gets_the_key_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    mend = "start it, or correct judge.base_url, judge.model or judge.api_key_env"
    with_key = named_server(judge_at("http://x/v1", api_key_env=KEY))
    assert with_key == JudgeServer("http://x/v1", "m", "secret", mend=mend, is_own=False)
    assert "secret" not in repr(with_key)
    assert named_server(judge_at("http://x/v1")).api_key is None


@pytest.mark.parametrize("value", [None, ""])
def test_a_key_that_is_not_set_or_empty_is_named(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY, value)
    with pytest.raises(ConfigError, match=f"judge.api_key_env: the environment variable {KEY} is not set"):
        named_server(judge_at("http://x/v1", api_key_env=KEY))


def test_a_judge_is_connected_once_it_has_answered_and_without_one_there_is_none() -> None:
    with connected_judge(RulesJudge("rules", "rules")) as nobody:
        assert nobody is None
    with FaultServer(lambda *_: reply("OK")) as server, connected_judge(judge_at(server.base_url)) as client:
        assert client is not None
        assert len(server.requests) == 1 and not server.prompts
    # The server of somebody else may want no key; the library sends some word.
    assert server.requests[0]["authorization"] == "Bearer none"


@pytest.mark.parametrize("code", [400, 404, 500])
def test_a_server_that_refuses_or_fails_the_first_request_is_a_configuration_error(code: int) -> None:
    with FaultServer(lambda *_: status(code, message="not this model")) as server:
        with pytest.raises(ConfigError, match=rf"model m \(status {code}: not this model\); start it, or correct"):
            check_server(judge_at(server.base_url))
        assert len(server.requests) == 1
