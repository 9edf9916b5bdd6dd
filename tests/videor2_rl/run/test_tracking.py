from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from viewed_runs import make_record, numbered_clip

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LoggingConfig
from videor2_rl.run.tracked_rollouts import COLUMNS, shown_clip, table_rows
from videor2_rl.run.tracked_tables import markdown
from videor2_rl.run.trackers import WANDB_ID_FILE
from videor2_rl.run.tracking import (
    PhaseTimer,
    ProgressBar,
    Tracker,
    clock,
    console_line,
    read_metrics,
    truncate_metrics,
)

PLAIN = LoggingConfig(trackers=(), project="test", name="test", rollouts=False, tracked_groups=2, max_clip_mib=1.0)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


def log_steps(run_dir: Path, steps: range, **extra: float) -> None:
    with Tracker(run_dir, PLAIN, total_steps=10, first_step=steps.start, console=quiet()) as tracker:
        for step in steps:
            tracker.log(step, {"reward/mean": float(step), **extra})


def test_a_row_is_on_disk_before_log_returns(tmp_path: Path) -> None:
    with Tracker(tmp_path, PLAIN, total_steps=2, console=quiet()) as tracker:
        tracker.log(1, {"reward/mean": 0.5})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
            "step": 1,
            "reward/mean": 0.5,
            "perf/non_finite": 0,
        }


def test_nan_and_infinity_become_null_and_are_counted(tmp_path: Path) -> None:
    with Tracker(tmp_path, PLAIN, total_steps=2, console=quiet()) as tracker:
        tracker.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row == {"step": 1, "a": None, "b": None, "c": None, "d": 1.5, "perf/non_finite": 3}


def test_a_resumed_run_drops_the_rows_it_will_write_again(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 6), run=1.0)
    log_steps(tmp_path, range(4, 8), run=2.0)
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["run"]) for row in rows] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 2)]


def test_truncate_drops_the_undone_future_and_a_torn_line(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 5))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "reward/me')
    assert truncate_metrics(tmp_path, 4) == 1
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_truncate_of_a_run_without_metrics_does_nothing(tmp_path: Path) -> None:
    assert truncate_metrics(tmp_path, 1) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_console_line_shows_what_the_step_has_and_nothing_else() -> None:
    metrics = {"reward/mean": 1.25, "actor/kl": 0.00031, "rollout/log_prob_gap_max": None, "timing_s/step": 3.14}
    assert (
        console_line(7, metrics, total_steps=40, left_s=92)
        == "step  7/40  reward 1.250  kl 3.1e-04  gap n/a  3.1 s  left 1:32"
    )


def test_own_terms_stand_behind_the_other_figures() -> None:
    metrics = {"reward/mean": 1.0, "rollout/response_tokens_mean": 9.0, "reward/brevity": 0.25, "timing_s/step": 2.0}
    line = console_line(1, metrics, total_steps=1, left_s=None, own_terms=("brevity", "failed"))
    assert line == "step 1/1  reward 1.000  len 9.0  brevity 0.250  2.0 s"


def test_the_console_line_is_one_line_even_when_longer_than_the_screen(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=20)
    with Tracker(tmp_path, PLAIN, total_steps=3, console=console) as tracker:
        tracker.log(1, {"reward/mean": 1.0, "reward/accuracy": 1.0, "reward/tac": 1.0, "actor/kl": 0.0})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 1


