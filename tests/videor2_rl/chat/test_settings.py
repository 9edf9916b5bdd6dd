"""A checkpoint is asked as it was trained, and what is none says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from asked_clips import DEMO

from videor2_rl.app import compose_run
from videor2_rl.chat.settings import chat_run, find_checkpoint
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun, SftRun
from videor2_rl.demo.model import make_model
from videor2_rl.run.folder import write_config

PATHS = ["model.path=m", "data.train_file=t", "data.media_dir=d", "model=demo", "cluster=cpu", "video=demo"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    make_model(folder, seed=0)
    return folder


@pytest.fixture
def run_dir(model: Path, tmp_path: Path) -> Path:
    """A finished run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hf").symlink_to(model)
    return tmp_path / "run"


def test_a_runs_checkpoint_is_asked_as_it_was_trained_and_overrides_come_on_top(run_dir: Path) -> None:
    values = ["model.instruction=Be brief.", "video.max_frames=6", "reward.accuracy.weight=3"]
    trained = compose_run("grpo", GrpoRun, ["experiment=demo", *values])
    write_config(run_dir, trained)
    for given in (run_dir, run_dir / "hf"):
        run, found = chat_run(given, ["video.fps=2"])
        assert found == run_dir
        assert (run.model.path, run.model.instruction) == (str(run_dir / "hf"), "Be brief.")
        assert (run.video.fps, run.video.max_frames) == (2.0, 6)
        assert run.rollout == trained.rollout and run.reward == trained.reward


def test_what_a_run_of_sft_does_not_say_is_chats_own_within_the_models_context(run_dir: Path) -> None:
    write_config(run_dir, compose_run("sft", SftRun, ["experiment=demo_sft"]))
    run, _ = chat_run(run_dir, [])
    assert (run.video.max_frames, run.rollout.max_response_tokens) == (16, 1024)
    assert run.rollout.max_model_tokens == 4096


def test_the_papers_own_reward_and_a_runs_own_judge_leave_the_rules_to_read(run_dir: Path) -> None:
    judge = ["judge=managed", "judge.model_path=j"]
    write_config(run_dir, compose_run("grpo", GrpoRun, ["reward=video_r2_official", "rollout=demo", *PATHS, *judge]))
    run, _ = chat_run(run_dir, [])
    assert (run.reward.rule, run.judge.kind) == ("video_r2", "rules")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["temperature=-1"], "temperature: found -1.0"),
        (["reward=video_r2_official"], "reward=video_r2"),
        (["reward.consistency.reader=judge"], "needs a judge, found judge=rules"),
        (["judge=managed", "judge.model_path=j"], "chat starts no server"),
        (["rollout.max_model_tokens=64"], "the prompt needs room too"),
        (["rollout.max_model_tokens=9000", "rollout.max_response_tokens=5000"], "has a context of 4096 tokens"),
        (["video.size_multiple=28", "video.fpss=1"], "did you mean video.fps"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(overrides: list[str], sentence: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        chat_run(model, [*DEMO, *overrides])


def test_a_checkpoint_that_is_none_says_what_to_do(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give the folder that holds config\.json"):
        chat_run(tmp_path / "nowhere", [])
    with pytest.raises(
        ConfigError, match=r"hf download Qwen/Qwen2\.5-VL-7B --local-dir models/Qwen2\.5-VL-7B, and give"
    ):
        chat_run(Path("Qwen/Qwen2.5-VL-7B"), [])
    write_config(run_dir, compose_run("sft", SftRun, ["experiment=demo_sft"]))
    (run_dir / "hf").unlink()
    (run_dir / "checkpoints" / "step_000010").mkdir(parents=True)
    for given in (run_dir, run_dir / "checkpoints" / "step_000010"):
        with pytest.raises(ConfigError, match=f"python -m videor2_rl.export {given} OUT"):
            find_checkpoint(given)
