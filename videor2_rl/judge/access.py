"""From the configuration to a judge that can be asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import CallsConfig, JudgeConfig, OpenAIJudge
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.connection import JudgeServer


@dataclass(frozen=True)
class JudgeAccess:
    """A judge and how to call it."""

    server: JudgeServer
    calls: CallsConfig


def named_server(judge: OpenAIJudge) -> JudgeServer:
    """The configured server with its key.

    Raises:
        ConfigError: the environment variable that is to hold the key is not set.
    """
    key = None if judge.api_key_env is None else os.environ.get(judge.api_key_env)
    if judge.api_key_env is not None and not key:
        raise ConfigError(
            f"judge.api_key_env: the environment variable {judge.api_key_env} is not set; export it, or set "
            "judge.api_key_env=null for a server without keys"
        )
    mend = "start it, or correct judge.base_url, judge.model or judge.api_key_env"
    return JudgeServer(judge.base_url, judge.model, key, mend=mend, is_own=False)


@contextmanager
def connected_judge(judge: JudgeConfig) -> Iterator[JudgeClient | None]:
    """The client of a configured server that answers; None without a judge.

    Raises:
        ConfigError: the key is not set, or the server does not answer.
    """
    if not isinstance(judge, OpenAIJudge):
        yield None
        return
    client = JudgeClient(named_server(judge), judge.calls, concurrency=judge.calls.concurrency)
    try:
        client.check()
        yield client
    finally:
        client.close()


def check_server(judge: OpenAIJudge) -> None:
    """One small request, before anything else of a run starts.

    Raises:
        ConfigError: the key is not set, or the server does not answer.
    """
    with connected_judge(judge):
        pass
