"""A reward's configuration by its name, without a model or a run: for `score`, and for whoever uses this as a library.

from videor2_rl.scoring.presets import reward_config

config = reward_config("video_r2", ["reward.temporal_alignment.buffer_seconds=1"])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rewards.types import RewardConfig
from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.loading import load
from videor2_rl.config.overrides import composed, resolved
from videor2_rl.config.runs import ScoreRun
from videor2_rl.run.folder import CONFIG

_OF_THE_RUN = "of_the_run"
"""Name of the choice that `reward=` gets for a run's own reward."""


def reward_config(
    preset: str = "video_r2", overrides: Sequence[str] = (), *, config_dir: str | Path | None = None
) -> RewardConfig:
    """The reward `conf/reward/<preset>.yaml`.

    Args:
        preset: video_r2, video_r2_official, no_gate, no_tar, shaped, or a file in `config_dir`/reward/.
        overrides: as on the command line: `reward.temporal_alignment.buffer_seconds=1`.
        config_dir: a folder with groups of your own, as `--config-dir` takes it.

    Raises:
        ConfigError: there is no such preset or key, or a value cannot be used.
    """
    folder = None if config_dir is None else Path(config_dir)
    return score_run([f"reward={preset}", *overrides], config_dir=folder).reward


def score_run(overrides: Sequence[str], *, config_dir: Path | None = None, run_dir: Path | None = None) -> ScoreRun:
    """What `python -m videor2_rl.score` is told by its command line.

    Args:
        run_dir: a run's folder, from whose own reward the overrides begin; an override `reward=NAME` goes before it.

    Raises:
        ConfigError: an override is wrong, or a value cannot be used.
    """
    if run_dir is not None and not chooses_reward(overrides):
        _store_reward_of(run_dir)
        overrides = [f"reward={_OF_THE_RUN}", *overrides]
    composer = Composer("score", config_dir=None if config_dir is None else str(config_dir))
    return load(ScoreRun, resolved(composed(composer, ScoreRun, overrides), ScoreRun))


def chooses_reward(overrides: Sequence[str]) -> bool:
    """Whether a preset is named."""
    return any(override.split("=")[0].lstrip("+") == "reward" for override in overrides)


def _store_reward_of(run_dir: Path) -> None:
    """Make the reward in a run's config.yaml a choice of Hydra's group `reward`.

    Raises:
        ConfigError: the file cannot be read or holds no reward.
    """
    import yaml
    from hydra.core.config_store import ConfigStore

    path = run_dir / CONFIG
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); name a preset with reward=NAME") from None
    reward = tree.get("reward") if isinstance(tree, dict) else None
    if not isinstance(reward, dict):
        raise ConfigError(f"{path} holds no reward; name a preset with reward=NAME")
    ConfigStore.instance().store(group="reward", name=_OF_THE_RUN, node=reward)
