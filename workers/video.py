"""Video workers: decode, overlay and processor; the prompts they make stay in the object store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import ray

from videor2_rl.background import then
from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.types import PromptHandle, SkippedSample, VideoSample
from workers.errors import CallGivenUp
from workers.liveness import Pulse, pulse_after
from workers.memory import process_memory
from workers.pool import ActorPool, PoolOwner, actor_class

logger = logging.getLogger(__name__)

MAX_LOSSES = 2
"""Workers that may be lost over one clip before it is the clip's fault; the last of them had nothing else to do."""


@dataclass(frozen=True)
class Prepared:
    """What a video worker answers for one sample."""

    outcome: PromptHandle | SkippedSample
    decodes: int
    """How often this clip was ever decoded into the cache; 0 for a skipped sample."""
    cache_fault: str | None = None
    """Why the clip could not be stored there."""


class VideoWorker:
    """Turns samples into prompts (Ray actor)."""

    def __init__(
        self, model: ModelConfig, video: VideoConfig, *, max_prompt_tokens: int, encode_solutions: bool
    ) -> None:
        from videor2_rl.model.prompt import PromptBuilder

        self._video = video
        self._builder = PromptBuilder(model, max_prompt_tokens=max_prompt_tokens)
        self._encode_solutions = encode_solutions

    def memory(self) -> dict[str, float]:
        """Of this process, in MiB by kind."""
        return process_memory()

    def pulse(self, hold_s: float) -> Pulse:
        """A sign of life after so many seconds (`workers.pool.PULSE`: beside whatever else goes on here)."""
        return pulse_after(hold_s)

    def ready(self) -> bool:
        return True

    def prepare(self, sample: VideoSample) -> Prepared:
        """Put the sample's prompt into the object store; a sample that cannot be used comes back as skipped."""
        from videor2_rl.video.errors import VideoError
        from videor2_rl.video.load import load_clip

        try:
            clip, stats = load_clip(sample, self._video)
            prompt = self._builder.build(sample, clip)
        except VideoError as error:
            return Prepared(SkippedSample(sample.sample_id, sample.video, error.reason, error.detail), decodes=0)
        handle = PromptHandle(
            sample_id=sample.sample_id,
            clip_key=prompt.clip_key,
            num_tokens=len(prompt.token_ids),
            ref=ray.put(prompt),
            num_bytes=prompt.patches.nbytes,
            solution_ids=self._builder.encode_response(sample.solution) if self._encode_solutions else None,
        )
        return Prepared(handle, decodes=stats.decodes, cache_fault=stats.cache_fault)


class VideoPool(PoolOwner):
    """The video workers, as the driver sees them."""

    def __init__(
        self, model: ModelConfig, video: VideoConfig, *, max_prompt_tokens: int, encode_solutions: bool = False
    ) -> None:
        actor = actor_class(VideoWorker)
        self._pool = ActorPool(
            "video",
            size=video.num_workers,
            create=lambda index: actor.options(num_cpus=video.cpus_per_worker).remote(
                model, video, max_prompt_tokens=max_prompt_tokens, encode_solutions=encode_solutions
            ),
            prepare=lambda handle: handle.ready.remote(),
            call_deadline_s=600,
            start_deadline_s=600,
            has_pulse=True,
            max_in_flight=4,
            max_losses=MAX_LOSSES,
        )
        self._lock = threading.Lock()
        self._ahead: dict[str, Future[Prepared]] = {}
        self._decodes: dict[str, int] = {}
        self._fatal: dict[str, SkippedSample] = {}
        self._cache_dir = video.cache_dir
        self._warned = False

    def begin_prepare(self, samples: Sequence[VideoSample]) -> list[Future[PromptHandle | SkippedSample]]:
        """One outcome for each sample, in order; those of the last `prefetch` are taken from it."""
        with self._lock:
            ahead = self._ahead
            begun = [ahead.pop(one.sample_id) if one.sample_id in ahead else self._begin(one) for one in samples]
        return [
            then(future, self._counted, rescue=partial(self._given_up, sample))
            for future, sample in zip(begun, samples, strict=True)
        ]

    def prepare(self, samples: Sequence[VideoSample]) -> list[PromptHandle | SkippedSample]:
        """`begin_prepare`, waited for."""
        begun = self.begin_prepare(samples)
        try:
            return [future.result() for future in begun]
        finally:
            for future in begun:
                future.cancel()

    def prefetch(self, samples: Sequence[VideoSample]) -> None:
        """Begin to prepare what will be asked for next; what was prefetched before and not asked for is let go."""
        with self._lock:
            for future in self._ahead.values():
                future.cancel()
            self._ahead = {sample.sample_id: self._begin(sample) for sample in samples}

    def decodes_per_clip(self) -> float:
        """Decodes of this run's clips over their number: 1.0 when each was decoded once, by whichever stage."""
        with self._lock:
            return sum(self._decodes.values()) / len(self._decodes) if self._decodes else 0.0

    def shutdown(self) -> None:
        self._pool.shutdown()

    def _begin(self, sample: VideoSample) -> Future[Prepared]:
        if sample.sample_id not in self._fatal:
            return self._pool.submit("prepare", sample)
        known: Future[Prepared] = Future()
        known.set_result(Prepared(self._fatal[sample.sample_id], decodes=0))
        return known

    def _given_up(self, sample: VideoSample, error: BaseException) -> SkippedSample:
        """A clip that ends every process which reads it, or keeps it for ever: one bad clip never ends a run."""
        if not isinstance(error, CallGivenUp):
            raise error
        skipped = SkippedSample(sample.sample_id, sample.video, "fatal", str(error))
        with self._lock:
            self._fatal[sample.sample_id] = skipped
        return skipped

    def _counted(self, prepared: Prepared) -> PromptHandle | SkippedSample:
        outcome = prepared.outcome
        with self._lock:
            if isinstance(outcome, PromptHandle):
                # What was not stored was not counted there either.
                before = self._decodes.get(outcome.clip_key, 0) if prepared.cache_fault else 0
                self._decodes[outcome.clip_key] = prepared.decodes + before
            is_news = prepared.cache_fault is not None and not self._warned
            self._warned |= is_news
        if is_news:
            logger.warning(
                "video.cache_dir: cannot write to %s (%s); the run goes on without, and decodes clips again when they "
                "come back",
                self._cache_dir,
                prepared.cache_fault,
            )
        return outcome
