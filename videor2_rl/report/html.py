"""The page of a demo or of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.report.data import MODE_LABELS, STAGE_LABELS, ReportData, Run, failures, value_at
from videor2_rl.report.drawing import Plot
from videor2_rl.report.headline import headline
from videor2_rl.report.page import fill, flat_texts
from videor2_rl.report.rollouts import ShownRollouts
from videor2_rl.report.tables import mode_tables
from videor2_rl.run.tracking import clock


def render(data: ReportData, *, plots: Sequence[Plot], rollouts: ShownRollouts) -> str:
    """The whole page."""
    return fill(
        "run.html.j2",
        title="Video-R2 RL: demo report" if data.is_demo else f"Video-R2 RL: {data.folder.resolve().name}",
        about=_about(data),
        is_demo=data.is_demo,
        headline=headline(data),
        tables=mode_tables(data),
        failures=failures(data),
        missing=data.missing,
        rewards=[
            reward for stage, run in data.runs.items() if stage == "grpo" and (reward := shown_reward(run)) is not None
        ],
        plots=plots,
        rollouts=rollouts,
        stage_labels=STAGE_LABELS,
        mode_labels=MODE_LABELS,
        seconds=[(phase, seconds, clock(seconds)) for phase, seconds in data.seconds.items()],
        total_s=sum(data.seconds.values()),
        total=clock(sum(data.seconds.values())),
        skipped={
            **{STAGE_LABELS[stage]: len(run.skipped) for stage, run in data.runs.items()},
            **({"evaluation": len(data.evaluation_skipped)} if data.is_demo else {}),
        },
        configs={stage: run.config for stage, run in data.runs.items() if run.config},
        cards=_cards(data),
    )


@dataclass(frozen=True)
class ShownReward:
    """What a run paid for."""

    sentence: str
    pairs: tuple[tuple[str, str], ...]
    """The whole setting by dotted key."""


def shown_reward(run: Run) -> ShownReward | None:
    """The reward's setting in config.yaml; None where there is none."""
    reward = run.settings.get("reward")
    if not isinstance(reward, dict):
        return None
    sections = {**reward, **(reward.get("extra") or {})}
    weights = {name: section["weight"] for name, section in sections.items() if _has_weight(section)}
    paid = [f"{weight:g} x {name.replace('_', ' ')}" for name, weight in weights.items() if weight]
    measured = [name.replace("_", " ") for name, weight in weights.items() if not weight]
    sentence = f"{reward.get('rule', 'reward')}: {' + '.join(paid) or 'nothing is paid'}"
    sentence += f"; measured, not paid: {', '.join(measured)}." if measured else "."
    return ShownReward(sentence, tuple(flat_texts(reward)))


def _has_weight(section: Any) -> bool:
    return isinstance(section, dict) and isinstance(section.get("weight"), (int, float))


def _about(data: ReportData) -> str:
    [(stage, run)] = data.runs.items() if len(data.runs) == 1 else [("", None)]
    if run is None:
        return "One training run."
    model = value_at(run.settings, "model.path")
    parts = [f"One {STAGE_LABELS[stage]} run of {len(run.metrics)} steps", f"from {model}" if model else ""]
    return " ".join(filter(None, parts)) + "."


def _cards(data: ReportData) -> list[tuple[str, list[tuple[str, str]]]]:
    """What shaped each score: heading and flat key-value pairs of each evaluation's card."""
    return [
        (f"{STAGE_LABELS[stage]}, {MODE_LABELS[mode]}", flat_texts(evaluation.summary["card"]))
        for stage, modes in data.evaluations.items()
        for mode, evaluation in modes.items()
    ]
