"""A logged step computed again: verdicts, rewards and advantages from the log alone, and what differs from it.

The scoring and the advantages are the run's own code; nothing here knows how either is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewards.compose import reward_range
from rewards.types import Scored
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun
from videor2_rl.run.rollout_log import read_rollouts
from videor2_rl.scoring.batch import score_rows
from videor2_rl.scoring.rows import BadRow, ScoreRow, read_rows
from videor2_rl.scoring.similarity import SentenceEncoder
from videor2_rl.training.trainer import with_advantages
from videor2_rl.types import Group, PromptHandle, Rollout, TrainGroup

TOLERANCE = 1e-5
"""Beyond it a number differs: the sentence encoder rounds otherwise from batch to batch, by about 1e-7."""


@dataclass(frozen=True)
class ReplayedGroup:
    """A logged group with what comes of it now."""

    record: Mapping[str, Any]
    scored: tuple[Scored, ...]
    train_group: TrainGroup

    @property
    def advantages(self) -> list[float | None]:
        """One a response; None for those that take no part in the loss."""
        group = self.train_group
        assert group.advantages is not None and group.in_loss is not None, "they were computed"
        pairs = zip(group.advantages, group.in_loss, strict=True)
        return [float(value) if taken else None for value, taken in pairs]


@dataclass(frozen=True)
class Difference:
    """A value that is not what the log says."""

    group_id: int
    response: int
    """From 0."""
    name: str
    logged: Any
    now: Any

    def __str__(self) -> str:
        return (
            f"group {self.group_id}, response {self.response + 1}: {self.name} is {_text(self.now)}, "
            f"the log says {_text(self.logged)}"
        )


def rollout_file(run_dir: Path, step: int) -> Path:
    """The step's log.

    Raises:
        ConfigError: the run logged none; names the steps that it has.
    """
    file = run_dir / "rollouts" / f"step_{step:06d}.jsonl"
    if file.is_file():
        return file
    known = sorted(int(path.stem.removeprefix("step_")) for path in (run_dir / "rollouts").glob("step_*.jsonl"))
    has = f"it has steps {known[0]} to {known[-1]}" if known else "it has none; logging.rollouts=true writes them"
    raise ConfigError(f"--step {step}: {run_dir} holds no rollouts of it; {has}")


def replay_step(file: Path, run: GrpoRun, encoder: SentenceEncoder) -> list[ReplayedGroup]:
    """Every group of a step under a run's reward and algorithm; a judge's answers are those of the log.

    Raises:
        ConfigError: a line of the log is broken, or cannot be scored.
    """
    records = read_rollouts(file)
    rows = [row for of_line in read_rows(file) for row in of_line]
    whole = [_checked(row) for row in rows]
    scored = iter([_checked_score(found).scored for found in score_rows(whole, run.reward, encoder)])
    scores = [tuple(next(scored) for _ in record["responses"]) for record in records]
    train_groups = advantages(records, scores, run.algorithm, run.reward)
    return [
        ReplayedGroup(record, of_group, train_group)
        for record, of_group, train_group in zip(records, scores, train_groups, strict=True)
    ]


def advantages(
    records: Sequence[Mapping[str, Any]],
    scored: Sequence[Sequence[Scored]],
    algorithm: AlgorithmConfig,
    reward: Any,
) -> list[TrainGroup]:
    """The step's groups as the learner got them, but for their prompts."""
    groups = [logged_group(record) for record in records]
    prompts = [
        PromptHandle(group.sample_id, str(record.get("clip_key")), 0, None)
        for group, record in zip(groups, records, strict=True)
    ]
    return with_advantages(groups, prompts, scored, algorithm=algorithm, reward_range=reward_range(reward))


def logged_group(record: Mapping[str, Any]) -> Group:
    """The group as it was sampled; a log-prob that was not finite is NaN."""
    return Group(
        group_id=record["group_id"],
        sample_id=record["sample_id"],
        rollouts=tuple(
            Rollout(
                token_ids=np.asarray(response["token_ids"], np.int64),
                log_probs=np.asarray(
                    [math.nan if value is None else value for value in response["log_probs"]], np.float32
                ),
                text=response["text"],
                finish_reason=response["finish_reason"],
                policy_version=response["policy_version"],
                continued=tuple((version, start) for version, start in response.get("continued", [])),
            )
            for response in record["responses"]
        ),
    )


def differences(groups: Sequence[ReplayedGroup]) -> Iterator[Difference]:
    """What differs from the log, in the order in which it is computed: all verdicts, rewards, then advantages."""
    for group in groups:
        for number, (response, score) in enumerate(zip(group.record["responses"], group.scored, strict=True)):
            for name, logged, now in _of_verdicts(response, score):
                if not same(logged, now):
                    yield Difference(group.record["group_id"], number, name, logged, now)
    for group in groups:
        for number, (response, now) in enumerate(zip(group.record["responses"], group.advantages, strict=True)):
            if not same(response["advantage"], now):
                yield Difference(group.record["group_id"], number, "advantage", response["advantage"], now)


def _of_verdicts(response: Mapping[str, Any], score: Scored) -> Iterator[tuple[str, Any, Any]]:
    terms = response["terms"]
    for name in dict.fromkeys([*terms, *score.terms]):
        logged, now = terms.get(name), score.terms.get(name)
        if logged is None or now is None:
            yield f"terms.{name}", None if logged is None else logged["value"], None if now is None else now.value
            continue
        yield f"terms.{name}.verdict", logged["verdict"], now.status
        yield f"terms.{name}.value", logged["value"], now.value
    yield "reward", response["reward"], score.reward


def same(logged: Any, now: Any) -> bool:
    """Whether two values are the same, numbers up to rounding."""
    if isinstance(logged, int | float) and isinstance(now, int | float):
        return math.isclose(logged, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(logged == now)


def _checked(row: ScoreRow | BadRow) -> ScoreRow:
    if isinstance(row, BadRow):
        raise ConfigError(row.message)
    return row


def _checked_score(found: Any) -> Any:
    if isinstance(found, BadRow):
        raise ConfigError(found.message)
    return found


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, int | float) else str(value)
