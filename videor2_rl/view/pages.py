"""What the pages ask of runs, as JSON: the runs, their curves, and what differs between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.report.curves import (
    Curve,
    evaluation_rows,
    is_in,
    phase_curve,
    policy_curves,
    reward_curves,
    with_gaps,
    with_phases,
    worker_curves,
)
from videor2_rl.report.headline import means_at_ends
from videor2_rl.report.page import Grid, flat_texts
from videor2_rl.view.advice import advice
from videor2_rl.view.run import RunFolder

_SHOWN_PARTS = ("video", "rollout", "reward", "learner", "reference", "driver")


def run_card(run: RunFolder) -> dict[str, Any]:
    """What a run is: its name, how far it is, and its configuration."""
    settings, rows = run.settings, run.metrics()
    made_by = settings.get("made_by") or {}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "status": run.status(),
        "steps": int(rows[-1]["step"]) if rows else 0,
        "num_steps": (settings.get("algorithm") or {}).get("num_steps"),
        "is_grpo": any("reward/mean" in row for row in rows[-1:]) or "algorithm" in settings,
        "settings": flat_texts({key: value for key, value in settings.items() if key != "made_by"}),
        "made_by": flat_texts(made_by),
    }


def curves_of(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """The drawings of the run page, with the metrics that each needs; only those that some run has something of."""
    rows = [row for run in runs for row in run.metrics()]
    filled = with_phases(with_gaps(rows)) + with_gaps(evaluation_rows(rows), "evaluation/")
    settings = runs[0].settings if runs else {}
    loss = Curve("Loss", "Cross-entropy on the response tokens, in nats per token.", _LOSS)
    sections = (
        ("What was paid", reward_curves(filled)),
        ("What the policy did", [loss, *policy_curves(settings)]),
        ("What it took", [phase_curve(filled), *worker_curves()]),
    )
    return [
        {"section": title, **asdict(curve)} for title, curves in sections for curve in curves if is_in(curve, filled)
    ]


_LOSS = {"sft/loss": "training", "sft/validation_loss": "validation"}


def series_of(run: RunFolder, names: Sequence[str], *, after: int = 0) -> dict[str, Any]:
    """Columns of numbers by step, of the steps behind `after`; a step without a number has null.

    Held-out evaluations stand apart, under the steps that their policy had done.
    """
    rows = run.metrics()
    new = with_phases([row for row in rows if row["step"] > after])
    evaluated = evaluation_rows(rows)
    return {
        "steps": [row["step"] for row in new],
        "values": {name: [_rounded(row.get(name)) for row in new] for name in names if not _is_evaluated(name)},
        "evaluation": {
            "steps": [row["step"] for row in evaluated],
            "values": {name: [_rounded(row.get(name)) for row in evaluated] for name in names if _is_evaluated(name)},
        },
    }


def overview(run: RunFolder) -> dict[str, Any]:
    """The run page's first lines: the last step's figures, what to look at, and the state of the workers."""
    rows = run.metrics()
    with run.index() as index:
        noticed = advice(rows, run.settings, index)
    return {**run_card(run), "advice": noticed, "tiles": _tiles(rows), "workers": _workers(rows), **_alive(run)}


def _alive(run: RunFolder) -> dict[str, Any]:
    """The pools of a live run, and what became of the prompts."""
    return {
        "pools": [{"name": name, **asdict(state)} for name, state in run.pools().items()],
        "ledger": run.ledger(),
    }


def compared(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Some runs against the first, in the paper's table form, and every setting that differs.

    Raises:
        ConfigError: a file of a run is broken.
    """
    from videor2_rl.report.runs import read_members
    from videor2_rl.report.sweep import compare

    found = compare(read_members([Path(run.folder) for run in runs]))
    return {"grid": _grid(found.grid), "differences": _grid(found.differences), "notes": list(found.notes)}


def chosen(runs: Sequence[RunFolder], wanted: str) -> list[RunFolder]:
    """The runs of a list of places such as `0,2`; all of an empty one.

    Raises:
        ConfigError: there is no such run.
    """
    try:
        return [runs[int(place)] for place in wanted.split(",")] if wanted else list(runs)
    except (ValueError, IndexError):
        raise ConfigError(f"runs: expected places from 0 to {len(runs) - 1}, found {wanted}") from None


def _grid(grid: Grid) -> dict[str, Any]:
    return {
        "caption": grid.caption,
        "header": list(grid.header),
        "rows": [[asdict(cell) for cell in row] for row in grid.rows],
        "num_settings": grid.num_settings,
    }


_TILES = (
    ("reward/mean", "Reward"),
    ("reward/accuracy", "Accuracy"),
    ("reward/tac", "TAC"),
    ("reward/tar_precision", "TAR precision"),
    ("reward/tar_recall", "TAR recall"),
    ("sft/loss", "Loss"),
    ("timing_s/step", "Seconds a step"),
)


def _tiles(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means of the first and of the last steps."""
    found = []
    for name, label in _TILES:
        values = [float(row[name]) for row in rows if row.get(name) is not None]
        if values:
            was, now = means_at_ends(values)
            found.append({"name": name, "label": label, "was": was, "is": now})
    return found


def _workers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the last step says of each part: memory, and how much of the time it had nothing to do."""
    if not rows:
        return []
    last = rows[-1]
    return [
        {
            "part": part,
            "memory_mib": last.get(f"perf/{part}_rss_mib"),
            "gpu_mib": last.get(f"perf/{part}_gpu_mib"),
            "idle_frac": last.get(f"perf/{part}_idle_frac"),
            "replaced": last.get(f"{part}/workers_replaced"),
        }
        for part in _SHOWN_PARTS
        if f"perf/{part}_rss_mib" in last
    ]


def _is_evaluated(name: str) -> bool:
    return name.startswith("evaluation/")


def _rounded(value: Any) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
