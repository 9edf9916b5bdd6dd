"""The records of a reward: what is scored, how, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    # numpy alone would be a sixth of what `--help` may take.
    import numpy as np
    from numpy.typing import NDArray

Similarity: TypeAlias = "Callable[[Sequence[str], Sequence[str]], NDArray[np.floating[Any]]]"
"""Claim sentences and reference sentences -> [claims, references] cosines, float32 or float64."""

Status: TypeAlias = Literal["score", "abstention", "failure"]


@dataclass(frozen=True)
class Verdict:
    """What one term says about one response."""

    status: Status
    """score: judged; abstention: the term does not apply or cannot be read; failure: the judging itself went wrong."""
    value: float | None
    """In [0, 1] for a score, None otherwise."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What led to it, as JSON: answers read, claims, matches, reasons."""


def scored(value: float, detail: Mapping[str, Any]) -> Verdict:
    """A verdict with a value in [0, 1]."""
    return Verdict("score", float(value), detail)


def abstained(reason: str, detail: Mapping[str, Any] | None = None) -> Verdict:
    """The term does not apply to this sample, or says nothing about this response."""
    return Verdict("abstention", None, {"reason": reason, **(detail or {})})


def failed(reason: str, detail: Mapping[str, Any] | None = None) -> Verdict:
    """The judging went wrong, which says nothing about the response: it must not enter a baseline."""
    return Verdict("failure", None, {"reason": reason, **(detail or {})})


@dataclass(frozen=True)
class Target:
    """What a response is scored against: one dataset row without its video."""

    question: str
    solution: str
    """The expected answer, tagged (`<think>...</think><answer>...</answer>`) or bare."""
    options: tuple[str, ...] = ()
    """Texts of options A, B, C, ...; empty: read from the question where it lists them."""
    problem_type: str | None = None
    """The dataset's name for the kind of answer (`rewards.terms.accuracy.KINDS`); None: guessed from the solution."""
    temporal_grounding: Mapping[str, str] | None = None
    """Time key -> one short sentence. None: temporal alignment abstains."""


@dataclass(frozen=True)
class JudgeReply:
    """What a judge said about a response."""

    text: str | None
    """The raw reply; None: the call failed."""
    failure: str | None
    """Why, where `text` is None."""


@dataclass(frozen=True)
class Evidence:
    """What others said about a response before it is scored."""

    claims: Mapping[str, Any] | None
    """Claims already extracted: time key, as messy as a judge writes it -> sentence. They win over parser and judge.

    A value that is no text is no claim; in the official reward it costs the whole term, as in the paper's code.
    """
    judge: Mapping[str, JudgeReply]
    """By purpose: "claims", "consistency"."""


NO_EVIDENCE = Evidence(None, {})


@dataclass(frozen=True)
class Context:
    """Where a response comes from. No built-in term reads it; one of your own may (`Reading.context`)."""

    sample_id: str = ""
    """The row's id; empty: it has none."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The row's own columns: every key that the dataset layout does not name."""
    finish_reason: Literal["stop", "length", "abort"] | None = None
    """Why the policy stopped; None: unknown."""
    step: int | None = None
    """Of the training, from 1; of an evaluation while it trains, the steps done. None: nothing trains."""
    group_id: int | None = None
    """Unique in a run, equal for the responses to one prompt. None: the response stands by itself."""
    response_index: int = 0
    """Which response of its group, from 0."""
    siblings: tuple[str, ...] = ()
    """The texts of the group's other responses, in their order; empty where a response stands by itself."""


NO_CONTEXT = Context()


@dataclass(frozen=True)
class Scored:
    """One response, scored by every term."""

    reward: float | None
    """Weighted sum; None where a term with a weight failed, so that the response stays out of its group's baseline."""
    terms: Mapping[str, Verdict]
    """By name, terms of weight 0 included."""
    metrics: Mapping[str, float | None]
    """accuracy, format, tar_precision, tar_recall, tar_f1, tac, num_claims (`rewards.compose.METRICS`).

    None: not applicable or unreadable. All values are plain floats.
    """
    judge: Mapping[str, JudgeReply] = field(default_factory=dict)
    """What the judge said, by purpose."""


