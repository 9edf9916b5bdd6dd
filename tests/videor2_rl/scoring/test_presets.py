from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from rewards.types import OfficialConfig, VideoR2Config
from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun
from videor2_rl.scoring.presets import reward_config


def test_a_preset_is_what_a_run_gets_by_the_same_words() -> None:
    overrides = ["reward.temporal_alignment.buffer_seconds=1"]
    run = compose_run(
        "grpo", GrpoRun, ["model.path=m", "data.train_file=t", "data.media_dir=d", "reward=no_gate", *overrides]
    )
    assert reward_config("no_gate", overrides) == run.reward
    assert isinstance(reward_config(), VideoR2Config)
    assert isinstance(reward_config("video_r2_official"), OfficialConfig)


def test_a_preset_of_ones_own_lies_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    tmp_path = tmp_path / "what's (mine), really"
    (tmp_path / "reward").mkdir(parents=True)
    (tmp_path / "reward" / "half.yaml").write_text("defaults: [video_r2, _self_]\nformat: {weight: 0.5}\n")
    assert reward_config("half", config_dir=tmp_path).format.weight == 0.5
    with pytest.raises(ConfigError, match="there is no folder"):
        reward_config("half", config_dir=tmp_path / "none")
    (tmp_path / "other").mkdir()
    path = str(tmp_path / "other").replace("'", "\\'")
    assert reward_config("half", [f"hydra.searchpath=['file://{path}']"], config_dir=tmp_path).format.weight == 0.5


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("nope", [], "nope"),
        ("video_r2", ["reward.format.wait=1"], "wait"),
        ("video_r2", ["reward.format.weight=much"], "reward.format.weight: found 'much'"),
        ("video_r2", ["reward.temporal_alignment.beta=0"], "reward.temporal_alignment.beta: found 0.0"),
    ],
)
def test_what_is_wrong_is_one_sentence(preset: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        reward_config(preset, overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_hydra_app_that_asks_for_one_keeps_its_own_configuration() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        before = compose("score", overrides=["reward=no_tar"])
        assert reward_config("no_gate").temporal_alignment.weight == 1.0
        assert compose("score", overrides=["reward=no_tar"]) == before


def test_a_file_of_ones_own_is_an_absolute_path_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text("def one(reading):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    config = reward_config(overrides=["+reward.extra.one.function=own.py:one", "+reward.extra.one.weight=1"])
    assert isinstance(config, VideoR2Config)
    assert config.extra["one"].function == f"{tmp_path}/own.py:one"
    assert config.extra["one"].options == {}
