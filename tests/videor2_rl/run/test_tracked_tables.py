"""An evaluation's table where trackers show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LoggingConfig
from videor2_rl.evaluation.summary import TABLE_COLUMNS, SampleResult, summarise, table_rows
from videor2_rl.run.tracked_tables import TableTracker


def logging_config(*trackers: str) -> LoggingConfig:
    return LoggingConfig(
        trackers=trackers,  # type: ignore[arg-type]
        project="test",
        name="test",
        rollouts=False,
        tracked_groups=2,
        max_clip_mib=1.0,
    )


def test_without_trackers_nothing_is_started_and_one_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with TableTracker(tmp_path, logging_config(), config={}) as tracker:
        tracker.log("evaluation", ["a"], [[1]])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="install the package clearml"):
        TableTracker(tmp_path, logging_config("clearml"), config={}).__enter__()


@pytest.mark.slow
def test_an_evaluations_table_is_in_tensorboard_and_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TENSORBOARD_DIR", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    results = [
        SampleResult("a", "a.mp4", "Which?", "A", "...", "A", "stop", 9, accuracy, None, 0.5, 0.5, 0.5, 1.0)
        for accuracy in (1.0, 0.0)
    ]
    rows = table_rows(summarise(results, resamples=10, seed=0, card={"stage": "sft", "mode": "greedy"}))
    with TableTracker(tmp_path, logging_config("tensorboard", "wandb"), config={"seed": 1}) as tracker:
        tracker.log("evaluation", TABLE_COLUMNS, rows)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    table = events.Tensors("evaluation/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| `sft` | `greedy` | `accuracy` | 0.5 |" in table
    assert "| `sft` | `greedy` | `tac` |  |  |  | 0 | 2 | 0 |" in table
    [offline] = (tmp_path / "wandb").glob("offline-run-*")
    [file] = (offline / "files" / "media").rglob("*.table.json")
    logged = json.loads(file.read_text())
    assert tuple(logged["columns"]) == TABLE_COLUMNS and len(logged["data"]) == len(rows) == 7
