"""What surrounds the loop: checkpoints, evaluations, a judge that is away, signals, and what is logged."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from loop_fakes import Fakes, configure, run_loop

from rewards.types import Scored
from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum
from videor2_rl.run.stopping import Stopped
from videor2_rl.run.tracking import read_metrics
from videor2_rl.training.upkeep import mean_of
from videor2_rl.types import (
    Group,
    VideoSample,
)


def test_a_checkpoint_is_written_while_the_next_step_samples_and_scores(tmp_path: Path) -> None:
    fakes = Fakes()
    run = configure(tmp_path, "algorithm.num_steps=2", "checkpoint.every_steps=1", "algorithm.kl_coefficient=0")
    run_loop(run, fakes)
    steps = [call.split()[0] for call in fakes.calls]
    second = steps.index("save")
    during = ["prepare", "encode", "generate", "score"]
    assert steps[second:] == ["save", *during, "finish_save", "update", "sync", "save", "finish_save"]


def test_a_run_that_fails_while_a_checkpoint_is_written_completes_it(tmp_path: Path) -> None:
    class Failing(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 2:
                raise RuntimeError("reward worker lost")
            return super().score(groups, samples, step=step)

    with pytest.raises(RuntimeError, match="reward worker lost"):
        run_loop(configure(tmp_path), Failing())
    newest = Checkpoints(tmp_path, keep=2).newest()
    assert newest is not None and newest.step == 2


def test_a_write_that_fails_in_the_background_stops_the_run_before_the_next_update(tmp_path: Path) -> None:
    class FullDisk(Fakes):
        def finish_save(self) -> Mapping[str, FileSum]:
            raise OSError("no space left on device")

    fakes = FullDisk()
    with pytest.raises(OSError, match="no space left"):
        run_loop(configure(tmp_path), fakes)
    assert fakes.calls.count("update") == 2
    assert Checkpoints(tmp_path, keep=2).newest() is None


@pytest.mark.parametrize("killed_in", ["generate", "update", "sync"])
def test_a_killed_run_goes_on_with_the_same_metrics_and_samples(tmp_path: Path, killed_in: str) -> None:
    # Found unusable in step 4, which the killed run began two steps after its last checkpoint.
    late, skip = ("data.shuffle=false", "data.max_skipped_frac=0.2"), frozenset({"s6"})
    whole, broken = Fakes(skip=skip), Fakes(skip=skip)
    run_loop(configure(tmp_path / "whole", *late), whole)

    class Killed(Fakes):
        def __getattribute__(self, name: str) -> Any:
            names = {"generate": "generate", "update": "update", "sync": "update_weights"}
            if name == names[killed_in] and object.__getattribute__(self, "weight") >= 3:
                raise KeyboardInterrupt
            return object.__getattribute__(self, name)

    run = configure(tmp_path / "broken", *late)
    with pytest.raises(KeyboardInterrupt):
        run_loop(run, Killed(skip=skip))
    run_loop(run, broken)
    keys = ("step", "actor/loss", "actor/policy_version", "data/epoch", "data/skipped")
    rows = [[tuple(row[key] for key in keys) for row in read_metrics(tmp_path / name)] for name in ("whole", "broken")]
    assert rows[0] == rows[1]
    assert [row[-1] for row in rows[0]] == [0, 0, 0, 1, 1, 1]
    resumed = [call for call in broken.calls if call.startswith("generate")]
    assert resumed == [call for call in whole.calls if call.startswith("generate")][-len(resumed) :]


def test_a_steps_row_holds_what_its_parts_tell(tmp_path: Path) -> None:
    several = ["algorithm.num_steps=3", "algorithm.updates_per_batch=2", "algorithm.kl_coefficient=0.1"]
    run_loop(configure(tmp_path, *several, "logging.rollouts=true"), Fakes())
    rows = read_metrics(tmp_path)
    # Two prompts a step of eight samples.
    assert [row["data/epoch"] for row in rows] == [0.25, 0.5, 0.75]
    assert [row["perf/driver_received_bytes"] for row in rows] == [7, 7, 7]
    assert [row["data/encodings_per_clip"] for row in rows] == [1.0, 1.0, 1.0]
    assert len(list((tmp_path / "rollouts").glob("step_*.jsonl"))) == 3
    assert rows[0]["actor/kl"] == 0.0


def test_without_a_log_of_rollouts_none_is_written(tmp_path: Path) -> None:
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "logging.rollouts=false"), Fakes())
    assert not (tmp_path / "rollouts").exists()


def test_the_last_step_has_a_checkpoint_and_each_tells_how_far_the_ledger_is(tmp_path: Path) -> None:
    run_loop(configure(tmp_path, "checkpoint.every_steps=4", "checkpoint.keep=9"), Fakes())
    found = sorted((tmp_path / "checkpoints").glob("step_*"))
    states = [json.loads((path / "manifest.json").read_text())["state"] for path in found]
    # Steps 4 and 6, two samples a step.
    assert states == [
        {"policy_version": 4, "skipped": 0, "ledger": {"frontier": 8, "beyond": {}}},
        {"policy_version": 6, "skipped": 0, "ledger": {"frontier": 12, "beyond": {}}},
    ]


@pytest.mark.parametrize("overrides", [["checkpoint.every_steps=0"], ["checkpoint.every_steps=2"]])
def test_a_judge_that_is_away_from_the_start_leaves_no_checkpoint(tmp_path: Path, overrides: list[str]) -> None:
    class Unreachable(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            raise JudgeDown("the judge at http://x has been away")

    with pytest.raises(JudgeDown):
        run_loop(configure(tmp_path, *overrides), Unreachable())
    assert Checkpoints(tmp_path, keep=2).newest() is None


def test_metrics_of_updates_are_averaged_and_none_come_from_no_update() -> None:
    assert mean_of([{"a": 1.0, "b": -2.0}, {"a": 4.0, "b": 2.0}]) == {"a": 2.5, "b": 0.0}
    assert mean_of([]) == {}


def test_a_judge_that_stays_away_costs_no_finished_step(tmp_path: Path) -> None:
    class Abandoned(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 3:
                raise JudgeDown("the judge at http://x has been away")
            return super().score(groups, samples, step=step)

    run, fakes = configure(tmp_path, "checkpoint.every_steps=100"), Fakes()
    with pytest.raises(JudgeDown):
        run_loop(run, Abandoned())
    newest = Checkpoints(tmp_path, keep=2).newest()
    assert newest is not None and newest.step == 3
    run_loop(run, fakes)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert fakes.calls.count("score") == 3


def test_evaluations_belong_to_the_policy_a_step_begins_with_and_the_last_one_to_the_end(tmp_path: Path) -> None:
    fakes = Fakes()
    run = configure(
        tmp_path,
        "algorithm.num_steps=3",
        "data.shuffle=false",
        "evaluation.every_steps=2",
        "data.validation_file=held.json",
    )
    run_loop(run, fakes)
    held = [call for call in fakes.calls if "held" in call and call.startswith("generate")]
    assert held == [f"generate v{version} held-s0,held-s1" for version in (0, 2, 3)]
    rows = read_metrics(tmp_path)
    assert [row.get("evaluation/steps_done") for row in rows] == [0.0, None, 2.0]
    assert rows[2]["final_evaluation/steps_done"] == 3.0
    assert (
        rows[0]["evaluation/accuracy"] == 0.0 and "timing_s/evaluate" in rows[0] and "timing_s/evaluate" not in rows[1]
    )
    for steps_done in (0, 2, 3):
        folder = tmp_path / f"evaluation/step_{steps_done:06d}/greedy"
        assert json.loads((folder / "summary.json").read_text())["card"] == {"steps_done": steps_done}
        assert len((folder / "samples.jsonl").read_text().splitlines()) == 2


def test_a_resumed_run_evaluates_at_the_same_steps(tmp_path: Path) -> None:
    held = ("evaluation.every_steps=2", "data.validation_file=held.json", "data.shuffle=false")
    run_loop(configure(tmp_path, "algorithm.num_steps=2", *held), Fakes())
    again = Fakes(weight=2.0, served=2.0)
    run_loop(configure(tmp_path, "algorithm.num_steps=4", *held), again)
    generated = [call for call in again.calls if "held" in call and call.startswith("generate")]
    assert generated == ["generate v2 held-s0,held-s1", "generate v4 held-s0,held-s1"]


@pytest.mark.parametrize(
    ("phase", "whole_steps"), [("generate", 2), ("score", 2), ("begin_log_probs", 2), ("update", 3), ("sync", 3)]
)
def test_a_signal_costs_no_whole_step_and_no_half_of_one(tmp_path: Path, phase: str, whole_steps: int) -> None:
    class Signalled(Fakes):
        """Gets SIGTERM in the third step's phase."""

        def __getattribute__(self, name: str) -> Any:
            names = {"update_weights": "sync"}
            if names.get(name, name) == phase and object.__getattribute__(self, "calls").count("prepare") == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return object.__getattribute__(self, name)

    run, fakes = configure(tmp_path, "checkpoint.every_steps=100"), Signalled()
    with pytest.raises(Stopped):
        run_loop(run, fakes)
    newest = Checkpoints(tmp_path, keep=2).newest()
    assert newest is not None and newest.step == whole_steps
    # Of the learner's one weight, to which each whole step adds 1.
    assert (newest.path / "weight").read_text() == f"{whole_steps:.1f}"
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, whole_steps + 1))


