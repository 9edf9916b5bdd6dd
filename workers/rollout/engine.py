"""What a vLLM engine is built with and given: arguments, environment, sampling parameters, prompts."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from videor2_rl.config.sections import ModelConfig, RolloutConfig
from videor2_rl.model.family import ModelFamily
from videor2_rl.model.prompt import banned_token_ids, normalize_patches
from videor2_rl.types import Prompt, SamplingSpec

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import SamplingParams
    from vllm.inputs import MultiModalInput

PIXEL_CACHE_GIB = 1.0
"""Pixels that an engine keeps so that the siblings of a group need not send them again."""

_SOCKETS = "VLLM_RPC_BASE_PATH"


@dataclass(frozen=True)
class EngineSpec:
    """Everything that a worker needs to build its engine."""

    rollout: RolloutConfig
    model_path: str
    dtype: str
    device: str
    float32_head: bool
    """Logits are not rounded to `dtype`."""
    banned_token_ids: tuple[int, ...]
    """Never sampled: a learner cannot place a vision token that has no pixels."""


def engine_spec(rollout: RolloutConfig, model: ModelConfig, *, device: Literal["cpu", "cuda"]) -> EngineSpec:
    """What a rollout worker needs to know; reads the checkpoint's tokenizer for the tokens it must never sample."""
    from transformers import AutoTokenizer

    return EngineSpec(
        rollout=rollout,
        model_path=model.path,
        dtype=model.dtype,
        device=device,
        float32_head=model.float32_head,
        banned_token_ids=banned_token_ids(AutoTokenizer.from_pretrained(model.path)),
    )


def rollout_env(config: RolloutConfig, device: str) -> dict[str, str]:
    """Environment of a rollout worker; it must be set before the process starts."""
    # Below ERROR vLLM warns at every weight update of layers that have no weights.
    env = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "VLLM_LOGGING_LEVEL": "ERROR"}
    if device == "cpu":
        env |= {
            # More threads than this spin-wait for each other as soon as another process wants the cores: 20x slower.
            "OMP_NUM_THREADS": "1",
            # With one worker per engine a third process brings nothing; this keeps the engine at two.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if config.tensor_parallel_size == 1 else "1",
            # Eager engines still compile how they count the ranks of tokens: 15 s of every start, and a C++ compiler.
            "TORCH_COMPILE_DISABLE": "1",
        }
        if config.tensor_parallel_size > 1:
            # vLLM would give each process a NUMA node of its own, and refuse where there are fewer.
            env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return env


def engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Keyword arguments of vLLM's `AsyncEngineArgs`."""
    from workers.weights.vllm_adapter import EXTENSION

    config = spec.rollout
    arguments: dict[str, Any] = {
        "model": spec.model_path,
        "dtype": spec.dtype,
        "tensor_parallel_size": config.tensor_parallel_size,
        "max_model_len": config.max_model_tokens,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "block_size": config.block_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"video": 1, "image": 0},
        "skip_mm_profiling": True,
        "mm_processor_cache_gb": PIXEL_CACHE_GIB,
        # Of what was sampled from, where nothing is cut away: only such log-probs can weigh it.
        "logprobs_mode": "processed_logprobs" if config.is_tempered else "raw_logprobs",
        # Each engine's own, unless every response has one.
        "seed": 0 if config.reproducible else secrets.randbits(31),
        "worker_extension_cls": EXTENSION,
    }
    if spec.device == "cpu":
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": config.kv_cache_gib << 30}
        if config.tensor_parallel_size == 1:
            arguments["distributed_executor_backend"] = "uni"
    return arguments


def sample_seed(seed: int, group_id: int, sample: int) -> int:
    """Seed of one response: depends on nothing but the run's seed, the group and the response's place in it."""
    state = np.random.SeedSequence((seed, group_id, sample)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def sampling_params(spec: SamplingSpec, *, seed: int | None, banned_token_ids: Sequence[int]) -> SamplingParams:
    """One response, with the sampled tokens' log-probs; without a seed the engine's own random numbers decide."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        max_tokens=spec.max_tokens,
        seed=seed,
        logprobs=0,  # the sampled token's alone
        flat_logprobs=True,
        # Whole responses are decoded when they are there: token by token it costs as much again as the log-probs.
        detokenize=False,
        logit_bias=dict.fromkeys(banned_token_ids, -100.0),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


async def build_engine(spec: EngineSpec) -> Any:
    """An `AsyncLLM` that answers."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from workers.weights import vllm_adapter

    with _sockets_nowhere():
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(spec)))
        await vllm_adapter.prepare(engine, float32_head=spec.float32_head)
        # Asked once, so that no later request waits for the answer and lets another one pass.
        await engine.get_supported_tasks()
    return engine


@contextmanager
def _sockets_nowhere() -> Iterator[None]:
    """The sockets of an engine that starts lie in a folder that goes when it answers: all are connected then.

    They would stay in the machine's folder for temporary files whenever a worker is killed, as at a run's end.
    """
    before = os.environ.get(_SOCKETS)
    # A short name: a socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="vllm", dir=before, ignore_cleanup_errors=True) as folder:
        os.environ[_SOCKETS] = folder
        try:
            yield
        finally:
            del os.environ[_SOCKETS]
            if before is not None:
                os.environ[_SOCKETS] = before


def pixels_of(prompt: Prompt, video_processor: Any, *, dtype: str) -> Tensor:
    """[N, channels * temporal_patch * patch * patch] normalised patches of a prompt."""
    import torch

    patches = torch.tensor(prompt.patches)
    pixels = normalize_patches(patches, mean=video_processor.image_mean, std=video_processor.image_std)
    return pixels.to(getattr(torch, dtype))


def engine_input(prompt: Prompt, *, video: Tensor, is_encoded: bool, family: ModelFamily) -> MultiModalInput:
    """The prompt as vLLM's processor would hand it to the engine, so that vLLM does not process it again.

    vLLM's own processing of Qwen2.5-VL drops the frame rate and would place every video at 24 frames per second. A
    Qwen3-VL's video has text between its temporal patches; vLLM looks for the start token of each of them.

    Args:
        video: [N, channels * temporal_patch * patch * patch] normalised patches in the model's dtype.
        is_encoded: `video` is instead [merged patches, E], visual embeddings that the engine takes as they are.
    """
    import torch
    from transformers import BatchFeature
    from vllm.inputs import mm_input
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange

    is_video = prompt.token_ids == family.video_token_id
    (places,) = np.nonzero(is_video)
    start, stop = int(places[0]), int(places[-1]) + 1
    if family.is_interleaved:
        # From the first picture's start token to the last one's end token.
        start, stop = start - 1, stop + 1
    name = "video_embeds" if is_encoded else "pixel_values_videos"
    fields = BatchFeature(
        {
            name: video,
            "video_grid_thw": torch.tensor(prompt.video_grid_thw),
            "second_per_grid_ts": torch.tensor([prompt.second_per_grid_s], dtype=torch.float64),
        }
    )
    config = {
        name: MultiModalFieldConfig.flat_from_sizes("video", torch.tensor([len(video)])),
        "video_grid_thw": MultiModalFieldConfig.batched("video", keep_on_cpu=True),
        "second_per_grid_ts": MultiModalFieldConfig.batched("video", keep_on_cpu=True),
    }
    return mm_input(
        prompt.token_ids.tolist(),
        MultiModalKwargsItems.from_hf_inputs(fields, config),
        mm_hashes={"video": [prompt.clip_key]},
        mm_placeholders={
            "video": [PlaceholderRange(offset=start, length=stop - start, is_embed=torch.tensor(is_video[start:stop]))]
        },
    )
