"""One vLLM engine that answers prompts one at a time, each token as it comes; no Ray, no weight updates."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from videor2_rl.model.family import read_family
from videor2_rl.types import AnswerPart, Prompt, SamplingSpec
from workers.rollout.engine import EngineSpec, build_engine, engine_input, pixels_of, sampling_params


class Answers:
    """The answers of one engine."""

    def __init__(self, engine: Any, spec: EngineSpec) -> None:
        """
        Args:
            engine: an `AsyncLLM` of `spec`.
        """
        from transformers import AutoProcessor

        self._engine = engine
        self._spec = spec
        self._family = read_family(spec.model_path)
        self._video_processor = AutoProcessor.from_pretrained(spec.model_path).video_processor
        self._numbers = itertools.count()

    async def answer(self, prompt: Prompt, sampling: SamplingSpec) -> AsyncIterator[AnswerPart]:
        """The response to a prompt as it is sampled; whoever stops listening ends the request.

        Raises:
            EngineDeadError: the engine process died.
        """
        from vllm.sampling_params import RequestOutputKind

        pixels = pixels_of(prompt, self._video_processor, dtype=self._spec.dtype)
        whole: Any = engine_input(prompt, video=pixels, is_encoded=False, family=self._family)
        items = {"video": list(whole["mm_kwargs"]["video"])}
        self._engine.input_processor.inject_into_mm_cache(whole["mm_hashes"], items)
        params = sampling_params(sampling, seed=None, banned_token_ids=self._spec.banned_token_ids)
        params.detokenize, params.output_kind, params.logprobs = True, RequestOutputKind.DELTA, None
        num_tokens = 0
        stream = self._engine.generate({**whole, "mm_kwargs": items}, params, f"answer-{next(self._numbers)}")
        try:
            async for output in stream:
                [part] = output.outputs
                num_tokens += len(part.token_ids)
                yield AnswerPart(part.text, num_tokens, part.finish_reason)
        finally:
            await stream.aclose()


@asynccontextmanager
async def answering(spec: EngineSpec) -> AsyncIterator[Answers]:
    """An engine of one's own, ended with the block; `rollout_env` must be in the environment already."""
    engine = await build_engine(spec)
    try:
        yield Answers(engine, spec)
    finally:
        engine.shutdown()
