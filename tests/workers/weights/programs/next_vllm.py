"""An engine of another vLLM release takes new weights by file and by gloo, and serves them: `make test-next-vllm`.

Usage: python tests/workers/weights/programs/next_vllm.py CHECKPOINT

Needs vLLM, torch and transformers alone; prints what it compared and ends with 1 where something differs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import vllm
from hf_network import hf_model

from videor2_rl.model.weights import ExpectedWeights, expected_weights
from workers.weights import vllm_adapter
from workers.weights.group import GroupAddress
from workers.weights.plan import WeightPlan, buckets_of
from workers.weights.sender import WeightSender
from workers.weights.shared import shared_file

PROMPT = list(range(40, 72))
NUM_TOKENS = 24
LIMIT = 1e-4
"""Nats, as between the pinned release and transformers."""


async def gap(engine: Any, model: Any, name: str) -> float:
    """Largest difference in nats between the engine's log-probs of what it samples and a model's."""
    params = vllm.SamplingParams(temperature=1.0, seed=0, max_tokens=NUM_TOKENS, logprobs=0, ignore_eos=True)
    async for output in engine.generate({"prompt_token_ids": PROMPT}, params, name):
        found = output.outputs[0]
    tokens = list(found.token_ids)
    scored = torch.tensor([entry[token].logprob for entry, token in zip(found.logprobs, tokens, strict=True)])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPT + tokens])).logits[0, len(PROMPT) - 1 : -1]
    expected = logits.double().log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    return float((expected - scored).abs().max())


async def update(engine: Any, sender: WeightSender, plan: WeightPlan, model: Any, *, by_group: bool) -> None:
    tensors = model.state_dict()
    with ThreadPoolExecutor(1) as thread:
        if by_group:
            address = GroupAddress("127.0.0.1", sender.open("127.0.0.1", deadline_s=60), 2, 60)
            joining = thread.submit(sender.join, address)
            await vllm_adapter.join_group(engine, address, first_member=1)
            joining.result()
        await vllm_adapter.begin(engine)
        for index, bucket in enumerate(plan.buckets):
            named = [(name, tensors[name]) for name in bucket.names]
            gathered = sender.fill(index, bucket, named, keeps_base=False, only_changes=False)
            if by_group:
                sending = thread.submit(sender.send)
                await vllm_adapter.load_bucket(engine, index, bucket, gathered, plan=plan, path=None)
                sending.result()
                continue
            with shared_file(sender.stored(), plan.policy_version) as path:
                await vllm_adapter.load_bucket(engine, index, bucket, gathered, plan=plan, path=path)
    await vllm_adapter.finish(engine, plan.policy_version, keeps_base=False)
    await vllm_adapter.empty_caches(engine, changes_vision=plan.changes_vision)
    await engine.resume_generation()


def plan_of(expected: ExpectedWeights, names: list[str], version: int) -> WeightPlan:
    buckets = buckets_of(expected, names, max_bytes=256 << 10, bytes_per_value=4)
    return WeightPlan(version, "float32", buckets, keeps_base=False)


async def main(checkpoint: str) -> int:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments: dict[str, Any] = {
        "model": checkpoint,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 256,
        "kv_cache_memory_bytes": 1 << 28,
        "block_size": 32,
        "limit_mm_per_prompt": {"video": 1, "image": 0},
        "skip_mm_profiling": True,
        "worker_extension_cls": vllm_adapter.EXTENSION,
    }
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    await vllm_adapter.prepare(engine, float32_head=False)
    sender = WeightSender(dtype=torch.float32, device=torch.device("cpu"))
    expected = expected_weights(checkpoint)
    everything = list(expected.shapes)
    some = [name for name in everything if ".layers.1.self_attn.q_proj." in name]
    failures = 0

    async def compare(what: str, same: Any, other: Any | None) -> None:
        nonlocal failures
        near = await gap(engine, same, f"{what} same")
        far = None if other is None else await gap(engine, other, f"{what} other")
        is_right = near < LIMIT and (far is None or far > 100 * LIMIT)
        failures += not is_right
        print(f"{'ok  ' if is_right else 'FAIL'} {what}: {near:.1e} nats from its own model, {far} from the one before")

    first, second, third = hf_model(checkpoint, seed=None), hf_model(checkpoint, seed=1), hf_model(checkpoint, seed=2)
    print(f"vLLM {vllm.__version__}, torch {torch.__version__}")
    await compare("the checkpoint", first, None)
    await update(engine, sender, plan_of(expected, everything, 1), second, by_group=False)
    await compare("all weights by file", second, first)
    await update(engine, sender, plan_of(expected, everything, 2), third, by_group=True)
    await compare("all weights by gloo", third, second)
    plan = plan_of(expected, some, 3)
    await update(engine, sender, plan, second, by_group=True)
    mixed = hf_model(checkpoint, seed=2)
    mixed.load_state_dict({name: second.state_dict()[name] for name in plan.shapes}, strict=False)
    await compare(f"{len(plan.shapes)} of {len(everything)} weights", mixed, None)
    engine.shutdown()
    return min(1, failures)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1])))
