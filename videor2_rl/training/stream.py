"""Prompts on their way to the learner: prepared, encoded, sampled, scored, each as soon as it can be.

Those that set out together (`Portion`) go together: a whole step's in the synchronous loop, so that batches are always
the same, and each by itself where rollouts run ahead. All of it happens in a thread of its own; the main thread, which
trains, asks for the next step's batch and learns what has happened meanwhile.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from videor2_rl.background import BackgroundLoop
from videor2_rl.training.batch import Batch, Portion, batch_of, sampled_group
from videor2_rl.training.ledger import Ledger, State
from videor2_rl.training.protocols import Workers
from videor2_rl.training.room import Room
from videor2_rl.training.window import Window
from videor2_rl.types import Group, LostPrompt, SamplingSpec, SkippedSample, VideoSample

if TYPE_CHECKING:
    from videor2_rl.config.runs import GrpoRun

IDLE_S = 0.5
"""Between two looks at what must be tended while the main thread waits for groups."""


class Stream:
    """The prompts of a window on their way; use it as a context manager."""

    def __init__(
        self,
        run: GrpoRun,
        workers: Workers,
        sample_of: Callable[[int], VideoSample],
        *,
        window: Window,
        ledger: Ledger,
        skip: Callable[[SkippedSample], None],
        background: BackgroundLoop | None = None,
    ) -> None:
        """
        Args:
            sample_of: the sample of a number of the sample order.
            skip: called with each sample that cannot be used, in the main thread; what it raises ends the run.
            background: where the prompts are on their way, and which this closes; None: a thread of its own.
        """
        self._run = run
        self._workers = workers
        self._sample_of = sample_of
        self._window = window
        self._ledger = ledger
        self._skip = skip
        self._sampling = sampling_of(run)
        self._ready: dict[int, Portion] = {}
        self._background = background or BackgroundLoop("stream")
        self._events = self._background.mailbox()
        """Of (state, portion), or what ended the way of one."""
        # What follows is the background's.
        self._line: asyncio.Queue[tuple[list[int], list[int]]] = asyncio.Queue()
        self._room = Room(run.rollout.max_prepared_mib << 20)
        self._urgent = 0
        self._fatal: dict[str, SkippedSample] = {}
        """Samples that no engine survived; in the next epoch none is asked."""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()

    def __enter__(self) -> Stream:
        self._background.begin(self._send_out())
        return self

    def __exit__(self, *_: object) -> None:
        self._background.close()

    def admit(self) -> None:
        """Let set out what there is room for."""
        numbers = self._window.admit()
        if numbers:
            self._background.begin(self._line.put((numbers, self._window.ahead())))

    def take(self, *, tend: Callable[[], None]) -> Batch:
        """Wait for the next step's prompts.

        Args:
            tend: called now and then meanwhile.

        Raises:
            Exception: what ended the way of any prompt.
        """
        tended = time.monotonic()
        while (numbers := self._window.take()) is None:
            try:
                self._note(self._events.get(timeout=IDLE_S))
                if time.monotonic() - tended < IDLE_S:
                    continue
            except queue.Empty:
                pass
            tend()
            tended = time.monotonic()
        portions = list({id(self._ready[number]): self._ready.pop(number) for number in numbers}.values())
        batch = batch_of(portions)
        self._ledger.move(batch.numbers, "training")
        return batch

    def release(self, batch: Batch) -> None:
        """The step has trained and its weights are out: others may set out in its prompts' place."""
        self._window.release(batch.all_numbers)
        self._background.run(self._free(batch.all_numbers))

    def _note(self, event: tuple[State, Portion] | BaseException) -> None:
        if isinstance(event, BaseException):
            raise event
        state, portion = event
        usable = [number for number in portion.numbers if number not in portion.skipped]
        if state in ("sampling", "scored"):
            # Before it was sampled, or since.
            for skipped in portion.take_news():
                self._skip(skipped)
        if state == "preparing":
            self._ledger.move(portion.numbers, state)
        else:
            self._ledger.move(usable, state)
        if state == "scored":
            for number in portion.numbers:
                self._ready[number] = portion
                self._window.ready(number)

    # In the background.

    async def _send_out(self) -> None:
        """One portion after the other, in order: those that set out first are prepared first."""
        try:
            while True:
                numbers, ahead = await self._line.get()
                is_synchronous = self._run.algorithm.max_staleness == 0
                for together in [numbers] if is_synchronous else [[number] for number in numbers]:
                    await self._has_room(together[0])
                    portion = Portion(together, [self._sample_of(number) for number in together])
                    for number in together:
                        self._room.enter(number)
                    self._events.put(("preparing", portion))
                    task = asyncio.ensure_future(self._way(portion))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                    # To where it waits for its preparation: what is prepared ahead comes after it.
                    await asyncio.sleep(0)
                if ahead and (is_synchronous or self._room.is_below_limit):
                    self._workers.videos.prefetch([self._sample_of(number) for number in ahead])
        except Exception as error:
            self._events.put(error)

    async def _way(self, portion: Portion) -> None:
        try:
            await self._prepared(portion)
            self._events.put(("sampling", portion))
            if portion.prompts:
                await self._sampled(portion)
            if portion.groups:
                await self._scored(portion)
            self._events.put(("scored", portion))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # the main thread's, whatever it is
            self._events.put(error)

    async def _prepared(self, portion: Portion) -> None:
        usable = []
        with portion.timed("prepare"):
            begun = self._workers.videos.begin_prepare(portion.samples)
            answers = await asyncio.gather(*map(asyncio.wrap_future, begun))
        for number, sample, prepared in zip(portion.numbers, portion.samples, answers, strict=True):
            answer = self._fatal.get(sample.sample_id, prepared)
            if isinstance(answer, SkippedSample):
                portion.skip(number, answer)
                self._room.measured(number, 0)
                continue
            self._room.measured(number, answer.num_bytes)
            usable.append(sample)
            portion.prompts.append(answer)
        portion.samples = usable
        self._changed.set()

    async def _sampled(self, portion: Portion) -> None:
        with portion.timed("encode"):
            portion.prompts = await asyncio.wrap_future(self._workers.encoder.begin_encode(portion.prompts))
        with portion.timed("generate"):
            numbers = [number for number in portion.numbers if number not in portion.skipped]
            answers = await asyncio.wrap_future(
                self._workers.rollouts.begin_generate(
                    portion.prompts, group_ids=numbers, sampling=self._sampling, seed=self._run.seed
                )
            )
        self._take_groups(portion, numbers, answers)
        if self._workers.reference is not None and portion.groups:
            # It needs no rewards, so it works while they are computed.
            pairs = zip(portion.groups, portion.prompts, strict=True)
            sampled = [sampled_group(group, prompt) for group, prompt in pairs]
            portion.ref = self._workers.reference.begin_log_probs(sampled, temperature=self._run.rollout.temperature)

    def _take_groups(self, portion: Portion, numbers: Sequence[int], answers: Sequence[Group | LostPrompt]) -> None:
        """What no engine survived leaves here."""
        samples, prompts = [], []
        for number, sample, prompt, answer in zip(numbers, portion.samples, portion.prompts, answers, strict=True):
            if isinstance(answer, LostPrompt):
                self._fatal[sample.sample_id] = SkippedSample(sample.sample_id, sample.video, "fatal", answer.detail)
                portion.skip(number, self._fatal[sample.sample_id])
                continue
            samples.append(sample)
            prompts.append(prompt)
            portion.groups.append(answer)
        portion.samples, portion.prompts = samples, prompts

    async def _scored(self, portion: Portion) -> None:
        step = 1 + portion.numbers[0] // self._run.algorithm.prompts_per_step
        with portion.timed("reward"):
            portion.scored = await asyncio.wrap_future(
                self._workers.rewards.begin_score(portion.groups, portion.samples, step=step)
            )

    async def _has_room(self, number: int) -> None:
        """The pixels of what is ahead of the learner take no more than they may; the next step's never wait."""
        while number >= self._urgent + self._run.algorithm.prompts_per_step and not self._room.has_room:
            self._changed.clear()
            await self._changed.wait()

    async def _free(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._room.leave(number)
        self._urgent = max(self._urgent, max(numbers) + 1)
        self._changed.set()


def sampling_of(run: GrpoRun) -> SamplingSpec:
    """How this run samples its training rollouts."""
    rollout = run.rollout
    return SamplingSpec(
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_tokens=rollout.max_response_tokens,
        group_size=run.algorithm.group_size,
    )
