"""What a user mistypes: one sentence with the mend, exit code 2, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from videor2_rl import evaluate, grpo, probe, score, sft
from videor2_rl.app import compose_run
from videor2_rl.config.command_line import version_text
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.loading import nearest
from videor2_rl.config.runs import EvaluateRun, GrpoRun, LogsRun, ScoreRun, SftRun

ROOT = Path(__file__).parents[1]
TYPES = {"grpo": GrpoRun, "sft": SftRun, "evaluate": EvaluateRun, "score": ScoreRun, "evaluate_logs": LogsRun}
MAINS: dict[str, Callable[[], None]] = {
    "grpo": grpo.main,
    "sft": sft.main,
    "evaluate": evaluate.main,
    "probe": probe.main,
    "score": score.main,
}


def command(app: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """The app's exit code, run in this process within `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [app, *arguments])
    try:
        MAINS[app]()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0
    return 0


def sentence(app: str, overrides: Sequence[str]) -> str:
    with pytest.raises(ConfigError) as error:
        compose_run(app, TYPES[app], list(overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("app", "overrides", "expected"),
    [
        ("grpo", ["experiment=nope"], "experiment=nope: there is none of this name; choose demo, grpo_7b_1node,"),
        ("grpo", ["experiment=demoo"], "experiment=demoo: there is none of this name; did you mean demo?"),
        ("sft", ["experiment=nope"], "choose demo_base, demo_sft, video_r2_7b_sft"),
        ("evaluate", ["experiment=nope"], "choose demo_evaluate"),
        ("grpo", ["reward=nope"], "reward=nope: there is none of this name; choose no_gate, no_tar, shaped, video_r2"),
        ("grpo", ["learner=deepspeed"], "learner=deepspeed: there is none of this name; choose deepspeed_zero1"),
        ("grpo", ["algorithm=ppo"], "algorithm=ppo: there is none of this name; choose bnpo"),
        ("score", ["reward=nope"], "reward=nope: there is none of this name"),
        ("grpo", ["experiment="], "experiment=: names no choice; leave it away, or give experiment=NAME"),
        ("grpo", ["experiment=demo_sft"], "is an experiment of sft (python -m videor2_rl.sft experiment=demo_sft)"),
        ("sft", ["experiment=demo"], "is an experiment of grpo (python -m videor2_rl.grpo experiment=demo); choose"),
        ("evaluate", ["experiment=smoke"], "is an experiment of grpo"),
        ("score", ["experiment=demo"], "experiment=demo: score has no choice of experiment; it has reward=NAME"),
        ("sft", ["reward=no_tar"], "reward=no_tar: sft has no choice of reward; it has model=NAME"),
        ("evaluate_logs", ["logs=x", "reward=no_tar"], "evaluate logs=DIR has no choice of reward; it has judge=NAME"),
        (
            "evaluate_logs",
            ["logs=x", "video.fps=3"],
            "no key video.fps; see python -m videor2_rl.evaluate logs=DIR --help",
        ),
        (
            "grpo",
            ["reward.temporal_alignment.buffer=1"],
            "no key reward.temporal_alignment.buffer; did you mean reward.temporal_alignment.buffer_seconds?",
        ),
        ("grpo", ["learner.optimizer.options.momentum=0.9"], "add it as +learner.optimizer.options.momentum=0.9"),
        ("grpo", ["num_steps=3"], "there is no key num_steps; did you mean algorithm.num_steps?"),
        ("grpo", ["+rollout.num_workers=3"], "there is a key rollout.num_workers already; give it without the +"),
        ("grpo", ["~rollout.workers"], "there is no key rollout.workers to take out"),
        (
            "grpo",
            ["algorithm.group_size", "4"],
            "algorithm.group_size: has no value, expected KEY=VALUE; did you mean ",
        ),
        ("grpo", ["algorithm.group_size", "4"], "did you mean algorithm.group_size=4?"),
        ("grpo", ["model.path=a=b"], "model.path=a=b: cannot be read (mismatched input '=' expecting <EOF>)"),
        ("grpo", ["model.path=a=b"], """is written 'model.path="a=b"'"""),
        ("grpo", ["reward=no_tar,no_gate"], "several values need -m, which makes a run of each"),
        ("grpo", ["hydra.run.dir=x"], "hydra.run.dir: has no effect here; a run's folder is output_dir=FOLDER"),
        (
            "grpo",
            ["experiment=demo", "logging.trackers=tensorboard"],
            "logging.trackers: found 'tensorboard', expected a list; give logging.trackers=[tensorboard]",
        ),
        ("grpo", ["experiment=demo", "output_dir="], "output_dir: is empty; give output_dir=FOLDER"),
        ("evaluate", [], "model.path, data.validation_file and data.media_dir are required and have no value"),
        ("evaluate", ["model.path=m"], "data.validation_file and data.media_dir are required and have no value"),
        ("grpo", [], "model.path, data.train_file and data.media_dir are required and have no value; give them as"),
        ("sft", ["model.path=m", "data.media_dir=d"], "data.train_file is required and has no value; give it as"),
        ("evaluate_logs", [], "logs is required and has no value; give it as logs=VALUE"),
    ],
)
def test_a_mistake_in_an_override_is_one_sentence(app: str, overrides: list[str], expected: str) -> None:
    assert expected in sentence(app, overrides)


def test_keys_are_suggested_from_the_same_section_by_their_beginning_first() -> None:
    known = ["a", "a.beta", "a.buffer_seconds", "b", "b.buffer", "b.steps", "c", "c.steps"]
    assert nearest("a.buffer", known) == "a.buffer_seconds"
    assert nearest("a.bta", known) == "a.beta"
    assert nearest("buffer", known) == "b.buffer"
    assert nearest("c.step", known) == "c.steps"
    assert nearest("x.qqqqqq", known) is None


def test_a_users_own_experiments_are_sorted_by_what_they_choose_and_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "mine_grpo": "# @package _global_\ndefaults:\n  - demo\nalgorithm:\n  num_steps: 3\n",
        "mine_sft": "# @package _global_\nsft:\n  num_steps: 3\n",
        "mine_evaluate": "# @package _global_\nevaluation:\n  modes: [greedy]\n",
        "mine_any": "# @package _global_\nmodel:\n  path: m\n",
        "local": "algorithm:\n  num_steps: 3\n",
        "wrong": "# @package _global_\nalgoritm:\n  num_steps: 3\n",
    }
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "my" / "experiment" / f"{name}.yaml").write_text(text)

    def run(app: str, *arguments: str) -> tuple[int, str]:
        code = command(app, "--config-dir", "my", *arguments, monkeypatch=monkeypatch, folder=tmp_path)
        output = capsys.readouterr()
        return code, output.out + output.err

    code, text = run("grpo", "--help")
    assert code == 0
    [offered] = [line for line in text.splitlines() if line.startswith("experiment: ")]
    assert {"demo", "mine_grpo", "mine_any"} <= set(offered[12:].split(", "))
    assert not {"mine_sft", "mine_evaluate", "demo_sft", "demo_evaluate"} & set(offered[12:].split(", "))
    code, text = run("grpo", "experiment=mine_sft")
    assert code == 2 and "experiment=mine_sft: is an experiment of sft" in text
    code, text = run("evaluate", "experiment=mine_sft")
    assert code == 2 and "is an experiment of sft" in text
    code, text = run("grpo", "experiment=local")
    assert code == 2 and "its first line has to be # @package _global_" in text
    paths = ["model.path=m", "data.train_file=t", "data.media_dir=d"]
    code, text = run("grpo", "experiment=wrong", *paths)
    assert code == 2 and "algoritm: no such key; did you mean algorithm?" in text
    code, text = run("grpo", "experiment=mine_grpo", "model.path=/nowhere")
    assert code == 2 and "model.path: there is no folder /nowhere" in text


