"""A rollout worker: one vLLM engine, prompts in, groups of sampled responses out.

Weights of the checkpoint folder, as vLLM loads them at the start, are policy version 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from videor2_rl.model.family import read_family
from videor2_rl.model.weights import check_weights, expected_weights
from videor2_rl.types import Group, Prompt, SamplingSpec
from workers.fetch import WorkerLost
from workers.liveness import Pulse
from workers.memory import process_memory
from workers.rollout.engine import (
    EngineSpec,
    build_engine,
    engine_input,
    pixels_of,
    sample_seed,
    sampling_params,
)
from workers.rollout.heart import Heart
from workers.rollout.response import Response, settled
from workers.weights.group import GroupAddress
from workers.weights.plan import Gathered, WeightPlan, WeightsRefused, check_plan
from workers.weights.shared import remove_orphaned_files, shared_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


T = TypeVar("T")

ALIVE_POLL_S = 0.5


@dataclass(frozen=True)
class GenerateRequest:
    """What goes with the prompts of one call."""

    group_ids: tuple[int, ...]
    sampling: SamplingSpec
    seed: int
    policy_version: int | None
    """The worker refuses to sample with any other, and does nothing else meanwhile; None: with whichever it has, beside
    other calls."""


class RolloutWorker:
    """A vLLM engine; a Ray actor in a run, an ordinary object in tests."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._engine: Any = None
        self._policy_version: int | None = None
        self._lock = asyncio.Lock()
        """Held by whatever must be alone: a call that samples with one policy, a phase of an update."""
        self._is_whole = asyncio.Event()
        """The weights are of one version."""
        self._running: set[Response] = set()
        self._heart: Heart | None = None
        """None: there is no engine yet."""

    async def start(self) -> float:
        """Build the engine. Returns seconds."""
        started = time.perf_counter()
        remove_orphaned_files()
        self._expected = expected_weights(self._spec.model_path)
        await self._build_engine()
        return time.perf_counter() - started

    async def version(self) -> int | None:
        """Policy version of the weights in use; None while they are not whole."""
        return self._policy_version

    async def memory(self) -> dict[str, float]:
        """Of this process and its engine's, in MiB by kind."""
        return process_memory()

    async def pulse(self, hold_s: float) -> Pulse:
        """A sign of life after so many seconds (`workers.pool.PULSE`: beside whatever else goes on here).

        Raises:
            WorkerLost: the engine process died.
        """
        if self._heart is None:
            await asyncio.sleep(hold_s)
            return Pulse()
        engine = self._engine
        return await self._heart.beat(
            hold_s,
            is_dead=lambda: engine.errored,
            # What is held by an update need not get anywhere; its phases have deadlines.
            is_busy=lambda: bool(self._running) and self._is_whole.is_set(),
            progress=lambda: sum(response.num_tokens for response in tuple(self._running)),
        )

    async def health(self) -> None:
        """Raises WorkerLost when the engine process is gone; does not notice one that hangs."""
        if self._engine is None or self._engine.errored:
            raise WorkerLost("the engine process is gone")

    async def answers(self) -> None:
        """Returns once the engine has answered something: one that stands still never does.

        Raises:
            WorkerLost: the engine process died.
        """
        from workers.weights import vllm_adapter

        await self._asked(vllm_adapter.base_version(self._engine))

    async def stop(self) -> None:
        """End the engine process."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    async def generate(self, request: GenerateRequest, *inputs: Prompt | Tensor | None) -> list[Group]:
        """One group per prompt.

        Args:
            inputs: the prompts; then, where there are any, as many visual embeddings to take instead of pixels.

        With a policy version, the whole call is queued before the engine takes its first step, and with
        `rollout.reproducible` starts from empty caches: its batches, and with them the last bits of every number, do
        not depend on timing or worker. Without one, an update that comes in between holds the responses where they are,
        and they go on with the new weights; each says which policy sampled which of its tokens.

        Raises:
            RuntimeError: the worker holds another policy version, or the engine saw another prompt.
            WorkerLost: the engine process died.
        """
        with _engine_lost("generating"):
            if request.policy_version is None:
                return await self._outputs(request, inputs, await self._begin_beside_others(request, inputs))
            async with self._lock:
                if self._policy_version != request.policy_version:
                    raise RuntimeError(
                        f"this worker holds policy version {self._policy_version}; {request.policy_version} was asked "
                        "for"
                    )
                return await self._outputs(request, inputs, await self._begin_alone(request, inputs))

    async def join_group(self, address: GroupAddress, first_member: int) -> None:
        """Meet the learner and the other workers; the engine's processes are members from `first_member` on."""
        from workers.weights import vllm_adapter

        async with self._lock:
            await self._asked(vllm_adapter.join_group(self._engine, address, first_member=first_member))

    async def begin_update(self, plan: WeightPlan) -> int | None:
        """Hold what runs and open an update: the worker samples nothing until `finish_update`.

        Returns:
            The policy version of which the engine keeps all values that were sent, if any.

        Raises:
            WeightsRefused: the plan does not fit the model; the old weights stay in use.
            WorkerLost: the engine process died.
        """
        from workers.weights import vllm_adapter

        async with self._lock:
            check_plan(plan, self._expected.shapes)
            base = await self._asked(vllm_adapter.base_version(self._engine))
            self._plan = plan
            await self._hold()
            return base

    async def receive_bucket(self, index: int, gathered: Gathered, payload: NDArray[np.uint8] | None = None) -> None:
        """Load a bucket of the plan.

        Args:
            payload: uint8 [num_bytes]; None: it comes from the group.

        Raises:
            Exception: as the engine said it; its weights are not whole then.
        """
        from workers.weights import vllm_adapter

        plan = self._plan
        file = nullcontext() if payload is None else shared_file(payload, plan.policy_version)
        async with self._lock:
            with file as path:
                await self._asked(
                    vllm_adapter.load_bucket(self._engine, index, plan.buckets[index], gathered, plan=plan, path=path)
                )

    async def finish_update(self) -> None:
        """Close the update; the worker serves the plan's version."""
        async with self._lock:
            await self._finish(
                self._plan.policy_version,
                keeps_base=self._plan.keeps_base,
                changes_vision=self._plan.changes_vision,
            )

    async def load_folder(self, folder: str, policy_version: int) -> None:
        """Replace all weights by those of a checkpoint folder of the same architecture.

        Raises:
            ConfigError: the folder lacks weights; the old ones stay in use.
            WeightsRefused: they are of other shapes than the model's; the same.
        """
        from workers.weights import vllm_adapter

        check_weights(folder, key="model.path")
        if dict(expected_weights(folder).shapes) != dict(self._expected.shapes):
            raise WeightsRefused(f"the weights in {folder} are of another model than those in {self._spec.model_path}")
        async with self._lock:
            await self._hold()
            await self._asked(vllm_adapter.load_folder(self._engine, folder))
            await self._finish(policy_version, keeps_base=False, changes_vision=True)

    async def _hold(self) -> None:
        from workers.weights import vllm_adapter

        self._policy_version = None
        self._is_whole.clear()
        await self._asked(vllm_adapter.begin(self._engine))
        await settled(self._engine)

    async def _finish(self, policy_version: int, *, keeps_base: bool, changes_vision: bool) -> None:
        from workers.weights import vllm_adapter

        await self._asked(vllm_adapter.finish(self._engine, policy_version, keeps_base=keeps_base))
        await self._asked(vllm_adapter.empty_caches(self._engine, changes_vision=changes_vision))
        for response in self._running:
            response.go_on_with(policy_version)
        # Only here are the weights whole: a generation with anything less would end the engine process.
        await self._asked(self._engine.resume_generation())
        self._policy_version = policy_version
        self._is_whole.set()

    async def _asked(self, question: Coroutine[Any, Any, T]) -> T:
        """What the engine answers; vLLM leaves a question for ever unanswered when the engine dies over it.

        Raises:
            WorkerLost: the engine process died.
        """
        task = asyncio.ensure_future(question)
        while not task.done():
            await asyncio.wait({task}, timeout=ALIVE_POLL_S)
            if self._engine.errored and not task.done():
                task.cancel()
                raise WorkerLost("the engine process died in a weight update")
        with _engine_lost("a weight update"):
            return task.result()

    async def _build_engine(self) -> None:
        from transformers import AutoProcessor

        self._engine = await build_engine(self._spec)
        self._family = read_family(self._spec.model_path)
        processor = AutoProcessor.from_pretrained(self._spec.model_path)
        self._video_processor, self._tokenizer = processor.video_processor, processor.tokenizer
        self._heart = Heart()
        self._policy_version = 0
        self._is_whole.set()

    async def _begin_alone(self, request: GenerateRequest, inputs: Sequence[Any]) -> list[Response]:
        await self._engine.pause_generation(mode="abort", clear_cache=self._spec.rollout.reproducible)
        try:
            return await self._begin(request, inputs)
        finally:
            await self._engine.resume_generation()

    async def _begin_beside_others(self, request: GenerateRequest, inputs: Sequence[Any]) -> list[Response]:
        while True:
            await self._is_whole.wait()
            # An update's first phase waits until all are added: it must know of each how far it has come.
            async with self._lock:
                if self._is_whole.is_set():
                    return await self._begin(request, inputs)

    async def _begin(self, request: GenerateRequest, inputs: Sequence[Any]) -> list[Response]:
        """One request per response, in the order of the groups."""
        num_prompts = len(request.group_ids)
        prompts: Sequence[Prompt] = inputs[:num_prompts]
        embeddings: Sequence[Tensor | None] = inputs[num_prompts:] or (None,) * num_prompts
        responses: list[Response] = []
        try:
            for group_id, prompt, visual in zip(request.group_ids, prompts, embeddings, strict=True):
                async for response in self._begin_group(prompt, visual, request, group_id):
                    self._running.add(response)
                    responses.append(response)
        except BaseException:
            self._running -= set(responses)
            raise
        return responses

    async def _outputs(
        self, request: GenerateRequest, inputs: Sequence[Any], responses: Sequence[Response]
    ) -> list[Group]:
        tasks = [asyncio.ensure_future(response.output()) for response in responses]
        try:
            outputs = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running -= set(responses)
        token_ids = [output.outputs[0].token_ids for output in outputs]
        texts = self._tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        size = request.sampling.group_size
        groups = []
        for index, group_id in enumerate(request.group_ids):
            prompt, its = inputs[index], slice(index * size, (index + 1) * size)
            if any(output.prompt_token_ids != prompt.token_ids.tolist() for output in outputs[its]):
                raise RuntimeError(f"{prompt.sample_id}: the engine saw other prompt tokens than the learner will")
            parts = zip(responses[its], outputs[its], texts[its], strict=True)
            rollouts = [response.rollout(output, text) for response, output, text in parts]
            groups.append(Group(group_id, prompt.sample_id, tuple(rollouts)))
        return groups

    async def _begin_group(
        self, prompt: Prompt, visual: Tensor | None, request: GenerateRequest, group_id: int
    ) -> AsyncIterator[Response]:
        """The first response takes the pixels or embeddings along, the others name them."""
        assert self._policy_version is not None
        whole = engine_input(
            prompt,
            video=self._pixels(prompt) if visual is None else visual,
            is_encoded=visual is not None,
            family=self._family,
        )
        for sample in range(request.sampling.group_size):
            items = {"video": list(whole["mm_kwargs"]["video"])}
            self._engine.input_processor.inject_into_mm_cache(whole["mm_hashes"], items)
            seed = sample_seed(request.seed, group_id, sample) if self._spec.rollout.reproducible else None
            params = sampling_params(request.sampling, seed=seed, banned_token_ids=self._spec.banned_token_ids)
            one: Any = {**whole, "mm_kwargs": items}
            name = f"{group_id}-{sample}"
            yield await Response.begin(self._engine, one, params, name, policy_version=self._policy_version)

    def _pixels(self, prompt: Prompt) -> Tensor:
        return pixels_of(prompt, self._video_processor, dtype=self._spec.dtype)


@contextmanager
def _engine_lost(what: str) -> Iterator[None]:
    """A dead engine process costs the worker."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise WorkerLost(f"the engine process died in {what}") from error
