"""A run's config.yaml is the configuration that the run had, and can be changed by overrides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.from_file import run_from_file, taken_out
from videor2_rl.config.runs import GrpoRun, SftRun
from videor2_rl.run.folder import CONFIG, write_config


@pytest.fixture
def run() -> GrpoRun:
    extra = "+reward.extra.own={function: rewards.terms.shaping.repetition, weight: 0.5, options: {ngram: 3}}"
    return compose_run(
        "grpo", GrpoRun, ["experiment=smoke", "learner.optimizer.name=SGD", "algorithm.importance_cap=null", extra]
    )


@pytest.fixture
def file(run: GrpoRun, tmp_path: Path) -> Path:
    write_config(tmp_path, run)
    return tmp_path / CONFIG


def test_the_file_alone_is_the_run(run: GrpoRun, file: Path) -> None:
    assert run_from_file(Composer("grpo"), GrpoRun, file, []) == run


def test_values_and_whole_sections_can_be_changed(run: GrpoRun, file: Path) -> None:
    overrides = ["rollout.temperature=0.5", "learner=deepspeed_zero2", "+learner.optimizer.options.momentum=0.9"]
    found = run_from_file(Composer("grpo"), GrpoRun, file, overrides)
    assert found.rollout == replace(run.rollout, temperature=0.5)
    whole = compose_run("grpo", GrpoRun, ["experiment=smoke", "learner=deepspeed_zero2"])
    assert (found.learner.backend, found.learner.num_ranks) == ("deepspeed_zero2", whole.learner.num_ranks)
    assert found.learner.optimizer.options == {"momentum": 0.9}
    assert found.reward == run.reward and found.algorithm == run.algorithm


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["rollout.temprature=1"], "rollout.temprature: .* has no such key; did you mean rollout.temperature"),
        (["nothing.like.it=1"], "nothing.like.it: .* has no such key"),
        (["learner=nope"], "learner=nope: there is none of this name"),
        (["experiment=demo"], "experiment=demo: an experiment is a whole run"),
        (["rollout.temperature=hot"], "rollout.temperature: found 'hot'"),
    ],
)
def test_a_wrong_override_is_one_sentence(file: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_from_file(Composer("grpo"), GrpoRun, file, overrides)


def test_a_file_of_another_app_or_of_no_app_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such key|required"):
        run_from_file(Composer("sft"), SftRun, file, [])
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for name, said in (("gone", "there is no file"), ("list.yaml", "no configuration"), ("broken.yaml", "no YAML")):
        with pytest.raises(ConfigError, match=said):
            run_from_file(Composer("grpo"), GrpoRun, tmp_path / name, [])


def test_the_option_is_taken_out_of_the_command_line() -> None:
    assert taken_out(["a=1", "--config", "f.yaml", "b=2"]) == (Path("f.yaml"), ["a=1", "b=2"])
    assert taken_out(["--config=f.yaml"]) == (Path("f.yaml"), [])
    assert taken_out(["--config-dir", "d", "a=1"]) == (None, ["--config-dir", "d", "a=1"])
    for words in (["--config"], ["--config="]):
        with pytest.raises(ConfigError, match="--config: has no value"):
            taken_out(words)
