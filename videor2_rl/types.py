"""The records that travel along a sample's way; one type for each step.

dataset row -> VideoSample -> Clip -> Prompt -> Group of Rollouts -> TrainGroup

Axes in the docstrings: P prompt tokens, T response tokens, F frames, N vision patches, G rollouts per group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class VideoSample:
    """One row of a dataset file, its paths resolved and its markers removed."""

    sample_id: str
    """Unique in its file: the row's `id` where it has one, else `<file stem>-<row number>`."""
    video: str
    """Absolute path of the clip."""
    question: str
    """What is asked, without the marker of the video."""
    solution: str
    """The expected answer as the dataset gives it, normally `<think>...</think><answer>...</answer>`."""
    temporal_grounding: Mapping[str, str] | None = None
    """TAR's reference: time key (`MM:SS`, `HH:MM:SS` or a range) -> one short sentence. None: not applicable."""
    problem_type: str | None = None
    options: tuple[str, ...] = ()
    """Texts of options A, B, C, ... where the question offers options."""
    subtitles: str | None = None
    """Absolute path of the clip's `.srt`, None where there is none."""
    subtitles_beside: bool = False
    """They lie beside the clip and not in the subtitles folder; `video.rule=video_r2_official` draws no such ones."""
    clip_start_s: float | None = None
    clip_end_s: float | None = None
    system_prompt: str | None = None
    """The row's own system turn; None: `model.system_prompt`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The row's columns that no field above is made of."""


@dataclass(frozen=True)
class Clip:
    """Frames as every later stage sees them: sampled, resized, overlaid. Knows no model."""

    key: str
    """Content address: file hash, sampling, size and overlay settings."""
    frames: NDArray[np.uint8]
    """[F, 3, H, W] uint8."""
    timestamps_s: NDArray[np.float64]
    """[F] true presentation times in seconds from the start of the file; under `video.rule=video_r2_official` index /
    average rate."""
    sample_fps: float
    """Sampled frames per second, as the processor is told: (F - 1) / (last - first timestamp); the official
    rule counts otherwise."""


@dataclass(frozen=True)
class Prompt:
    """Everything that the rollout engine, the learner and the reference need of one prompt, made once."""

    sample_id: str
    clip_key: str
    text: str
    """The rendered chat, with one video placeholder."""
    token_ids: NDArray[np.int64]
    """[P], the video placeholder expanded to one token per merged patch."""
    position_ids: NDArray[np.int64]
    """[3, P] M-RoPE positions (time, height, width) by the original Qwen formula."""
    patches: NDArray[np.uint8]
    """[N, channels * temporal_patch * patch * patch] uint8 vision patches, neither rescaled nor normalised."""
    video_grid_thw: NDArray[np.int64]
    """[1, 3] patches in time, height and width, before merging."""
    second_per_grid_s: float
    """Seconds between two temporal grid steps."""
    timestamps_s: NDArray[np.float64]
    """[F] presentation times of the frames, in seconds."""

    @property
    def response_start(self) -> int:
        """M-RoPE position (equal in all three rows) of the first response token."""
        return int(self.position_ids.max()) + 1


@dataclass(frozen=True)
class PromptHandle:
    """What the driver holds of a prompt: numbers and an opaque reference, never pixels or token ids."""

    sample_id: str
    clip_key: str
    num_tokens: int
    ref: Any
    """Where the Prompt lives: a Ray object reference, or the Prompt itself in tests."""
    visual: Any = None
    """Where the clip's visual embeddings live (`model/visual.py`), as `ref`; None: each pass computes its own."""
    solution_ids: NDArray[np.int64] | None = None
    """[T] token ids of the sample's solution and the end token; only for SFT."""
    num_bytes: int = 0
    """Of the Prompt's pixels, where `ref` points to."""


@dataclass(frozen=True)
class SamplingSpec:
    """How the responses to a prompt are sampled."""

    temperature: float
    """0 is greedy decoding and needs a group size of 1."""
    top_p: float
    top_k: int
    """0: the full softmax."""
    max_tokens: int
    group_size: int


VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""Of every family of models known here; in a text they would be places for pictures that are not there."""


FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class Rollout:
    """One response as the engine sampled it."""

    token_ids: NDArray[np.int64]
    """[T], the end token included where the policy wrote one."""
    log_probs: NDArray[np.float32]
    """[T] as the engine computed them: of the softmax at the sampling temperature where nothing was cut from it
    (`RolloutConfig.is_tempered`), else of the full softmax at temperature 1."""
    text: str
    """The decoded response without special tokens."""
    finish_reason: FinishReason
    policy_version: int
    """Of the policy that sampled the first token: the oldest one."""
    continued: tuple[tuple[int, int], ...] = ()
    """Where later policies went on with it: policy version and the place of its first token, in order."""


@dataclass(frozen=True)
class AnswerPart:
    """What an engine adds to a response that is shown while it is sampled."""

    text: str
    """Whole characters, without special tokens; may be empty."""
    num_tokens: int
    """Of the response so far."""
    finish_reason: FinishReason | None
    """None: it goes on."""


@dataclass(frozen=True)
class Group:
    """One prompt's G rollouts: the unit that travels, is scored, packed and trained together."""

    group_id: int
    """Unique in a run; increases in the order of sampling."""
    sample_id: str
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True)
class TrainGroup:
    """A group on its way to the learner or the reference."""

    group_id: int
    prompt: PromptHandle
    response_ids: tuple[NDArray[np.int64], ...]
    """G arrays of [T_g] token ids."""
    advantages: NDArray[np.float32] | None = None
    """[G]; None for log-probs alone and for SFT."""
    in_loss: NDArray[np.bool_] | None = None
    """[G], False keeps a rollout out of the loss (failed verdict, truncated). None: all are in."""
    accuracies: NDArray[np.float32] | None = None
    """[G] values of the accuracy term, NaN where it has none; for `filter_zero_variance`."""
    old_log_probs: tuple[NDArray[np.float32], ...] | None = None
    """G arrays of [T_g], of the learner before the update, at the training temperature. None: those of the update's own
    forward pass."""
    ref_log_probs: tuple[NDArray[np.float32], ...] | None = None
    """G arrays of [T_g], of the frozen reference, at the training temperature."""
    rollout_log_probs: tuple[NDArray[np.float32], ...] | None = None
    """G arrays of [T_g], as `Rollout.log_probs`; for the gap to the learner, and to weigh stale rollouts."""
    is_fresh: NDArray[np.bool_] | None = None
    """[G], whether all of a rollout is of the policy that is about to be updated: only then do the engine's and the
    learner's log-probs have to agree. None: all are."""
    places: NDArray[np.int64] | None = None
    """[G] of the responses in the group as it was sampled, where only some of them are here; None: all are."""

    def place_of(self, response: int) -> int:
        """In the group as it was sampled."""
        return response if self.places is None else int(self.places[response])

    @property
    def num_tokens(self) -> int:
        """Tokens of the packed group: the prompt once, then every response."""
        return self.prompt.num_tokens + sum(len(ids) for ids in self.response_ids)


@dataclass(frozen=True)
class LogProbs:
    """Log-probs of one group's responses, from the learner or the reference."""

    group_id: int
    at_temperature: tuple[NDArray[np.float32], ...]
    """G arrays of [T_g] at the training temperature."""
    raw: tuple[NDArray[np.float32], ...]
    """G arrays of [T_g] at temperature 1."""


@dataclass(frozen=True)
class TokenValues:
    """What an update found for the tokens of one response."""

    group_id: int
    response: int
    """Its place in the group as it was sampled."""
    entropy: NDArray[np.float32]
    """[T] nats, of the learner's softmax at the training temperature."""
    log_probs: NDArray[np.float32] | None
    """[T] the learner's before its step, of the softmax that `Rollout.log_probs` are of; None: they were known."""


@dataclass(frozen=True)
class LostPrompt:
    """A prompt that ended every engine which sampled it."""

    sample_id: str
    detail: str
    """How many, and why the last one."""


@dataclass(frozen=True)
class SkippedSample:
    """A sample left out, as `skipped.jsonl` records it."""

    sample_id: str
    video: str
    reason: Literal["missing", "empty", "unreadable", "too_short", "too_long", "bad_times", "fatal"]
    detail: str
