"""Runs against the first of them: the table's numbers, what is paired, and the command."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.summary import unpaired_difference
from videor2_rl.report.__main__ import print_comparison
from videor2_rl.report.folders import kind_of, members_of
from videor2_rl.report.runs import differing, read_members
from videor2_rl.report.sweep import compare, compare_runs, terminal_table

STEPS, PROMPTS, RESPONSES = 31, 6, 4


def write_run(folder: Path, *, skill: float, prompts: int = 0, with_logs: bool = True, **settings: Any) -> Path:
    """A run of invented rollouts; `prompts` is the number of its first prompt in each step."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"output_dir": str(folder), "seed": 0, **settings}))
    rows = []
    for step in range(1, STEPS + 1):
        noise = random.Random(f"{skill} {step} {prompts}")
        groups: list[dict[str, Any]] = []
        for number in range(prompts, prompts + PROMPTS):
            responses: list[dict[str, Any]] = []
            for _ in range(RESPONSES):
                accuracy = float(noise.random() < skill)
                tac = None if noise.random() < 0.1 else float(noise.random() < skill)
                metrics = {"accuracy": accuracy, "tac": tac, "format": 1.0}
                metrics |= dict.fromkeys(("tar_precision", "tar_recall", "tar_f1"), noise.random())
                terms = {"brevity": {"verdict": "score", "value": skill / 2, "detail": {}}}
                responses.append(
                    {
                        "reward": accuracy + 1,
                        "metrics": metrics,
                        "terms": terms,
                        "token_ids": [1] * noise.randrange(3, 9),
                    }
                )
            groups.append({"sample_id": f"p{step}-{number}", "responses": responses})
        if with_logs:
            (folder / "rollouts").mkdir(exist_ok=True)
            path = folder / "rollouts" / f"step_{step:06d}.jsonl"
            path.write_text("".join(json.dumps(group) + "\n" for group in groups))
        every = [response for group in groups for response in group["responses"]]
        accuracies = [response["metrics"]["accuracy"] for response in every]
        row = {
            "step": step,
            "reward/accuracy": float(np.mean(accuracies)),
            "reward/mean": float(np.mean(accuracies)) + 1,
        }
        rows.append({**row, "reward/brevity": skill / 2, "reward/brevity_abstention_frac": 0.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "ablation"
    alignment = {"temporal_alignment": {"weight": 1.0}}
    write_run(folder / "reward=video_r2", skill=0.8, reward=alignment)
    write_run(folder / "reward=no_tar", skill=0.6, reward={"temporal_alignment": {"weight": 0.0}})
    # The order of the jobs, which is not that of their names.
    os.utime(folder / "reward=video_r2" / "config.yaml", (1000, 1000))
    return folder


def values_of(run: Path, read: Callable[[dict[str, Any]], float | None], steps: range) -> dict[str, float]:
    """Prompt -> mean over its responses that have a value, read anew from the files."""
    means = {}
    for step in steps:
        for line in (run / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines():
            group = json.loads(line)
            values = [value for response in group["responses"] if (value := read(response)) is not None]
            if values:
                means[group["sample_id"]] = float(np.mean(values))
    return means


def test_the_tables_numbers_are_those_of_the_last_steps_paired_by_prompt(sweep: Path) -> None:
    members = read_members(members_of(sweep))
    assert [member.name for member in members] == ["reward=video_r2", "reward=no_tar"]
    numbers = compare(members).numbers["runs"]["reward=no_tar"]["metrics"]
    # 10 of 31 steps.
    window = range(22, 32)
    for metric, read in (
        ("accuracy", lambda response: response["metrics"]["accuracy"]),
        ("tac", lambda response: response["metrics"]["tac"]),
        ("reward", lambda response: response["reward"]),
        ("response_tokens", lambda response: float(len(response["token_ids"]))),
    ):
        one, other = (values_of(sweep / f"reward={name}", read, window) for name in ("video_r2", "no_tar"))
        assert numbers[metric]["mean"]["mean"] == pytest.approx(np.mean(list(other.values())))
        pairs = [other[key] - one[key] for key in one if key in other]
        found = numbers[metric]["difference"]
        assert found["is_paired"] and found["num_scored"] == len(pairs)
        assert found["mean"] == pytest.approx(np.mean(pairs))
        # The bootstrap of a mean of about 60 differences is near the normal approximation.
        half = 1.96 * np.std(pairs) / np.sqrt(len(pairs))
        assert found["low"] == pytest.approx(np.mean(pairs) - half, abs=0.15 * half)
        assert found["high"] == pytest.approx(np.mean(pairs) + half, abs=0.15 * half)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["s/seed=0,reward=a", "s/seed=0,reward=b"], ["reward=a", "reward=b"]),
        (["s/lr=1,reward=a", "s/lr=2,reward=a"], ["lr=1", "lr=2"]),
        (["s/probes=[a,b],x=1", "s/probes=[a,b],x=2"], ["x=1", "x=2"]),
        (["one/grpo", "two/grpo"], ["one/grpo", "two/grpo"]),
        (["one/grpo"], ["grpo"]),
    ],
)
def test_a_run_is_named_by_what_tells_it_from_the_others(folders: list[str], names: list[str], tmp_path: Path) -> None:
    for folder in folders:
        write_run(tmp_path / folder, skill=0.5, with_logs=False)
    assert [member.name for member in read_members([tmp_path / folder for folder in folders])] == names