def test_a_run_out_of_time_stops_before_the_step_with_what_it_has(tmp_path: Path) -> None:
    run, fakes = configure(tmp_path, "checkpoint.every_steps=100", "checkpoint.max_hours=1"), Fakes()

    class Slow(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 1:
                clock[0] += 2000
            return super().score(groups, samples)

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock[0])
        patch.setattr(time, "perf_counter", lambda: clock[0])
        with pytest.raises(Stopped) as stop:
            run_loop(run, Slow())
    # The second step took 2,000 s; a third as long would end after 3,600.
    assert stop.value.exit_code == 0
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    run_loop(run, fakes)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_keeps_no_checkpoints_writes_none_when_it_is_stopped(tmp_path: Path) -> None:
    class Signalled(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return super().score(groups, samples)

    with pytest.raises(Stopped):
        run_loop(configure(tmp_path, "checkpoint.every_steps=0"), Signalled())
    assert Checkpoints(tmp_path, keep=2).newest() is None


def test_tokens_a_second_and_the_memory_of_every_part_are_logged(tmp_path: Path) -> None:
    run_loop(configure(tmp_path, "algorithm.num_steps=1"), Fakes())
    [row] = read_metrics(tmp_path)
    # 2 prompts of group_size responses of two tokens; the fake's update says 10.
    sampled = 2 * configure(tmp_path).algorithm.group_size * 2
    assert row["perf/rollout_tokens_per_s"] == pytest.approx(sampled / row["timing_s/generate"])
    assert row["perf/learner_tokens_per_s"] == pytest.approx(10 / row["timing_s/update"])
    for part in ("video", "rollout", "reward", "learner", "reference"):
        assert row[f"perf/{part}_rss_mib"] == 5.0
    assert row["perf/driver_rss_mib"] > 10