def test_time_left_is_the_mean_recent_step_times_the_steps_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = quiet()
    with Tracker(tmp_path, PLAIN, total_steps=5, console=console) as tracker:
        now[0] += 10
        tracker.log(1, {})
        now[0] += 20
        tracker.log(2, {})
    assert isinstance(console.file, io.StringIO)
    # (10 + 20) / 2 = 15 s a step, 3 steps left.
    assert [line.split("left ")[1].strip() for line in console.file.getvalue().splitlines()] == ["0:40", "0:45"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (92, "1:32"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


class Backend:
    """Fails on the second call, like a server that goes away for a moment."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []
        self.logger: dict[str, object] = {}
        self.calls = 0
        self.exit_code: int | None = None

    def log(self, *, data: Mapping[str, float], step: int) -> None:
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("gone")
        self.rows.append({"step": step, **data})

    def finish(self, *, exit_code: int) -> None:
        self.exit_code = exit_code


def test_a_tracker_that_fails_later_is_counted_and_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend()
    monkeypatch.setattr("videor2_rl.run.tracking.start_trackers", lambda *_: backend)
    config = replace(PLAIN, trackers=("wandb",))
    with Tracker(tmp_path, config, total_steps=3, console=quiet()) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"a": math.nan if step == 3 else 1.0})
    assert [row["perf/tracker_failures"] for row in read_metrics(tmp_path)] == [0, 0, 1]
    # A backend gets no value where there is none.
    assert backend.rows == [
        {"step": 1, "a": 1.0, "perf/non_finite": 0, "perf/tracker_failures": 0},
        {"step": 3, "perf/non_finite": 1, "perf/tracker_failures": 1},
    ]
    assert backend.exit_code == 0


def test_a_run_that_fails_tells_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    monkeypatch.setattr("videor2_rl.run.tracking.start_trackers", lambda *_: backend)
    config = replace(PLAIN, trackers=("wandb",))
    with pytest.raises(ZeroDivisionError), Tracker(tmp_path, config, total_steps=1, console=quiet()):
        raise ZeroDivisionError
    assert backend.exit_code == 1


def test_a_table_has_a_row_for_each_response_and_no_markup_of_a_model(tmp_path: Path) -> None:
    record = make_record(7, seed=1, size=2, video="a.mp4", texts=["<b>|`x`\n</b>"])
    rows = table_rows([record], step=3)
    assert [row[:3] + row[5:6] for row in rows] == [[3, 7, record["sample_id"], number] for number in (1, 2)]
    assert markdown(COLUMNS, rows).splitlines()[2].count(" | ") == len(rows[0]) - 1
    assert "`<b>\\|'x' </b>`" in markdown(COLUMNS, rows)


def test_only_small_clips_of_kinds_that_are_shown_go_to_wandb(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).write_bytes(bytes(2**20))
    assert shown_clip({"video": str(tmp_path / "a.mp4")}, max_mib=1.0) == tmp_path / "a.mp4"
    assert shown_clip({"video": str(tmp_path / "a.mp4")}, max_mib=0.5) is None
    assert shown_clip({"video": str(tmp_path / "a.mkv")}, max_mib=1.0) is None
    assert shown_clip({"video": str(tmp_path / "b.mp4")}, max_mib=1.0) is None


def test_logging_outside_of_the_with_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="with"):
        Tracker(tmp_path, PLAIN, total_steps=1).log(1, {})


@pytest.mark.slow
def test_verl_writes_tensorboard_and_offline_wandb_under_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TENSORBOARD_DIR", "WANDB_DIR"):
        # Set and unset, so that what the tracker puts there goes with the test.
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = replace(PLAIN, trackers=("tensorboard", "wandb"))
    clip = numbered_clip(tmp_path / "clip.mp4", [0.0, 0.5, 1.0])
    records = [make_record(number, seed=number, size=2, video=str(clip)) for number in range(3)]
    with Tracker(tmp_path, config, total_steps=1, config={"seed": 1}, console=quiet()) as tracker:
        tracker.log_rollouts(1, records)
        tracker.log(1, {"reward/mean": 0.25, "bad": math.nan})
    assert read_metrics(tmp_path)[0]["perf/tracker_failures"] == 0

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.25)]
    assert "bad" not in events.Tags()["scalars"]
    [table] = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("rollouts/text_summary")]
    # Two groups of two responses below two lines of header.
    assert len(table.splitlines()) == 6 and records[1]["responses"][1]["text"].split()[0] in table
    assert "seed" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    [offline] = (tmp_path / "wandb").glob("offline-run-*")
    media = offline / "files" / "media"
    assert [len(json.loads(file.read_text())["data"]) for file in media.rglob("*.table.json")] == [4]
    assert {file.read_bytes() for file in media.rglob("*.mp4")} == {clip.read_bytes()}
    assert offline.name.endswith(f"-{(tmp_path / WANDB_ID_FILE).read_text().strip()}")


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_same_run_of_wandb_and_another_run_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = replace(PLAIN, trackers=("wandb",))
    for name, first_step in (("one", 1), ("one", 2), ("two", 1)):
        with Tracker(tmp_path / name, config, total_steps=2, first_step=first_step, console=quiet()) as tracker:
            tracker.log(first_step, {"reward/mean": 1.0})
            import wandb

            assert wandb.run is not None and wandb.run.id == (tmp_path / name / WANDB_ID_FILE).read_text().strip()
    assert (tmp_path / "one" / WANDB_ID_FILE).read_text() != (tmp_path / "two" / WANDB_ID_FILE).read_text()
    assert "WANDB_RUN_ID" not in os.environ and "WANDB_DIR" not in os.environ


def test_a_tracker_whose_package_is_missing_is_one_sentence(tmp_path: Path) -> None:
    config = LoggingConfig(
        trackers=("clearml",), project="test", name="test", rollouts=False, tracked_groups=2, max_clip_mib=1.0
    )
    with pytest.raises(ConfigError, match=r"logging\.trackers=\['clearml'\].*install the package clearml"):
        Tracker(tmp_path, config, total_steps=1, console=quiet()).__enter__()


def test_phase_timer_sums_a_phase_entered_twice_and_counts_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = PhaseTimer()
    for seconds in (1.0, 2.0):
        with timer.phase("generate"):
            now[0] += seconds
    with pytest.raises(ValueError), timer.phase("update"):
        now[0] += 4
        raise ValueError
    now[0] += 8
    assert timer.metrics() == {"timing_s/generate": 3.0, "timing_s/update": 4.0, "timing_s/step": 15.0}


def test_progress_without_a_terminal_is_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = quiet()
    with ProgressBar("decoding", 4, console=console, every_s=10) as progress:
        for _ in range(4):
            now[0] += 6
            progress.advance()
    assert isinstance(console.file, io.StringIO)
    # After 12 s half is done: 12 s are left.
    assert console.file.getvalue().splitlines() == ["decoding  2/4  left 0:12", "decoding  4/4  in 0:24"]


def test_progress_on_a_terminal_is_a_bar() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with ProgressBar("decoding", 4, console=console) as progress:
        progress.advance(4)
    assert isinstance(console.file, io.StringIO)
    assert "decoding" in console.file.getvalue()
    assert "4/4" in console.file.getvalue()
