"""What a folder holds, and so which page it gets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from videor2_rl.config.errors import ConfigError
from videor2_rl.evaluation.summary import SAMPLES_FILE, SUMMARY_FILE
from videor2_rl.report.data import STAGES
from videor2_rl.run.tracking import METRICS_FILE

READINGS_FILE = "readings.jsonl"
Kind: TypeAlias = Literal["demo", "run", "logs", "evaluations", "sweep"]
"""run: metrics.jsonl. demo: base/, sft/ or grpo/ with one. logs: what `evaluate logs=` writes.
evaluations: one, or several below it. sweep: sub-folders that are runs or hold evaluations."""


def kind_of(folder: Path) -> Kind:
    """What a folder holds.

    Raises:
        ConfigError: nothing that could be reported.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder of a demo, a run, an evaluation or a sweep.")
    if (folder / METRICS_FILE).exists():
        return "run"
    if (folder / READINGS_FILE).exists() and (folder / SUMMARY_FILE).exists():
        return "logs"
    if any((folder / stage / METRICS_FILE).exists() for stage in STAGES):
        return "demo"
    if members_of(folder):
        return "sweep"
    if evaluation_folders(folder):
        return "evaluations"
    raise ConfigError(
        f"{folder} holds neither {METRICS_FILE}, nor {'/, '.join(STAGES)}/ with one, nor an evaluation "
        f"({SUMMARY_FILE}), nor sub-folders with either; give the folder of a demo, a run, an evaluation or a sweep."
    )


def members_of(folder: Path) -> list[Path]:
    """The runs and evaluations of a sweep, as they were started: sub-folders with metrics.jsonl, an evaluation/ or a
    summary of logs."""
    members = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_member(path)]
    # A run writes it when it starts, so the first job of a sweep is what the others are set against.
    return sorted(members, key=lambda path: _seconds(path / "config.yaml"))


def _seconds(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _is_member(path: Path) -> bool:
    is_logs = (path / READINGS_FILE).exists() and (path / SUMMARY_FILE).exists()
    return (path / METRICS_FILE).exists() or is_logs or any(path.glob(f"evaluation/*/**/{SUMMARY_FILE}"))


def evaluation_folders(folder: Path) -> list[Path]:
    """Every complete evaluation at or below a folder, in the order of their paths."""
    found = sorted(path.parent for path in folder.rglob(SUMMARY_FILE))
    return [path for path in found if (path / SAMPLES_FILE).exists()]
