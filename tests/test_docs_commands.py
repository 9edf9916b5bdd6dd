"""Commands in documents: each is read by the program that it names, and those that are small are run as written."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomllib

from videor2_rl.app import compose_run
from videor2_rl.config.command_line import hydra_arguments
from videor2_rl.config.composing import Composer
from videor2_rl.config.from_file import run_from_file, taken_out
from videor2_rl.config.loading import load
from videor2_rl.config.overrides import composed, resolved
from videor2_rl.config.sections import EvaluateRun, GrpoRun, LogsRun, ScoreRun, SftRun
from videor2_rl.run.folder import write_config

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/*.md", "*/README.md", "rewards/**/*.md")
DOCUMENTS = sorted({document for pattern in PATTERNS for document in ROOT.glob(pattern)})
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
DATA = {
    "grpo": ("data.train_file", "data.media_dir"),
    "sft": ("data.train_file", "data.media_dir"),
    "evaluate": ("data.validation_file", "data.media_dir"),
    "probe": ("data.validation_file", "data.media_dir"),
}
HYDRA: dict[str, Any] = {"grpo": GrpoRun, "sft": SftRun, "evaluate": EvaluateRun, "probe": EvaluateRun}
START = re.compile(r"^(?: {4}|\$ )?((?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:python|videor2-[a-z-]+|make|ray)\b .*)$")


class Command(NamedTuple):
    where: str
    text: str

    @property
    def words(self) -> list[str]:
        """Without variables before it, and with the module in place of a console script."""
        words = shlex.split(self.text, comments=True)
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        words[0] = words[0].removeprefix(".venv/bin/")
        if words[0] in SCRIPTS:
            module = SCRIPTS[words[0]].partition(":")[0].removesuffix(".__main__")
            words[:1] = ["python", "-m", module]
        return words


def commands() -> list[Command]:
    """Every line of a code block that begins like a command, with the lines that it goes on over."""
    found = []
    for document in DOCUMENTS:
        lines = document.read_text(encoding="utf-8").splitlines()
        fenced = False
        for number, line in enumerate(lines, start=1):
            fenced ^= line.startswith("```")
            match = START.match(line)
            if match is None or not (fenced or line.startswith("    ")):
                continue
            text, last = match[1], number
            while text.endswith("\\"):
                text = f"{text[:-1].rstrip()} {lines[last].strip()}"
                last += 1
            found.append(Command(f"{document.relative_to(ROOT)}:{number}", text))
    return found


COMMANDS = commands()
OURS = [one for one in COMMANDS if one.words[:2] == ["python", "-m"] and one.words[2].startswith("videor2_rl.")]


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


@pytest.mark.slow
@pytest.mark.ray
def test_the_small_commands_of_the_readme_run_as_they_are_written(tmp_path: Path) -> None:
    """In an empty folder, one after the other; the demo's runs are small ones of the same layout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(text: str) -> str:
        done = subprocess.run(
            text, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    sizes = "--base-clips=1 --sft-clips=1 --grpo-clips=8 --heldout-clips=2 --validation-clips=1"
    run(f"python -m videor2_rl.make_demo --output outputs/demo_data {sizes}")
    run("python -m videor2_rl.grpo experiment=smoke output_dir=outputs/demo/grpo")
    written = {one.text for one in OURS if one.where.startswith("README.md")}
    small = [
        f"videor2_rl.{name}" for name in ("score", "preview", "convert", "export", "doctor", "report outputs/demo")
    ]
    ran = sorted(text for text in written if any(name in text for name in small))
    assert len(ran) == len(small)
    # The doctor's demo model is the one that SFT would leave.
    (tmp_path / "outputs/demo/sft").mkdir()
    (tmp_path / "outputs/demo/sft/hf").symlink_to(tmp_path / "outputs/demo_data/model")
    for text in ran:
        run(text)
    for left in ("preview.html", "rows.parquet", "scores.jsonl", "exported/model.safetensors"):
        assert (tmp_path / left).exists(), left
