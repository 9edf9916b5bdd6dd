"""Evidence for some responses: what is known stays, what is missing is asked in one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rewards.judge import JudgePrompt
from rewards.types import NO_EVIDENCE, Evidence, JudgeReply, RewardConfig, Target
from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.evidence import gather_evidence

TARGET = Target("Which?", "A", options=("red", "blue"), temporal_grounding={"00:05": "A red square appears."})


class Echo(JudgeClient):
    """Replies with the purpose and the think text of each prompt."""

    def __init__(self) -> None:
        self.asked: list[list[JudgePrompt]] = []

    def ask(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply]:
        self.asked.append(list(prompts))
        return [said(prompt.purpose, json.loads(prompt.user)["reasoning"]) for prompt in prompts]


def said(purpose: str, think: str) -> JudgeReply:
    return JudgeReply(f"{purpose} of {think}", None)


def response(think: str) -> str:
    return f"<think>{think}</think><answer>A</answer>"


@pytest.fixture(scope="module")
def config() -> RewardConfig:
    paths = ["model.path=m", "data.train_file=t", "data.media_dir=d"]
    judge = ["judge=openai", "judge.base_url=http://localhost:1/v1", "judge.model=m"]
    return compose_run("grpo", GrpoRun, [*paths, *judge]).reward


def test_each_response_gets_the_replies_about_itself_in_one_call(config: RewardConfig) -> None:
    client = Echo()
    found = gather_evidence(client, [response("one"), "no blocks", response("two")], [TARGET] * 3, config)
    assert found == [
        Evidence(None, {"claims": said("claims", "one"), "consistency": said("consistency", "one")}),
        NO_EVIDENCE,
        Evidence(None, {"claims": said("claims", "two"), "consistency": said("consistency", "two")}),
    ]
    assert len(client.asked) == 1


def test_what_is_known_of_a_response_is_kept_and_not_asked(config: RewardConfig) -> None:
    client = Echo()
    claims = {"00:05": "A red square appears."}
    known = [Evidence(claims, {}), Evidence(None, {"consistency": JudgeReply("TRUE", None)})]
    targets = [TARGET, replace(TARGET, temporal_grounding=None)]
    found = gather_evidence(client, [response("one"), response("two")], targets, config, known)
    assert found == [Evidence(claims, {"consistency": said("consistency", "one")}), known[1]]
    assert [prompt.purpose for prompt in client.asked[0]] == ["consistency"]
