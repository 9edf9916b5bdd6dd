"""A judge client and the server that it asks."""

from collections.abc import Callable
from typing import Any

from fault_server import FaultServer

from rewards.judge import JudgePrompt, consistency_prompt
from videor2_rl.config.judge import CallsConfig
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.connection import JudgeServer

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
