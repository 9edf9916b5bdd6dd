"""What a reward needs of a judge, asked for all at once."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.judge import Purpose, needed_prompts, with_replies
from rewards.types import NO_EVIDENCE, Evidence, JudgeReply, RewardConfig, Target
from videor2_rl.judge.client import JudgeClient


def gather_evidence(
    client: JudgeClient,
    responses: Sequence[str],
    targets: Sequence[Target],
    config: RewardConfig,
    evidences: Sequence[Evidence] | None = None,
) -> list[Evidence]:
    """For each response what is already known of it and what the judge says to the rest.

    Args:
        responses, targets, evidences: of equal length, pairwise; without `evidences` nothing is known yet.

    Raises:
        JudgeDown: the server stayed away.
    """
    known = [NO_EVIDENCE] * len(responses) if evidences is None else evidences
    needed = [
        needed_prompts(response, target, config, evidence)
        for response, target, evidence in zip(responses, targets, known, strict=True)
    ]
    replies = iter(client.ask([prompt for prompts in needed for prompt in prompts.values()]))
    answered: list[dict[Purpose, JudgeReply]] = [{purpose: next(replies) for purpose in prompts} for prompts in needed]
    return [with_replies(evidence, said) for evidence, said in zip(known, answered, strict=True)]
