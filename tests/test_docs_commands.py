"""Commands in documents: each is read by the program that it names (tests/test_demo.py runs the small ones)."""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from documents import COMMANDS, OURS, ROOT, Command

from videor2_rl.app import compose_run
from videor2_rl.config.command_line import hydra_arguments
from videor2_rl.config.composing import Composer
from videor2_rl.config.from_file import run_from_file, taken_out
from videor2_rl.config.loading import load
from videor2_rl.config.overrides import composed, resolved
from videor2_rl.config.runs import EvaluateRun, GrpoRun, LogsRun, ScoreRun, SftRun
from videor2_rl.run.folder import write_config

DATA = {
    "grpo": ("data.train_file", "data.media_dir"),
    "sft": ("data.train_file", "data.media_dir"),
    "evaluate": ("data.validation_file", "data.media_dir"),
    "probe": ("data.validation_file", "data.media_dir"),
}
HYDRA: dict[str, Any] = {"grpo": GrpoRun, "sft": SftRun, "evaluate": EvaluateRun, "probe": EvaluateRun}


def overrides_of(words: list[str]) -> list[str]:
    """Hydra's, of a sweep its first run; values for what a user would fill in."""
    kept = [word for word in words if "=" in word and not word.startswith("--")]
    return [re.sub(r"^([\w./+]+=)([\w]+),[\w,]+$", r"\1\2", word) for word in kept]


class Taken(Exception):
    """A command line was understood."""


@pytest.fixture
def stop_after_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs end when they have read their command line; what they do not know is an error as always."""
    read = argparse.ArgumentParser.parse_known_args

    def parse_known(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        _, rest = read(self, args, namespace)
        unknown = [word for word in rest if word.startswith("-")]
        raise Taken if not unknown else AssertionError(unknown)

    def parse(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        _, rest = read(self, args, namespace)
        raise Taken if not rest else AssertionError(rest)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)


@pytest.fixture
def in_the_readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the files that the examples tell the reader to write, and a run that they go on from."""
    (tmp_path / "my_rewards.py").write_text("def brevity(reading, *, max_words=60):\n    return 0.5\n")
    (tmp_path / "my_conf" / "reward").mkdir(parents=True)
    (tmp_path / "my_conf" / "reward" / "brief.yaml").write_text(
        "defaults: [video_r2, _self_]\nonly_above_accuracy: {}\n"
    )
    run_dir = tmp_path / "outputs" / "demo" / "grpo"
    run_dir.mkdir(parents=True)
    write_config(run_dir, compose_run("grpo", GrpoRun, ["experiment=demo"]))
    monkeypatch.chdir(tmp_path)


def test_the_documents_hold_commands() -> None:
    assert len(OURS) > 40
    assert {one.where.split(":")[0] for one in OURS} >= {"README.md", "docs/evaluation.md", "rewards/README.md"}


def loaded(app: str, words: list[str]) -> Any:
    """The run that the command would begin, of a sweep its first, with values for what the reader would fill in."""
    file, rest = taken_out([word for word in words if "..." not in word])
    config_dir = hydra_arguments(rest).config_dir
    overrides = overrides_of(rest)
    if any(word.startswith("logs=") for word in overrides):
        return compose_run("evaluate_logs", LogsRun, overrides)
    composer, run_type = Composer("evaluate" if app == "probe" else app, config_dir=config_dir), HYDRA[app]
    if file is not None:
        return run_from_file(composer, run_type, file, overrides)
    given = {word.partition("=")[0] for word in overrides}
    has_its_own = {"demo", "demo_base", "demo_sft", "demo_evaluate", "smoke", "smoke_qwen3_vl"}
    if "evaluation.benchmark" not in given and not {f"experiment={name}" for name in has_its_own} & set(overrides):
        overrides += [f"{key}=x" for key in ("model.path", *DATA[app]) if key not in given]
    return load(run_type, resolved(composed(composer, run_type, overrides), run_type))


@pytest.mark.parametrize(
    "command", [one for one in OURS if one.words[2].split(".")[1] in HYDRA], ids=lambda one: one.where
)
@pytest.mark.usefixtures("in_the_readers_folder")
def test_a_hydra_app_would_take_it(command: Command) -> None:
    app = command.words[2].split(".")[1]
    assert isinstance(loaded(app, command.words[3:]), (HYDRA[app], LogsRun))


@pytest.mark.parametrize(
    "command", [one for one in OURS if one.words[2].split(".")[1] not in HYDRA], ids=lambda one: one.where
)
@pytest.mark.usefixtures("stop_after_reading")
def test_a_program_would_take_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    name = command.words[2]
    module = import_module(f"{name}.__main__" if (ROOT / name.replace(".", "/") / "__main__.py").exists() else name)
    monkeypatch.setattr(sys, "argv", command.words[2:])
    with pytest.raises(Taken):
        module.main()
    if name == "videor2_rl.score" and "--config-dir" not in command.words:
        compose_run("score", ScoreRun, overrides_of(command.words[3:]))


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.words[0] == "make"], ids=lambda one: one.where)
def test_a_make_target_exists(command: Command) -> None:
    targets = [word for word in command.words[1:] if "=" not in word and not word.startswith("-")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^(?:.* )?{target}\b.*:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "command",
    [one for one in COMMANDS if one.words[:2] == ["python", "-m"] and one.words[2].startswith("benchmarks.")],
    ids=lambda one: one.where,
)
def test_a_benchmark_exists(command: Command) -> None:
    assert (ROOT / (command.words[2].replace(".", "/") + ".py")).is_file()