def test_what_differs_stands_in_columns_and_own_terms_too(sweep: Path) -> None:
    members = read_members(members_of(sweep))
    assert differing(members) == {"reward.temporal_alignment.weight": (1.0, 0.0)}
    grid = compare(members).grid
    assert grid.header[:3] == ("Run", "temporal_alignment.weight", "steps")
    assert [[cell.mean for cell in row[:3]] for row in grid.rows] == [
        ["reward=video_r2", "1.0", "31"],
        ["reward=no_tar", "0.0", "31"],
    ]
    brevity = grid.header.index("brevity")
    assert [row[brevity].mean for row in grid.rows] == ["0.400", "0.300"]
    accuracy = grid.rows[1][grid.header.index("Accuracy")]
    assert accuracy.note == "down" and accuracy.interval.startswith("-0.")
    # A run's name tells its settings, so the terminal leaves them out.
    assert "temporal_alignment.weight" not in [column.header for column in terminal_table(grid).columns]


def test_a_sweep_gets_a_page_markdown_and_json(sweep: Path) -> None:
    assert kind_of(sweep) == "sweep"
    done = subprocess.run(
        [sys.executable, "-m", "videor2_rl.report", str(sweep)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        "reward=no_tar" in done.stdout and "paired over the 60 prompts that both saw in steps 22 to 31" in done.stdout
    )
    assert "The rewards differ in what they pay" in done.stdout
    page = (sweep / "comparison.html").read_text()
    assert "<script" not in page and 'aria-label="Accuracy"' in page and "What differs" in page
    markdown = (sweep / "comparison.md").read_text()
    assert "| reward.temporal_alignment.weight | 1.0 | 0.0 |" in markdown
    numbers = json.loads((sweep / "comparison.json").read_text())
    assert f"{numbers['runs']['reward=no_tar']['metrics']['accuracy']['mean']['mean']:.3f}" in markdown


def test_other_prompts_are_not_paired_and_that_is_said(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", skill=0.8), write_run(tmp_path / "b", skill=0.6, prompts=100)
    compared = compare(read_members([a, b]))
    found = compared.numbers["runs"]["b"]["metrics"]["accuracy"]["difference"]
    assert not found["is_paired"] and found["num_scored"] == 120
    assert "b: unpaired, over the prompts of steps 22 to 31: the two saw different ones." in compared.notes


def test_without_rollout_logs_the_steps_are_compared_unpaired(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", skill=0.8, with_logs=False)
    b = write_run(tmp_path / "b", skill=0.6)
    compared = compare(read_members([b, a]))
    entry = compared.numbers["runs"]["a"]["metrics"]["accuracy"]
    rows = [json.loads(line) for line in (a / "metrics.jsonl").read_text().splitlines()]
    assert entry["mean"]["mean"] == pytest.approx(np.mean([row["reward/accuracy"] for row in rows[-10:]]))
    assert not entry["difference"]["is_paired"]
    assert any("without rollout logs" in note for note in compared.notes)


def test_unpaired_intervals_have_the_width_of_two_independent_means() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(0, 1, 400), rng.normal(0.5, 2, 100)
    found = unpaired_difference([*before.tolist(), None], after.tolist(), resamples=4000, seed=0)
    assert found.mean == pytest.approx(after.mean() - before.mean()) and found.num_unscored == 1
    half = 1.96 * np.sqrt(before.var() / 400 + after.var() / 100)
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)
    assert unpaired_difference([None], [1.0], resamples=10, seed=0).mean is None


def test_held_out_evaluations_of_runs_are_paired_by_sample(sweep: Path, pristine_demo_folder: Path) -> None:
    for name, stage in (("video_r2", "grpo"), ("no_tar", "sft")):
        source = pristine_demo_folder / "evaluation" / stage / "greedy"
        shutil.copytree(source, sweep / f"reward={name}" / "evaluation" / "step_000031" / "greedy")
    compared = compare(read_members(members_of(sweep)))
    scores = {}
    for stage in ("sft", "grpo"):
        lines = (pristine_demo_folder / "evaluation" / stage / "greedy" / "samples.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        scores[stage] = np.array([row["videor2_score"]["accuracy"] for row in rows])
    found = compared.numbers["runs"]["reward=no_tar"]["metrics"]["held-out, greedy: accuracy"]["difference"]
    assert found["is_paired"] and found["mean"] == pytest.approx((scores["sft"] - scores["grpo"]).mean())


def test_several_evaluations_are_set_against_the_first(pristine_demo_folder: Path, tmp_path: Path) -> None:
    folders = [pristine_demo_folder / "evaluation" / stage / "greedy" for stage in ("base", "sft", "grpo")]
    page = compare_runs(folders, out=tmp_path, console=Console(quiet=True))
    assert page == tmp_path / "comparison.html"
    numbers = json.loads((tmp_path / "comparison.json").read_text())["runs"]
    assert list(numbers) == ["base/greedy", "sft/greedy", "grpo/greedy"]
    assert numbers["sft/greedy"]["metrics"]["accuracy"]["difference"]["is_paired"]
    assert compare_runs(folders, out=None, console=Console(quiet=True)) is None


def test_two_output_folders_of_evaluate_are_compared_and_written_as_json(
    pristine_demo_folder: Path, tmp_path: Path
) -> None:
    for name, stage in (("a", "sft"), ("b", "grpo")):
        source = pristine_demo_folder / "evaluation" / stage / "greedy"
        shutil.copytree(source, tmp_path / name / "evaluation" / "model" / "greedy")
    print_comparison([tmp_path / "a", tmp_path / "b"], out=None, json_file=tmp_path / "c.json")
    found = json.loads((tmp_path / "c.json").read_text())["runs"]["b"]["metrics"]["model/greedy: accuracy"]
    assert found["difference"]["is_paired"] and found["difference"]["num_scored"] == 64


def test_a_folder_that_cannot_be_written_is_one_sentence(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "videor2_rl.report", str(sweep), "-o", str(tmp_path / "file" / "below")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_runs_and_evaluations_are_not_mixed_and_a_run_without_steps_is_named(
    sweep: Path, pristine_demo_folder: Path, tmp_path: Path
) -> None:
    run = sweep / "reward=no_tar"
    with pytest.raises(ConfigError, match="compare runs with runs"):
        read_members([run, pristine_demo_folder / "evaluation" / "sft" / "greedy"])
    with pytest.raises(ConfigError, match="no run to compare"):
        compare_runs([], out=None, console=Console(quiet=True))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    assert "begun: no step yet." in compare(read_members([run, tmp_path / "begun"])).notes
