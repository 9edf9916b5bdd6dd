"""What the GRPO loop needs of the workers: ordinary methods; what lies behind them is the workers' own.

Nothing here imports Ray: prompts, groups and weights pass as handles and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rewards.types import Scored
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.judge.counts import CallCounts
from videor2_rl.run.files import FileSum
from videor2_rl.types import (
    Group,
    LogProbs,
    LostPrompt,
    PromptHandle,
    SamplingSpec,
    SkippedSample,
    TrainGroup,
    VideoSample,
)


class Measured(Protocol):
    def memory(self) -> Mapping[str, float]: ...


class Videos(Measured, Protocol):
    def begin_prepare(self, samples: Sequence[VideoSample]) -> Sequence[Future[PromptHandle | SkippedSample]]: ...
    def prepare(self, samples: Sequence[VideoSample]) -> list[PromptHandle | SkippedSample]: ...
    def prefetch(self, samples: Sequence[VideoSample]) -> None: ...
    def decodes_per_clip(self) -> float: ...


class Encoder(Protocol):
    def begin_encode(self, prompts: Sequence[PromptHandle]) -> Future[list[PromptHandle]]: ...
    def metrics(self) -> Mapping[str, float]: ...


class Rollouts(Measured, Protocol):
    def begin_generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> Future[list[Group | LostPrompt]]: ...
    def generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> list[Group]: ...
    def admit_joiners(self) -> None:
        """Brings workers that got ready lately to the learner's weights, which must not change meanwhile."""
        ...

    def update_weights(self, source: Any) -> None:
        """Takes what the learner's `weights` gave."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Of the last update of weights, and of the time since the last call of this."""
        ...


@dataclass(frozen=True)
class ScoredGroups:
    """What reward workers say of some groups."""

    scored: list[list[Scored]]
    """For each group its rollouts' scores."""
    counts: CallCounts
    """What the judge was asked for them."""


class Rewards(Measured, Protocol):
    def begin_score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> Future[ScoredGroups]: ...
    def check(self, scored: ScoredGroups) -> None:
        """Raises JudgeDown: too little of a step could be judged."""
        ...

    def score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> list[list[Scored]]: ...
    def begin_write_rollouts(
        self,
        path: Path,
        records: Sequence[Mapping[str, Any]],
        prompts: Sequence[PromptHandle],
        *,
        token_values: Sequence[Any],
    ) -> Future[None]:
        """Takes what the learner's `take_token_values` gave."""
        ...


class PendingLogProbs(Protocol):
    def result(self) -> list[LogProbs]:
        """Waits for them; in the order of the groups."""
        ...


class Reference(Measured, Protocol):
    def begin_log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> PendingLogProbs:
        """Returns at once; only the groups' prompts and token ids are looked at."""
        ...


class Learner(Measured, Protocol):
    def log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]: ...
    def update(
        self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float, is_tempered: bool = False
    ) -> dict[str, float]:
        """One optimiser step; raises `LogProbGapError` before it where the groups have no old log-probs."""
        ...

    def take_token_values(self) -> Sequence[Any]:
        """What the updates since the last call found for each token, for the rollout log."""
        ...

    def weights(self, policy_version: int) -> Any: ...
    def save(self, path: Path) -> None: ...
    def finish_save(self) -> Mapping[str, FileSum]: ...
    def load(self, path: Path) -> None: ...
    def export(self, path: Path) -> None: ...


@dataclass(frozen=True)
class Workers:
    """The parts of a run; `reference` is None when there is no KL term, `rebuild` starts lost ranks anew: the learner
    then holds the model's own weights, and rollout workers still those that they had."""

    videos: Videos
    encoder: Encoder
    rollouts: Rollouts
    rewards: Rewards
    learner: Learner
    reference: Reference | None
    rebuild: Callable[[], None] = lambda: None
