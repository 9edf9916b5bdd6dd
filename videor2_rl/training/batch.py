"""What goes together on the way to the learner, and what a step trains on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from videor2_rl.judge.counts import total
from videor2_rl.training.protocols import PendingLogProbs, ScoredGroups
from videor2_rl.types import Group, PromptHandle, SkippedSample, TrainGroup, VideoSample


@dataclass
class Portion:
    """Prompts that go together; what cannot be used leaves it on the way."""

    numbers: list[int]
    samples: list[VideoSample]
    skipped: dict[int, SkippedSample] = field(default_factory=dict)
    prompts: list[PromptHandle] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    ref: PendingLogProbs | None = None
    """The reference's log-probs, begun; None without a reference."""
    scored: ScoredGroups = field(default_factory=lambda: ScoredGroups([], total([])))
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each part of the way."""
    news: list[SkippedSample] = field(default_factory=list)
    """Skipped, and not yet recorded."""

    def skip(self, number: int, sample: SkippedSample) -> None:
        """It leaves here."""
        self.skipped[number] = sample
        self.news.append(sample)

    def take_news(self) -> list[SkippedSample]:
        """What was skipped since the last call."""
        taken, self.news = self.news, []
        return taken

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True)
class Batch:
    """What a step trains on; the sequences correspond."""

    numbers: list[int]
    """Of the usable prompts."""
    skipped: dict[int, SkippedSample]
    samples: list[VideoSample]
    prompts: list[PromptHandle]
    groups: list[Group]
    scored: ScoredGroups
    refs: list[PendingLogProbs]
    """Together the log-probs of all groups, in order; empty without a reference."""
    seconds: dict[str, float]
    """Of each part of the way, a mean over what went together."""

    @property
    def all_numbers(self) -> list[int]:
        return sorted([*self.numbers, *self.skipped])


def batch_of(portions: Sequence[Portion]) -> Batch:
    """Portions as one step's, in the order of their numbers."""
    portions = sorted(portions, key=lambda portion: portion.numbers[0])
    skipped = {number: sample for portion in portions for number, sample in portion.skipped.items()}
    names = dict.fromkeys(name for portion in portions for name in portion.seconds)
    seconds = {name: [portion.seconds[name] for portion in portions if name in portion.seconds] for name in names}
    return Batch(
        numbers=[number for portion in portions for number in portion.numbers if number not in skipped],
        skipped=skipped,
        samples=[sample for portion in portions for sample in portion.samples],
        prompts=[prompt for portion in portions for prompt in portion.prompts],
        groups=[group for portion in portions for group in portion.groups],
        scored=ScoredGroups(
            [scores for portion in portions for scores in portion.scored.scored],
            total(portion.scored.counts for portion in portions),
        ),
        refs=[portion.ref for portion in portions if portion.ref is not None],
        seconds={name: sum(values) / len(values) for name, values in seconds.items()},
    )


def sampled_group(group: Group, prompt: PromptHandle) -> TrainGroup:
    """A group as it was sampled, without what rewards say of it."""
    return TrainGroup(group.group_id, prompt, tuple(rollout.token_ids for rollout in group.rollouts))
