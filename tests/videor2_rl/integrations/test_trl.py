"""TRL: what its reward functions are called with, and a step of its real trainer."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.integrations.trl import TrlRewards, video_r2_rewards

ROOT = Path(__file__).parents[3]
RIGHT = "<think>At 00:02 a red square appears. The first is red (A).</think><answer>A</answer>"
WRONG = RIGHT.replace("<answer>A", "<answer>C")
QUESTION = "Which colour appears first? A. red B. green C. blue D. yellow"
GROUNDING = {"00:02": "A red square appears."}
# Without TAR nothing has to be encoded.
COLUMNS = {"solution": ["<answer>A</answer>"] * 2, "temporal_grounding": [None, None]}


@pytest.fixture(scope="module")
def rewards() -> TrlRewards:
    return video_r2_rewards("video_r2", ["reward.format.weight=0.5"])


def test_the_sum_and_one_function_a_term_have_names_and_weights(rewards: TrlRewards) -> None:
    assert rewards.total.__name__ == "video_r2"
    assert [term.__name__ for term in rewards.terms] == ["format", "accuracy", "consistency", "temporal_alignment"]
    assert rewards.weights == [0.5, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "completions",
    [
        [RIGHT, WRONG],
        [[{"role": "assistant", "content": RIGHT}], [{"role": "assistant", "content": WRONG}]],
        [
            [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}],
            [{"role": "tool", "content": "x"}, {"role": "assistant", "content": [{"type": "text", "text": WRONG}]}],
        ],
    ],
    ids=["texts", "messages", "parts"],
)
def test_completions_may_be_texts_or_messages(completions: list[Any], rewards: TrlRewards) -> None:
    prompts = [[{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": QUESTION}]}]]
    assert rewards.total(completions, prompts=prompts * 2, **COLUMNS) == [1.5, 0.5]
    by_term = {term.__name__: term(completions, prompts=prompts * 2, **COLUMNS) for term in rewards.terms}
    assert by_term == {
        "format": [1.0, 1.0],
        "accuracy": [1.0, 0.0],
        "consistency": [1.0, 0.0],
        "temporal_alignment": [None, None],
    }


def test_the_question_is_a_column_or_the_prompts_last_user_turn(rewards: TrlRewards) -> None:
    columns: dict[str, Any] = {**COLUMNS, "solution": ["red", "red"]}
    in_words = [RIGHT.replace("<answer>A", "<answer>red")] * 2
    assert rewards.total(in_words, prompts=[QUESTION] * 2, **columns) == [1.5, 1.5]
    assert rewards.total(in_words, question=[QUESTION] * 2, **columns) == [1.5, 1.5]


def test_a_batch_is_scored_once_for_all_functions(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("seen = []\n\ndef noted(reading):\n    seen.append(reading)\n    return 1.0\n")
    own = [f"+reward.extra.noted.function={tmp_path}/own.py:noted", "+reward.extra.noted.weight=1"]
    rewards = video_r2_rewards("video_r2", own)
    from rewards.terms.extra import load_function

    seen = load_function(f"{tmp_path}/own.py:noted").__globals__["seen"]
    for completions in ([RIGHT, WRONG], [RIGHT, RIGHT]):
        seen.clear()
        for function in [rewards.total, *rewards.terms]:
            function(completions, prompts=None, **COLUMNS)
        assert len(seen) == 2


def test_own_columns_and_the_step_reach_a_term_and_a_failure_is_none_everywhere(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def rated(reading):\n    context = reading.context\n"
        "    return context.extra['rating'] / (context.step == 8 and context.sample_id == 'a')\n"
    )
    own = [f"+reward.extra.rated.function={tmp_path}/own.py:rated", "+reward.extra.rated.weight=1"]
    rewards = video_r2_rewards("no_tar", own)

    class State:
        global_step = 7

    columns = {
        **COLUMNS,
        "id": ["a", "b"],
        "rating": [0.25, 0.5],
        "trainer_state": State(),
        "completion_ids": [[1], [2]],
    }
    assert rewards.total([RIGHT, RIGHT], prompts=[QUESTION] * 2, **columns) == [2.25, None]
    assert [term([RIGHT, RIGHT], prompts=[QUESTION] * 2, **columns)[1] for term in rewards.terms] == [None] * 5
    told: dict[str, float] = {}
    rewards.total([RIGHT, RIGHT], prompts=[QUESTION] * 2, log_metric=told.__setitem__, **columns)
    assert (told["no_tar/rated"], told["no_tar/failure_frac"], told["no_tar/accuracy"]) == (0.25, 0.5, 1.0)


def test_what_cannot_be_scored_is_named(rewards: TrlRewards) -> None:
    with pytest.raises(ValueError, match=r"no column solution, found \['answer'\]"):
        rewards.total([RIGHT], answer=["A"])
    with pytest.raises(ValueError, match="row 0: temporal_grounding is 'soon', expected a map"):
        rewards.total([RIGHT], solution=["A"], temporal_grounding=["soon"])
    with pytest.raises(ConfigError, match="reward=nope: there is none of this name"):
        video_r2_rewards("nope")
    with pytest.raises(ConfigError, match=r"consistency\.reader: found judge"):
        video_r2_rewards(overrides=["reward.consistency.reader=judge"])


def mean_of(name: str) -> str:
    """What TRL calls a reward function's mean."""
    return f"rewards/{name}/mean"


@pytest.mark.slow
def test_trls_trainer_does_a_step_with_it(tmp_path: Path) -> None:
    """The documented example, then one function a term; the figures are worked by hand from the program's SAID."""
    python = os.environ.get("TRL_PYTHON")
    if python is None:
        pytest.skip("TRL_PYTHON names no interpreter with trl; `make test` makes one and sets it")
    example = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8"), re.S)[
        0
    ]
    (tmp_path / "example.py").write_text(example)
    program = ROOT / "tests" / "videor2_rl" / "integrations" / "programs" / "trl_step.py"
    done = subprocess.run(
        [python, str(program), str(tmp_path), str(tmp_path / "example.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    logged = json.loads(done.stdout.splitlines()[-1])
    example_run, terms = logged["block"], logged["terms"]
    # 3: all right; 1: another answer than the conclusion; 2: six seconds late; 0: no blocks.
    assert example_run["reward"] == example_run[mean_of("video_r2")] == 1.5
    assert example_run["video_r2/accuracy"] == 0.5 and example_run["video_r2/tar_f1"] == 0.5
    assert example_run["grad_norm"] > 0
    # 1 more each for a term of weight 2 and value 0.5, which fails on the last: 4, 2 and 3 are left.
    assert (terms["reward"], terms["reward_std"]) == (3.0, 1.0)
    assert terms[mean_of("accuracy")] == pytest.approx(2 / 3)
    assert terms[mean_of("temporal_alignment")] == pytest.approx(1 / 3)
    assert terms[mean_of("rated")] == 0.5
