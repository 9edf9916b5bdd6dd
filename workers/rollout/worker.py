"""A rollout worker: one vLLM engine, prompts in, groups of sampled responses out.

Weights of the checkpoint folder, as vLLM loads them at the start, are policy version 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from videor2_rl.model.family import read_family
from videor2_rl.model.weights import check_weights, expected_weights
from videor2_rl.types import Group, Prompt, Rollout, SamplingSpec
from workers.memory import process_memory
from workers.pool import WorkerLost
from workers.rollout.engine import EngineSpec, engine_arguments, engine_input, sample_seed, sampling_params
from workers.weights.group import GroupAddress
from workers.weights.plan import Gathered, WeightPlan, WeightsRefused, check_plan
from workers.weights.shared import remove_orphaned_files, shared_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput


T = TypeVar("T")

ALIVE_POLL_S = 0.5


@dataclass(frozen=True)
class GenerateRequest:
    """What goes with the prompts of one call."""

    group_ids: tuple[int, ...]
    sampling: SamplingSpec
    seed: int
    policy_version: int
    """The worker refuses to sample with any other."""


class RolloutWorker:
    """A vLLM engine; a Ray actor in a run, an ordinary object in tests. Calls are served one after the other."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._engine: Any = None
        self._policy_version: int | None = None
        self._lock = asyncio.Lock()

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

        The whole call is queued before the engine takes its first step, and with `rollout.reproducible` starts from
        empty caches: its batches, and with them the last bits of every number, do not depend on timing or worker.

        Raises:
            RuntimeError: the worker holds another policy version, or the engine saw another prompt.
            WorkerLost: the engine process died.
        """
        async with self._lock:
            if self._policy_version != request.policy_version:
                raise RuntimeError(
                    f"this worker holds policy version {self._policy_version}; {request.policy_version} was asked for"
                )
            with _engine_lost("generating"):
                return await self._generate(request, inputs)

    async def join_group(self, address: GroupAddress, first_member: int) -> None:
        """Meet the learner and the other workers; the engine's processes are members from `first_member` on."""
        from workers.weights import vllm_adapter

        async with self._lock:
            await self._asked(vllm_adapter.join_group(self._engine, address, first_member=first_member))

    async def begin_update(self, plan: WeightPlan) -> int | None:
        """End what runs and open an update: the worker serves nothing until `finish_update`.

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
            self._plan, self._policy_version = plan, None
            await self._asked(vllm_adapter.begin(self._engine, changes_vision=plan.changes_vision))
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
            await self._finish(self._plan.policy_version, keeps_base=self._plan.keeps_base)

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
            self._policy_version = None
            await self._asked(vllm_adapter.begin(self._engine, changes_vision=True))
            await self._asked(vllm_adapter.load_folder(self._engine, folder))
            await self._finish(policy_version, keeps_base=False)

    async def _finish(self, policy_version: int, *, keeps_base: bool) -> None:
        from workers.weights import vllm_adapter

        await self._asked(vllm_adapter.finish(self._engine, policy_version, keeps_base=keeps_base))
        # Only here are the weights whole: a generation with anything less would end the engine process.
        await self._asked(self._engine.resume_generation())
        self._policy_version = policy_version

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
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from workers.weights import vllm_adapter

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(self._spec)))
        await vllm_adapter.prepare(self._engine, float32_head=self._spec.float32_head)
        # Asked once, so that no later request waits for the answer and lets another one pass.
        await self._engine.get_supported_tasks()
        self._family = read_family(self._spec.model_path)
        self._video_processor = AutoProcessor.from_pretrained(self._spec.model_path).video_processor
        self._policy_version = 0

    async def _generate(self, request: GenerateRequest, inputs: Sequence[Any]) -> list[Group]:
        num_prompts = len(request.group_ids)
        prompts: Sequence[Prompt] = inputs[:num_prompts]
        embeddings: Sequence[Tensor | None] = inputs[num_prompts:] or (None,) * num_prompts
        tasks: list[asyncio.Task[CompletionOutput]] = []
        await self._engine.pause_generation(mode="abort", clear_cache=self._spec.rollout.reproducible)
        try:
            for group_id, prompt, visual in zip(request.group_ids, prompts, embeddings, strict=True):
                tasks += self._submit(prompt, visual, request, group_id)
            await asyncio.sleep(0)  # every task runs up to its request's way to the engine, in this order
        finally:
            await self._engine.resume_generation()
        try:
            outputs = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        size = request.sampling.group_size
        return [
            Group(
                group_id=group_id,
                sample_id=prompt.sample_id,
                rollouts=tuple(_rollout(out, request.policy_version) for out in outputs[i * size : (i + 1) * size]),
            )
            for i, (group_id, prompt) in enumerate(zip(request.group_ids, prompts, strict=True))
        ]

    def _submit(
        self, prompt: Prompt, visual: Tensor | None, request: GenerateRequest, group_id: int
    ) -> list[asyncio.Task[CompletionOutput]]:
        """One request per response. The first takes the pixels or embeddings along, the others name them."""
        whole = engine_input(
            prompt,
            video=self._pixels(prompt) if visual is None else visual,
            is_encoded=visual is not None,
            family=self._family,
        )
        tasks = []
        for sample in range(request.sampling.group_size):
            items = {"video": list(whole["mm_kwargs"]["video"])}
            self._engine.input_processor.inject_into_mm_cache(whole["mm_hashes"], items)
            seed = sample_seed(request.seed, group_id, sample) if self._spec.rollout.reproducible else None
            params = sampling_params(request.sampling, seed=seed, banned_token_ids=self._spec.banned_token_ids)
            one: Any = {**whole, "mm_kwargs": items}
            tasks.append(asyncio.create_task(self._sample(prompt, one, params, f"{group_id}-{sample}")))
        return tasks

    def _pixels(self, prompt: Prompt) -> Tensor:
        import torch

        from videor2_rl.model.prompt import normalize_patches

        processor = self._video_processor
        pixels = normalize_patches(torch.tensor(prompt.patches), mean=processor.image_mean, std=processor.image_std)
        return pixels.to(getattr(torch, self._spec.dtype))

    async def _sample(self, prompt: Prompt, one: Any, params: SamplingParams, request_id: str) -> CompletionOutput:
        async for output in self._engine.generate(one, params, request_id):
            if output.prompt_token_ids != prompt.token_ids.tolist():
                raise RuntimeError(f"{prompt.sample_id}: the engine saw other prompt tokens than the learner will")
        return output.outputs[0]


@contextmanager
def _engine_lost(what: str) -> Iterator[None]:
    """A dead engine process costs the worker."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise WorkerLost(f"the engine process died in {what}") from error


def _rollout(output: CompletionOutput, policy_version: int) -> Rollout:
    assert output.logprobs is not None
    log_probs = [entry[token].logprob for entry, token in zip(output.logprobs, output.token_ids, strict=True) if entry]
    assert len(log_probs) == len(output.token_ids)
    return Rollout(
        token_ids=np.array(output.token_ids, dtype=np.int64),
        log_probs=np.array(log_probs, dtype=np.float32),
        text=output.text,
        finish_reason=output.finish_reason,  # type: ignore[arg-type]
        policy_version=policy_version,
    )
