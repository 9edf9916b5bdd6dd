"""A step computed again is the logged one, and what differs is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from viewed_runs import make_record, same_words, with_failure, write_step

from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun
from videor2_rl.replay.__main__ import replay
from videor2_rl.replay.recompute import differences, replay_step, rollout_file
from videor2_rl.replay.tables import changes, summary
from videor2_rl.run.folder import write_config
from videor2_rl.scoring.similarity import SentenceEncoder
from workers.learner.replay import checkpoint_before


class Words:
    """Similarity by shared words, as the records of these tests were scored."""

    def encode(self, sentences: list[str]) -> None:
        return None

    similarity = staticmethod(same_words)


WORDS = cast(SentenceEncoder, Words())


@pytest.fixture(scope="module")
def grpo() -> GrpoRun:
    return compose_run("grpo", GrpoRun, ["experiment=smoke"])


@pytest.fixture
def run(grpo: GrpoRun) -> GrpoRun:
    """With the reward that the records were scored with."""
    from videor2_rl.scoring.presets import reward_config

    return replace(grpo, reward=reward_config())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    records = [make_record(n, seed=n, size=4, video="a.mp4") for n in range(3)]
    write_step(tmp_path, 7, records)
    return rollout_file(tmp_path, 7)


def changed(file: Path, change: Any) -> None:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    change(records)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_log_comes_out_as_it_was_written(file: Path, run: GrpoRun) -> None:
    groups = replay_step(file, run, WORDS)
    assert list(differences(groups)) == [] and changes(groups) == []


def test_the_first_value_that_differs_is_the_first_that_is_computed(file: Path, run: GrpoRun) -> None:
    def lie(records: list[Any]) -> None:
        records[2]["responses"][1]["reward"] = 99.0
        records[2]["responses"][1]["terms"]["accuracy"]["value"] = 0.5
        records[0]["responses"][0]["advantage"] = -7.0

    changed(file, lie)
    found = list(differences(replay_step(file, run, WORDS)))
    assert [one.name for one in found] == ["terms.accuracy.value", "reward", "advantage"]
    assert str(found[0]).startswith("group 2, response 2: terms.accuracy.value is ")
    assert str(found[0]).endswith("the log says 0.5")


def test_another_advantage_changes_what_the_formula_says(file: Path, run: GrpoRun) -> None:
    other = replace(run, algorithm=replace(run.algorithm, advantage="dr_grpo"))
    groups = replay_step(file, other, WORDS)
    for group in groups:
        rewards = np.array([response["reward"] for response in group.record["responses"]])
        assert group.advantages == pytest.approx(list(rewards - rewards.mean()), abs=1e-6)
    found = changes(groups)
    assert [change.size for change in found] == sorted((change.size for change in found), reverse=True)
    assert not any(change.is_turned for change in found)
    assert summary(groups, found).endswith("0 responses would be pushed the other way.")


def test_another_reward_changes_rewards_and_advantages(file: Path, run: GrpoRun) -> None:
    assert not isinstance(run.reward, type(None))
    reward: Any = run.reward
    other = replace(run, reward=replace(reward, accuracy=replace(reward.accuracy, weight=0.0)))
    for group in replay_step(file, other, WORDS):
        for response, score in zip(group.record["responses"], group.scored, strict=True):
            paid = response["reward"] - response["terms"]["accuracy"]["value"]
            assert score.reward == pytest.approx(paid)


def test_a_judge_s_failure_in_the_log_is_seen_where_rules_read_now(tmp_path: Path, run: GrpoRun) -> None:
    write_step(tmp_path, 1, [with_failure(make_record(1, seed=3, size=3, video="a.mp4"), 1)])
    found = list(differences(replay_step(rollout_file(tmp_path, 1), run, WORDS)))
    assert found[0].name == "terms.consistency.verdict" and found[0].logged == "failure"


def test_a_step_that_is_not_there_is_refused_with_those_that_are(file: Path) -> None:
    with pytest.raises(ConfigError, match="it has steps 7 to 7"):
        rollout_file(file.parent.parent, 8)
    with pytest.raises(ConfigError, match=r"logging\.rollouts=true"):
        rollout_file(file.parent, 1)


def test_only_reward_and_algorithm_are_overridden(file: Path, run: GrpoRun) -> None:
    write_config(file.parent.parent, run)
    for override in ("model.path=x", "seed=2"):
        with pytest.raises(ConfigError, match="under another reward or algorithm"):
            replay(file.parent.parent, [override], step=7, with_loss=False, rows=5)


def test_a_missing_checkpoint_is_refused_with_the_steps_that_can_be_made_again(tmp_path: Path) -> None:
    assert checkpoint_before(tmp_path, 1) is None
    for step in (10, 20):
        (tmp_path / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no checkpoint after step 3; can be made again: 1, 11, 21"):
        checkpoint_before(tmp_path, 4)
