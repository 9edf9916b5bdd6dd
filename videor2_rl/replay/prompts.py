"""The prompts of logged groups, made again as the run made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun
from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.run.rollout_log import sample_of
from videor2_rl.types import Prompt
from videor2_rl.video.errors import VideoError
from videor2_rl.video.load import load_clip


def rebuilt_prompts(records: Sequence[Mapping[str, Any]], run: GrpoRun) -> list[Prompt]:
    """One a group; clips come from the run's cache, or are decoded again.

    Raises:
        ConfigError: a clip cannot be used any more, or the prompt's text is not the logged one.
    """
    builder = PromptBuilder(run.model)
    prompts = []
    for record in records:
        sample = sample_of(record)
        try:
            clip, _ = load_clip(sample, run.video)
            prompt = builder.build(sample, clip)
        except VideoError as error:
            raise ConfigError(f"--loss: group {record['group_id']}: {error.detail}; it needs the run's clips") from None
        if prompt.text != record["prompt"]:
            raise ConfigError(
                f"--loss: group {record['group_id']}: its prompt is no longer the logged one; "
                f"use the model folder and the system prompt that the run had ({Path(run.model.path)})"
            )
        prompts.append(prompt)
    return prompts
