"""The reward for TRL's trainers (`reward_funcs`).

    rewards = video_r2_rewards("video_r2", ["reward.temporal_alignment.buffer_seconds=1"])
    GRPOTrainer(model, reward_funcs=rewards.total, ...)                              # the sum; terms as metrics
    GRPOTrainer(model, reward_funcs=rewards.terms,                                   # one function a term
                args=GRPOConfig(reward_weights=rewards.weights, ...), ...)

Columns of the data set that are read: solution, and where they are there question (else the last user turn of the
prompt), options, problem_type, temporal_grounding and id. A term of one's own gets all others in `context.extra`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rewards.types import Scored
from videor2_rl.integrations.scorer import RowScorer, row_of
from videor2_rl.scoring.presets import reward_config
from videor2_rl.scoring.rows import ScoreRow

_OF_THE_TRAINER = {"completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}
"""What TRL passes beside the columns."""


class RewardFunction(Protocol):
    """What TRL takes as one of `reward_funcs`; it is logged under its `__name__`."""

    __name__: str

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]: ...


@dataclass(frozen=True)
class TrlRewards:
    """One reward, as TRL takes it. Use either `total` or `terms` with `weights`: both train alike."""

    total: RewardFunction
    """The weighted sum, None where a paying term failed. Logs each term's mean as `<preset>/<term>`."""
    terms: list[RewardFunction]
    """One function a term, named like it: its value, None where it abstains.

    Of a response on which a paying term failed all are None, so that TRL leaves it out of its group.
    """
    weights: list[float]
    """Of `terms`, for `GRPOConfig(reward_weights=...)`."""


def video_r2_rewards(
    preset: str = "video_r2", overrides: Sequence[str] = (), *, config_dir: str | Path | None = None
) -> TrlRewards:
    """The reward of `conf/reward/<preset>.yaml` for TRL.

    Args:
        preset, overrides, config_dir: as `videor2_rl.scoring.presets.reward_config` takes them.

    Raises:
        ConfigError: there is no such preset or key, a value cannot be used, or the reward needs a judge.
    """
    batches = _Batches(RowScorer(reward_config(preset, overrides, config_dir=config_dir)))

    def total(completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any) -> list[float | None]:
        scored = batches.score(completions, prompts, columns)
        if (log_metric := columns.get("log_metric")) is not None:
            for name, value in _means(scored).items():
                log_metric(f"{preset}/{name}", value)
        return [one.reward for one in scored]

    total.__name__ = preset
    weights = batches.scorer.weights
    return TrlRewards(total, [_term(name, batches) for name in weights], list(weights.values()))


def _term(name: str, batches: _Batches) -> RewardFunction:
    def term(completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any) -> list[float | None]:
        scored = batches.score(completions, prompts, columns)
        return [None if one.reward is None else one.terms[name].value for one in scored]

    term.__name__ = name
    return term


class _Batches:
    """Scores a batch once for all functions that TRL calls with it, one after the other."""

    def __init__(self, scorer: RowScorer) -> None:
        self.scorer = scorer
        self._arguments: dict[str, Any] = {}
        self._scored: list[Scored] = []

    def score(
        self, completions: Sequence[Any], prompts: Sequence[Any] | None, columns: Mapping[str, Any]
    ) -> list[Scored]:
        arguments = {**columns, "completions": completions, "prompts": prompts}
        # By identity: columns may hold images and arrays, which do not compare. Held here, none of them can be reused.
        is_same = arguments.keys() == self._arguments.keys() and all(
            value is self._arguments[name] for name, value in arguments.items()
        )
        if not is_same:
            self._scored = self.scorer.score(_rows(completions, prompts, columns))
            self._arguments = arguments
        return self._scored


def _rows(completions: Sequence[Any], prompts: Sequence[Any] | None, columns: Mapping[str, Any]) -> list[ScoreRow]:
    """
    Raises:
        ValueError: there is no column `solution`, or one cannot be read.
    """
    if "solution" not in columns:
        raise ValueError(f"the data set has no column solution, found {sorted(columns)}; add the reference answers")
    state = columns.get("trainer_state")
    rows = []
    for index, completion in enumerate(completions):
        of_row = {name: values[index] for name, values in columns.items() if name not in _OF_THE_TRAINER}
        solution, row_id = of_row.pop("solution"), of_row.pop("id", None)
        if of_row.get("question") is None and prompts is not None:
            of_row["question"] = _last_user_text(prompts[index])
        rows.append(
            row_of(
                of_row,
                response=_text(completion),
                solution=solution,
                row_id=str(index if row_id is None else row_id),
                step=None if state is None else state.global_step + 1,
            )
        )
    return rows


def _text(message: Any) -> str:
    """A text as it is; of a list of messages the last one's, of a message with parts the text parts."""
    if isinstance(message, str):
        return message
    if isinstance(message, Mapping):
        return _text(message.get("content") or "")
    parts = list(message)
    if parts and all(isinstance(part, Mapping) and "role" in part for part in parts):
        return _text(parts[-1])
    return "".join(str(part.get("text") or "") if isinstance(part, Mapping) else str(part) for part in parts)


def _last_user_text(prompt: Any) -> str:
    """The question as the prompt asks it."""
    if isinstance(prompt, str):
        return prompt
    turns = [message for message in prompt if isinstance(message, Mapping) and message.get("role") == "user"]
    return _text(turns[-1]) if turns else ""


def _means(scored: Sequence[Scored]) -> dict[str, float]:
    """Each term's and metric's mean over the responses that have one, and the share that failed."""
    values: dict[str, list[float]] = {}
    for one in scored:
        of_one = {name: verdict.value for name, verdict in one.terms.items()} | dict(one.metrics)
        for name, value in of_one.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    failed = [float(one.reward is None) for one in scored]
    return {name: float(np.mean(found)) for name, found in values.items()} | {"failure_frac": float(np.mean(failed))}
