"""The whole configuration of each app, made of sections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator

from rewards.types import RewardConfig, Section
from videor2_rl.config.algorithm import DEFAULT_IMPORTANCE_CAP, AlgorithmConfig
from videor2_rl.config.judge import JudgeConfig
from videor2_rl.config.sections import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    LearnerConfig,
    LoggingConfig,
    ModelConfig,
    PeriodicEvaluationConfig,
    ReferenceConfig,
    RewardWorkersConfig,
    RolloutConfig,
    SftConfig,
    VideoConfig,
)


@dataclass(frozen=True)
class Run(Section):
    """What every app's configuration has."""

    seed: int
    output_dir: str
    model: ModelConfig
    data: DataConfig
    video: VideoConfig
    cluster: ClusterConfig
    logging: LoggingConfig


@dataclass(frozen=True)
class GrpoRun(Run):
    """The whole configuration of videor2_rl.grpo."""

    rollout: RolloutConfig
    learner: LearnerConfig
    reference: ReferenceConfig
    reward: Annotated[RewardConfig, Discriminator("rule")]
    judge: JudgeConfig
    reward_workers: RewardWorkersConfig
    algorithm: AlgorithmConfig
    evaluation: PeriodicEvaluationConfig
    checkpoint: CheckpointConfig

    @property
    def differs_by_design(self) -> bool:
        """Rollouts are of an older policy, or vLLM's kernels round otherwise than the learner's by more than float32
        shows."""
        rounds = self.model.dtype != "float32" or self.cluster.device != "cpu"
        return rounds or self.algorithm.max_staleness > 0

    def with_importance_cap(self) -> GrpoRun:
        """The same with "auto" resolved."""
        if self.algorithm.importance_cap != "auto":
            return self
        cap = DEFAULT_IMPORTANCE_CAP if self.differs_by_design and self.rollout.is_full_softmax else None
        return replace(self, algorithm=replace(self.algorithm, importance_cap=cap))


@dataclass(frozen=True)
class SftRun(Run):
    """The whole configuration of videor2_rl.sft."""

    learner: LearnerConfig
    sft: SftConfig
    checkpoint: CheckpointConfig


@dataclass(frozen=True)
class EvaluateRun(Run):
    """The whole configuration of videor2_rl.evaluate."""

    rollout: RolloutConfig
    reward: Annotated[RewardConfig, Discriminator("rule")]
    judge: JudgeConfig
    reward_workers: RewardWorkersConfig
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class ScoreRun(Section):
    """The whole configuration of videor2_rl.score."""

    reward: Annotated[RewardConfig, Discriminator("rule")]
    judge: JudgeConfig


@dataclass(frozen=True)
class ChatRun(Section):
    """The whole configuration of videor2_rl.chat."""

    device: Literal["cpu", "cuda"] | None
    """None: a GPU where there is one."""
    temperature: float
    """0: the most likely token each time."""
    model: ModelConfig
    video: VideoConfig
    rollout: RolloutConfig
    """Of one engine: its limits and memory; temperature and workers are those of training."""
    reward: Annotated[RewardConfig, Discriminator("rule")]
    """How the reasoning is read."""
    judge: JudgeConfig


VasPrompt: TypeAlias = Literal["default", "official"]


@dataclass(frozen=True)
class LogsRun(Section):
    """The whole configuration of videor2_rl.evaluate logs=DIR: it needs no model, data or cluster."""

    logs: str
    """Folder with prediction logs in lmms-eval's layout, searched with its sub-folders."""
    seed: int
    """Of the bootstrap."""
    output_dir: str
    bootstrap_resamples: int
    vas_prompt: VasPrompt
    """How a judge is asked for the Video Attention Score. default: about the last think block; official: about the
    whole response, as the paper's script asks."""
    mixer_alpha: float
    """Of the mixed disagreement a (1 - r^g) + (1 - a) (1 - r), r the agreement: weight of the first part, 0 to 1."""
    mixer_gamma: float
    """Its exponent g, above 0."""
    judge: JudgeConfig
    """Reads both blocks and gives the Video Attention Score where the rows hold no replies; rules: our own readers."""
