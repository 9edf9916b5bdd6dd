"""Video workers: decode, overlay and processor; the prompts they make stay in the object store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import ray

from videor2_rl.config.sections import ModelConfig, VideoConfig
from videor2_rl.types import PromptHandle, SkippedSample, VideoSample
from workers.memory import process_memory
from workers.pool import ActorPool

logger = logging.getLogger(__name__)


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
            solution_ids=self._builder.encode_response(sample.solution) if self._encode_solutions else None,
        )
        return Prepared(handle, decodes=stats.decodes, cache_fault=stats.cache_fault)


class VideoPool:
    """The video workers, as the driver sees them."""

    def __init__(
        self, model: ModelConfig, video: VideoConfig, *, max_prompt_tokens: int, encode_solutions: bool = False
    ) -> None:
        actor = ray.remote(VideoWorker)
        self._pool = ActorPool(
            "video",
            size=video.num_workers,
            create=lambda index: actor.options(num_cpus=video.cpus_per_worker).remote(
                model, video, max_prompt_tokens=max_prompt_tokens, encode_solutions=encode_solutions
            ),
            prepare=lambda handle: handle.ready.remote(),
            call_deadline_s=600,
            start_deadline_s=600,
            max_in_flight=4,
        )
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._ahead: tuple[tuple[str, ...], Future[list[Prepared]]] | None = None
        self._decodes: dict[str, int] = {}
        self._cache_dir = video.cache_dir
        self._warned = False

    def prepare(self, samples: Sequence[VideoSample]) -> list[PromptHandle | SkippedSample]:
        """One outcome for each sample, in order; those of the last `prefetch` are taken from it."""
        prepared = self._take(samples)
        for item in prepared:
            if isinstance(item.outcome, PromptHandle):
                key = item.outcome.clip_key
                # What was not stored was not counted there either.
                before = self._decodes.get(key, 0) if item.cache_fault else 0
                self._decodes[key] = item.decodes + before
            if item.cache_fault and not self._warned:
                self._warned = True
                logger.warning(
                    "video.cache_dir: cannot write to %s (%s); the run goes on without, and decodes clips again when "
                    "they come back",
                    self._cache_dir,
                    item.cache_fault,
                )
        return [item.outcome for item in prepared]

    def prefetch(self, samples: Sequence[VideoSample]) -> None:
        """Begin to prepare what the next `prepare` will ask for, while the caller does something else."""
        self._ahead = (_ids(samples), self._thread.submit(self._map, list(samples)))

    def decodes_per_clip(self) -> float:
        """Decodes of this run's clips over their number: 1.0 when each was decoded once, by whichever stage."""
        return sum(self._decodes.values()) / len(self._decodes) if self._decodes else 0.0

    def memory(self) -> dict[str, float]:
        """The most that one worker takes, in MiB by kind."""
        return self._pool.memory()

    def shutdown(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown()

    def _take(self, samples: Sequence[VideoSample]) -> list[Prepared]:
        if self._ahead is not None and self._ahead[0] == _ids(samples):
            future = self._ahead[1]
        else:
            # Through the one thread as well: the pool is not for two threads at once.
            future = self._thread.submit(self._map, list(samples))
        self._ahead = None
        return future.result()

    def _map(self, samples: list[VideoSample]) -> list[Prepared]:
        return self._pool.map("prepare", [(sample,) for sample in samples])


def _ids(samples: Sequence[VideoSample]) -> tuple[str, ...]:
    return tuple(sample.sample_id for sample in samples)