def test_a_config_dir_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("grpo", "--config-dir", "nope", monkeypatch=monkeypatch, folder=tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: --config-dir: there is no folder nope; give the one that holds")


@pytest.mark.parametrize("app", ["grpo", "sft", "evaluate", "probe"])
def test_refused_commands_leave_nothing(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = {"sft": "demo_base", "grpo": "demo"}.get(app, "demo_evaluate")
    for arguments in (
        ["experiment=nope"],
        [f"experiment={experiment}", "seed=x"],
        [f"experiment={experiment}", "model.path=/nowhere"],
        ["-m", f"experiment={experiment}", "seed=1,x", "output_dir=sweep"],
        ["-m", f"experiment={experiment}", "seed=1,2", "output_dir=sweep"],
        ["--gpu_gib", "80", f"experiment={experiment}"],
        ["--confg-dir=x"],
    ):
        assert command(app, *arguments, monkeypatch=monkeypatch, folder=tmp_path) == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()
        # In a sweep the run that is at fault is told before.
        assert error[-1].startswith("error: ") and len(error) == (2 if "seed=1,2" in arguments else 1), error
        assert not list(tmp_path.iterdir()), arguments


def test_options_and_overrides_stand_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["experiment=demo", "-m", "algorithm.group_size=4,1"]
    assert command("grpo", *arguments, monkeypatch=monkeypatch, folder=tmp_path) == 2
    assert "error: run 2 of 2 (algorithm.group_size=1): configuration: algorithm.group_size" in capsys.readouterr().err
    assert command("grpo", "--gpu_gib", "80", monkeypatch=monkeypatch, folder=tmp_path) == 2
    assert capsys.readouterr().err == "error: there is no option --gpu_gib\n"
    assert command("grpo", "--config-dr=x", monkeypatch=monkeypatch, folder=tmp_path) == 2
    assert "did you mean --config-dir?" in capsys.readouterr().err


@pytest.mark.parametrize("app", ["grpo", "sft", "evaluate", "probe", "score"])
def test_every_app_tells_its_version(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(app, "--version", monkeypatch=monkeypatch, folder=tmp_path) == 0
    assert capsys.readouterr().out == f"{version_text()}\n"
    assert version_text().startswith("videor2-rl ") and "torch" in version_text()


def test_the_help_of_probe_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for app in ("evaluate", "probe"):
        assert command(app, "--help", monkeypatch=monkeypatch, folder=tmp_path) == 0
        texts.append(capsys.readouterr().out)
    assert texts[1].startswith("python -m videor2_rl.probe: ") and "probes.jsonl" in texts[1].split("Choices")[0]
    assert texts[0].startswith("python -m videor2_rl.evaluate: ")
    assert all("experiment: demo_evaluate\n" in text and "algorithm:" not in text for text in texts)


def test_what_hydra_shows_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--cfg", "job", "--package", "algorithm", "experiment=demo"]
    assert command("grpo", *arguments, monkeypatch=monkeypatch, folder=tmp_path) == 0
    assert "num_steps: 30" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "name"), [("rewards.py", "rewards"), ("workers.py", "workers"), ("conf/__init__.py", "conf")]
)
def test_a_file_that_hides_one_of_our_packages_is_named(path: str, name: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
    done = subprocess.run(
        [sys.executable, "-m", "videor2_rl.grpo", "experiment=nope"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / path.split('/')[0]} hides this project's package {name};")
    assert len(done.stderr.splitlines()) == 1


def test_a_plain_folder_conf_beside_the_user_is_named_or_does_no_harm(tmp_path: Path) -> None:
    """An editable installation finds our packages after the path's plain folders; a path, or a wheel, before them."""
    (tmp_path / "conf").mkdir()
    program = (
        "import runpy, sys\n"
        "from importlib.util import spec_from_file_location\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name in ('conf', 'rewards', 'workers', 'videor2_rl'):\n"
        f"            return spec_from_file_location(name, f'{ROOT}/{{name}}/__init__.py')\n"
        f"sys.path = [place for place in sys.path if place != {str(ROOT)!r}]\n"
        "others = [finder for finder in sys.meta_path if not str(finder.__module__).startswith('__editable__')]\n"
        "sys.meta_path = [*others, Finder]\n"
        "sys.argv = ['-m', 'experiment=nope']\n"
        "runpy.run_module('videor2_rl.grpo', run_name='__main__', alter_sys=True)\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    editable = run("-c", program)
    assert editable.returncode == 2 and f"error: {tmp_path}/conf hides this project's package conf" in editable.stderr
    on_the_path = run("-m", "videor2_rl.grpo", "experiment=nope")
    assert on_the_path.returncode == 2 and "experiment=nope: there is none of this name" in on_the_path.stderr
