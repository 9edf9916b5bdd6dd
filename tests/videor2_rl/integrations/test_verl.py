"""verl: its own loader and reward manager on our function."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.integrations.verl import compute_score

RIGHT = "<think>At 00:02 a red square appears. The first is red (A).</think><answer>A</answer>"
QUESTION = "Which colour appears first? A. red B. green C. blue D. yellow"


def test_a_response_becomes_a_score_and_the_same_keys_for_every_row() -> None:
    right = compute_score("videos", RIGHT, "<answer>A</answer>", {"question": QUESTION})
    assert (right["score"], right["acc"], right["failed"]) == (2.0, 1.0, 0.0)
    assert (right["temporal_alignment"], right["temporal_alignment_abstained"]) == (0.0, 1.0)
    wrong = compute_score("videos", "red", "B", None)
    assert wrong["score"] == 0.0 and wrong.keys() == right.keys()
    assert all(isinstance(value, float) for value in right.values())


def test_presets_overrides_and_what_verl_adds_are_taken() -> None:
    info: dict[str, Any] = {"question": QUESTION, "num_turns": None, "rollout_reward_scores": {}}
    halved = compute_score(
        "videos", RIGHT, "A", info, preset="no_tar", overrides=["reward.format.weight=0.5"], reward_router_address="x"
    )
    assert halved["score"] == 1.5


def test_a_failed_term_gets_the_failure_score_and_a_term_sees_the_rows_columns(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def rated(reading):\n    context = reading.context\n"
        "    return context.extra['rating'] if context.extra['data_source'] == 'rated' else 1 / 0\n"
    )
    own = [f"+reward.extra.rated.function={tmp_path}/own.py:rated", "+reward.extra.rated.weight=1"]
    info: dict[str, Any] = {"question": QUESTION, "rating": 0.25, "index": 3}
    assert compute_score("rated", RIGHT, "A", info, overrides=own)["score"] == 2.25
    failed = compute_score("videos", RIGHT, "A", info, overrides=own, failure_score=-1.0)
    assert (failed["score"], failed["failed"], failed["acc"]) == (-1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="row 3: The solution '' holds no answer"):
        compute_score("videos", RIGHT, "", info)


@pytest.mark.slow
def test_verls_reward_manager_loads_and_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import torch
    from hydra import compose, initialize_config_module

    from videor2_rl.demo.model import make_tokenizer

    monkeypatch.setenv("VERL_PLATFORM", os.environ.get("VERL_PLATFORM", "cpu"))
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    reward = "reward.custom_reward_function"
    overrides = [
        f"{reward}.path=pkg://videor2_rl.integrations.verl",
        f"{reward}.name=compute_score",
        f"+{reward}.reward_kwargs.preset=video_r2",
        f"+{reward}.reward_kwargs.overrides=['reward.format.weight=0.5']",
    ]
    tokenizer = make_tokenizer()
    ids = tokenizer(RIGHT, return_tensors="pt")["input_ids"]
    padding, prompt = torch.full((1, 3), tokenizer.pad_token_id), torch.zeros(1, 4, dtype=torch.long)
    mask = torch.cat([torch.ones(1, 4), torch.ones_like(ids), torch.zeros(1, 3)], dim=1).long()
    # As Arrow gives it: every row has the keys of all.
    info: dict[str, Any] = {
        "question": QUESTION,
        "index": 3,
        "temporal_grounding": {"00:02": "A red square appears.", "00:04": None},
    }
    data = DataProto.from_dict(
        tensors={"prompts": prompt, "responses": torch.cat([ids, padding], dim=1), "attention_mask": mask},
        non_tensors={
            "data_source": np.array(["videos"], dtype=object),
            "reward_model": np.array([{"style": "rule", "ground_truth": "<answer>A</answer>"}], dtype=object),
            "extra_info": np.array([info], dtype=object),
        },
    )
    # Inside verl's own Hydra app, as in its driver.
    with initialize_config_module("verl.trainer.config", version_base=None):
        manager = load_reward_manager(compose("ppo_trainer", overrides=overrides), tokenizer)
        result = manager.loop.run_until_complete(manager.run_single(data))
        assert compose("ppo_trainer").reward.num_workers
    assert result["reward_score"] == 2.5
    assert result["reward_extra_info"]["temporal_alignment"] == 1.0