class Section:
    """A part of the configuration; a key that it does not name is an error."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@dataclass(frozen=True)
class FormatConfig(Section):
    """A think block followed by an answer block, nothing else."""

    weight: float


@dataclass(frozen=True)
class AccuracyConfig(Section):
    """The answer block against the solution."""

    weight: float
    number_score: Literal["tolerance", "mean_relative_accuracy"]
    """tolerance: a number is right or wrong; mean_relative_accuracy: the share of ten tolerances from 0.50 down to
    0.05 of the solution that it keeps, as VSI-Bench scores (arXiv:2412.14171)."""
    number_relative_tolerance: float
    """Numbers count as equal when they differ by at most this share of the solution."""
    partial_text: bool
    """Free text that is not equal earns the F1 of its words; False: nothing."""


@dataclass(frozen=True)
class TemporalAlignmentConfig(Section):
    """Timestamped claims of the think block against the references (TAR)."""

    weight: float
    claims: Literal["rules", "judge"]
    """Who reads the claims of the think block; a judge's failed or unreadable reply is a failure of the term."""
    gate: bool
    """Multiply by the consistency gate."""
    statistic: Literal["precision", "recall", "f_beta", "interval_iou"]
    """What the term pays for the matching (`rewards.match.alignment.paid_statistic`).

    precision: credit / claims, the paper's; blind to what is left out, so one safe claim earns 1.
    recall: credit / references; blind to what is made up.
    f_beta: their weighted harmonic mean, which sees both.
    interval_iou: as f_beta with beta 1, but a matched pair counts by how well its two intervals overlap.
    """
    beta: float
    """Of f_beta: recall counts this many times as much as precision; 1 is F1. The other statistics do not read it."""
    matching: Literal["optimal", "greedy"]
    """optimal: most pairs, then highest similarity; greedy: claims by midpoint take the best reference left."""
    buffer_seconds: float
    """A claim and a reference match in time when the gap between their intervals is at most this, counted once."""
    similarity_threshold: float
    """Their sentences match from this cosine on."""
    max_range_excess_seconds: float | None
    """A claim's range may be this much longer than its reference's, else it matches nothing. None: no limit."""
    range_cost_per_second: float
    """A matched claim earns this much less for each second that its range is longer than its reference's, down to 0.

    0: a range within the limit costs nothing.
    """
    contrast_guard: bool
    """Sentences that tell of opposite or exchanged events never match, however similar (`rewards.match.contrast`).

    False: similarity alone decides, as in the paper.
    """
    chance_correction: bool
    """Pay the statistic minus its mean over eight shifts of all claims in time, at least 0.

    What claims earn wherever they stand (a stamp every second, events that recur) is then not paid.
    """


@dataclass(frozen=True)
class ConsistencyConfig(Section):
    """Does the think block conclude what the answer block says?"""

    weight: float
    """As a term of its own; 0: only as the gate of temporal alignment."""
    reader: Literal["rules", "judge"]
    """Who says whether think and answer agree; a judge's failed or unreadable reply fails this term and the gate."""
    unreadable: Literal["closed", "open"]
    """The gate where the conclusion or the answer cannot be read: closed pays nothing, open pays in full."""


@dataclass(frozen=True)
class ExtraTermConfig(Section):
    """A term whose function stands elsewhere (`rewards.terms.extra`)."""

    function: str
    """`module.function`, importable where the reward workers run, or `file.py:function`, a file that they can read."""
    weight: float
    """May be negative."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function."""


@dataclass(frozen=True)
class VideoR2Config(Section):
    """The default reward: which terms pay how much, and how each is judged. Values stand in `conf/reward/`."""

    rule: Literal["video_r2"]
    answer_block: Literal["last", "first"]
    """Which answer block counts where a response has several."""
    format: FormatConfig
    accuracy: AccuracyConfig
    temporal_alignment: TemporalAlignmentConfig
    consistency: ConsistencyConfig
    extra: Mapping[str, ExtraTermConfig]
    """Further terms by name."""
    only_above_accuracy: Mapping[str, float]
    """Term -> bound (0-1): the term counts 0 unless accuracy is above it (the paper's "positive reinforcement")."""


@dataclass(frozen=True)
class OfficialWeight(Section):
    """A term of the official reward that has no options."""

    weight: float


@dataclass(frozen=True)
class OfficialAlignmentConfig(Section):
    """The official temporal alignment; it always has the gate."""

    weight: float
    claims: Literal["rules", "judge"]
    """Who reads claims where none are given and there is no reply of a judge; judge: a missing reply pays 0."""
    buffer_seconds: float
    """Both intervals are widened by it, so claim and reference may be twice as far apart."""
    similarity_threshold: float


@dataclass(frozen=True)
class OfficialConsistencyConfig(Section):
    """The official gate."""

    reader: Literal["rules", "judge"]
    """Who reads consistency where there is no reply of a judge; judge: a missing reply pays 0."""


@dataclass(frozen=True)
class OfficialConfig(Section):
    """The reward that the code of arXiv:2511.23478 pays, faults included (`rewards.official`)."""

    rule: Literal["video_r2_official"]
    format: OfficialWeight
    accuracy: OfficialWeight
    temporal_alignment: OfficialAlignmentConfig
    consistency: OfficialConsistencyConfig


RewardConfig: TypeAlias = VideoR2Config | OfficialConfig
"""Told apart by `rule`."""
