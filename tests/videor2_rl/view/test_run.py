"""A run's folder read while it grows."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from viewed_runs import append_metrics, make_record, write_config, write_step

from videor2_rl.config.errors import ConfigError
from videor2_rl.view.advice import advice
from videor2_rl.view.pages import curves_of, series_of
from videor2_rl.view.run import MetricsTail, RunFolder, is_held, names_of, open_runs


def test_a_row_is_read_when_its_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.rows() == []
    path.write_text('{"step": 1, "a": 2}\n{"step": 2,')
    assert tail.rows() == [{"step": 1, "a": 2}]
    with path.open("a") as file:
        file.write(' "a": 3}\n')
    assert [row["step"] for row in tail.rows()] == [1, 2]


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)))
    assert len(tail.rows()) == 5
    other = tmp_path / "other"
    other.write_text(json.dumps({"step": 1, "again": True}) + "\n")
    other.replace(path)
    assert tail.rows() == [{"step": 1, "again": True}]


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("[1]\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl has a line that is no row"):
        MetricsTail(tmp_path / "metrics.jsonl").rows()


def test_who_looks_at_a_lock_takes_none(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert not is_held(lock)
    lock.write_text("process 1")
    assert not is_held(lock)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert is_held(lock)
    assert not is_held(lock)


def test_a_run_is_finished_running_or_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_metrics(tmp_path, 1)
    run = RunFolder(tmp_path, "run")
    assert run.status() == "running"
    monkeypatch.setattr("videor2_rl.view.run._RECENT_S", -1.0)
    assert run.status() == "stopped"
    (tmp_path / "finished").touch()
    assert run.status() == "finished"


def test_a_demo_is_its_stages_and_a_sweep_its_runs(tmp_path: Path) -> None:
    for name in ("demo/sft", "demo/grpo", "sweep/reward=a", "sweep/reward=b"):
        write_config(tmp_path / name, media_dir=tmp_path, num_steps=2)
        append_metrics(tmp_path / name, 1)
    assert [run.name for run in open_runs([tmp_path / "demo"], media=[])] == ["grpo", "sft"]
    assert sorted(run.name for run in open_runs([tmp_path / "sweep"], media=[])) == ["reward=a", "reward=b"]
    assert names_of([tmp_path / "x/grpo", tmp_path / "y/grpo"]) == ["x/grpo", "y/grpo"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds neither"):
        open_runs([tmp_path / "empty"], media=[])


def test_series_come_from_a_step_on_and_curves_are_those_with_numbers(tmp_path: Path) -> None:
    for step in range(1, 6):
        append_metrics(tmp_path, step)
    run = RunFolder(tmp_path, "run")
    found = series_of(run, ["actor/kl", "nosuch", "phase/generate"], after=3)
    assert found["steps"] == [4, 5]
    assert found["values"]["nosuch"] == [None, None]
    assert found["values"]["phase/generate"] == [1.0, 1.0]
    titles = {curve["title"] for curve in curves_of([run])}
    assert {"Reward", "Staleness", "Time per step, by phase"} <= titles
    assert "Loss" not in titles


def test_advice_counts_the_groups_that_its_link_shows(tmp_path: Path) -> None:
    write_config(tmp_path, media_dir=tmp_path, num_steps=2)
    answer = "<think>So it is red (A).</think><answer>A</answer>"
    write_step(tmp_path, 1, [make_record(n, seed=n, size=2, video="a.mp4", texts=[answer] * 2) for n in range(3)])
    run = RunFolder(tmp_path, "run")
    with run.index() as index:
        [equal] = [one for one in advice(run.metrics(), run.settings, index) if one["filter"] == "all_equal"]
    assert equal["text"].startswith("3 of 3 groups earned the same") and equal["level"] == "warn"
    gap = {"algorithm": {"max_log_prob_gap_tail": 1e-6}}
    assert advice(run.metrics(), gap, None)[0]["level"] == "bad"
