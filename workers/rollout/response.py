"""One response on its way through a vLLM engine, and which policy sampled which of its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from videor2_rl.types import Rollout

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput, RequestOutput


class Response:
    """Added to the engine; its output is asked for once."""

    def __init__(self, engine: Any, queue: Any, *, policy_version: int) -> None:
        """
        Args:
            queue: what the engine's `add_request` gave.
            policy_version: that samples from now on.
        """
        self._engine = engine
        self._queue = queue
        self._starts = [(policy_version, 0)]

    @classmethod
    async def begin(
        cls, engine: Any, prompt: Any, params: SamplingParams, request_id: str, *, policy_version: int
    ) -> Response:
        """Add a request; the engine has it when this returns."""
        queue = await engine.add_request(request_id, prompt, params)
        return cls(engine, queue, policy_version=policy_version)

    def go_on_with(self, policy_version: int) -> None:
        """What is sampled from now on is of another policy; nothing where the response has ended.

        The engine must stand still, and have handed over all that it sampled (`settled`).
        """
        if self._state is not None:
            self._starts.append((policy_version, self.num_tokens))

    @property
    def num_tokens(self) -> int:
        """Sampled so far; 0 where the response has ended."""
        state = self._state
        return 0 if state is None else state.detokenizer.num_output_tokens()

    @property
    def _state(self) -> Any:
        return self._engine.output_processor.request_states.get(self._queue.request_id)

    async def output(self) -> RequestOutput:
        """All of it, once it has ended; a wait that is broken off ends the request."""
        try:
            while True:
                output = self._queue.get_nowait() or await self._queue.get()
                if output.finished:
                    return output
        except asyncio.CancelledError:
            await self._engine.abort(self._queue.request_id, internal=True)
            raise
        finally:
            self._queue.close()

    def rollout(self, output: RequestOutput, text: str) -> Rollout:
        """The output as the driver gets it."""
        return rollout_of(output.outputs[0], text, self._starts)


def rollout_of(output: CompletionOutput, text: str, starts: Sequence[tuple[int, int]]) -> Rollout:
    """What an engine gave, as the driver gets it.

    Args:
        text: its tokens, decoded.
        starts: policy version and place of its first token, of all policies in order.
    """
    # One for each token, the sampled one's.
    log_probs = output.logprobs.logprobs  # type: ignore[union-attr]
    assert len(log_probs) == len(output.token_ids)
    # Without those that sampled nothing before the next one.
    ends = [place for _, place in starts[1:]] + [len(output.token_ids)]
    first, *later = [start for start, end in zip(starts, ends, strict=True) if end > start[1]] or starts[-1:]
    return Rollout(
        token_ids=np.array(output.token_ids, dtype=np.int64),
        log_probs=np.array(log_probs, dtype=np.float32),
        # Without bytes that begin a character which the response does not end.
        text=text.rstrip("\ufffd"),
        finish_reason=output.finish_reason,  # type: ignore[arg-type]
        policy_version=first[0],
        continued=tuple(later),
    )


async def settled(engine: Any) -> None:
    """Wait until all that a paused engine sampled has been counted on this side."""
    while not engine.engine_core.outputs_queue.empty():
        await asyncio.sleep(0)
    # vLLM gives way between portions of what it took from the queue last.
    for _ in range(16):
        await asyncio.sleep(0)
