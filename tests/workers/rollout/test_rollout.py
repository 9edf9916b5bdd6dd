"""Rollout workers: the pure parts, one engine against Hugging Face, and the pool under faults."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weight_source import ActorRanks, LocalRanks, Source, TensorRank, load, rank_actor

from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import GrpoRun
from videor2_rl.doctor.sizing import model_shape, rollout_worker_bytes
from videor2_rl.model.packing import PixelNorm
from videor2_rl.model.visual import encode_clip
from videor2_rl.model.weights import expected_weights
from videor2_rl.types import Group, Prompt, PromptHandle, SamplingSpec
from workers.learner.policy_weights import LearnerWeights
from workers.rollout import worker as rollout_worker
from workers.rollout.engine import EngineSpec, rollout_env, sample_seed
from workers.rollout.pool import RolloutPool, call_parts
from workers.rollout.worker import GenerateRequest
from workers.weights.group import GroupAddress
from workers.weights.plan import Bucket, Gathered, WeightsRefused

FLOAT32_LIMIT = 1e-4
"""Nats; the same weights and input differ by some 3e-6."""
SECONDS_PER_GRID = (0.5, 1.0, 2.0, 0.4)


GRID = (4, 4, 6)
"""Patches in time, height, width; merged 2 x 2 that is 4 * 2 * 3 = 24 video tokens."""
PATCH_VALUES = 3 * 2 * 7 * 7
TOKENS_PER_SECOND = 2


def original_positions(
    before: int, after: int, *, second_per_grid_s: float, grid: tuple[int, int, int] = GRID
) -> np.ndarray:
    """[3, P]: text, one video, text, by the formula published with Qwen2.5-VL, written out token by token."""
    rows = [[i, i, i] for i in range(before)]
    for t in range(grid[0]):
        for h in range(grid[1] // 2):
            for w in range(grid[2] // 2):
                rows.append([before + int(t * second_per_grid_s * TOKENS_PER_SECOND), before + h, before + w])
    start = max(max(row) for row in rows) + 1
    rows += [[start + i] * 3 for i in range(after)]
    return np.array(rows, dtype=np.int64).T


def make_prompt(tokenizer: Any, *, seed: int, second_per_grid_s: float = 1.0) -> Prompt:
    rng = np.random.default_rng(seed)
    video = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    before = tokenizer.encode("<|im_start|>user\n<|vision_start|>")
    after = tokenizer.encode("<|vision_end|>Which colour appears first?<|im_end|>\n<|im_start|>assistant\n")
    num_video = GRID[0] * GRID[1] * GRID[2] // 4
    return Prompt(
        sample_id=f"sample-{seed}",
        clip_key=f"clip-{seed}-{second_per_grid_s}",
        text="",
        token_ids=np.array(before + [video] * num_video + after, dtype=np.int64),
        position_ids=original_positions(len(before), len(after), second_per_grid_s=second_per_grid_s),
        patches=rng.integers(0, 256, (GRID[0] * GRID[1] * GRID[2], PATCH_VALUES), dtype=np.uint8),
        video_grid_thw=np.array([GRID], dtype=np.int64),
        second_per_grid_s=second_per_grid_s,
        timestamps_s=np.arange(2 * GRID[0]) * second_per_grid_s / 2,
    )


def hf_model(checkpoint: Path, *, seed: int | None = None) -> Any:
    """The checkpoint in float32; with a seed every weight gets noise, as a few optimiser steps would do."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return model


def hf_log_probs(
    model: Any,
    prompt: Prompt,
    response: np.ndarray,
    *,
    positions: str = "original",
    temperature: float = 1.0,
    banned: Sequence[int] = (),
) -> np.ndarray:
    """[T] log-probs of one response by a plain HF forward; positions "transformers": those it derives by itself."""
    import torch

    # Mean and std of the CLIP preprocessing that Qwen2-VL's processors use.
    mean = np.repeat([0.48145466, 0.4578275, 0.40821073], PATCH_VALUES // 3)
    std = np.repeat([0.26862954, 0.26130258, 0.27577711], PATCH_VALUES // 3)
    pixels = ((prompt.patches / 255 - mean) / std).astype(np.float32)
    ids = torch.from_numpy(np.concatenate([prompt.token_ids, response]))[None]
    start = prompt.position_ids.max() + 1
    tail = np.broadcast_to(np.arange(start, start + len(response)), (3, len(response)))
    explicit = torch.from_numpy(np.concatenate([prompt.position_ids, tail], axis=1))[:, None]
    kwargs: dict[str, Any] = {"position_ids": explicit}
    if positions == "transformers":
        kwargs = {
            "second_per_grid_ts": torch.tensor([prompt.second_per_grid_s]),
            "mm_token_type_ids": 2 * (ids == model.config.video_token_id).long(),
        }
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            pixel_values_videos=torch.from_numpy(pixels),
            video_grid_thw=torch.from_numpy(prompt.video_grid_thw),
            use_cache=False,
            **kwargs,
        ).logits[0]
    predicting = logits[len(prompt.token_ids) - 1 : -1].double()
    predicting[:, list(banned)] = -torch.inf
    picked = torch.log_softmax(predicting / temperature, -1)
    return picked.gather(-1, torch.tensor(response)[:, None])[:, 0].numpy()


def max_gap(model: Any, prompts: list[Prompt], groups: Any, *, positions: str = "original") -> float:
    """Largest difference in nats between the engine's log-probs and HF's."""
    return max(
        float(np.abs(hf_log_probs(model, prompt, r.token_ids, positions=positions) - r.log_probs).max())
        for prompt, group in zip(prompts, groups, strict=True)
        for r in group.rollouts
    )


def sampling(**changes: Any) -> SamplingSpec:
    values: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 24, "group_size": 4}
    return SamplingSpec(**{**values, **changes})


def generate(
    engine: Any,
    inputs: list[Any],
    *,
    seed: int = 0,
    version: int | None = None,
    group_ids: Sequence[int] | None = None,
    **spec: Any,
) -> list[Group]:
    """One call of the session's worker, at the version that it holds; a group for each input unless ids are given."""
    held = engine.run(engine.worker.version())
    ids = tuple(range(len(inputs)) if group_ids is None else group_ids)
    request = GenerateRequest(ids, sampling(**spec), seed, held if version is None else version)
    groups: list[Group] = engine.run(engine.worker.generate(request, *inputs))
    return groups


@given(st.integers(0, 300), st.integers(1, 20), st.integers(1, 50))
def test_call_parts_cover_the_prompts_in_order_and_evenly(num_prompts: int, num_workers: int, max_groups: int) -> None:
    parts = call_parts(num_prompts, num_workers=num_workers, max_groups=max_groups)
    assert [index for part in parts for index in part] == list(range(num_prompts))
    sizes = [len(part) for part in parts]
    assert all(0 < size <= max_groups for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert len(parts) >= min(num_prompts, num_workers)


def test_every_response_of_a_run_has_its_own_seed() -> None:
    seeds = {sample_seed(*key) for key in itertools.product((0, 1, 2**40), range(40), range(8))}
    assert len(seeds) == 3 * 40 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_engine_on_the_cpu_gets_one_thread_and_one_on_a_gpu_is_left_alone(engine_spec: EngineSpec) -> None:
    assert rollout_env(engine_spec.rollout, "cpu")["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in rollout_env(engine_spec.rollout, "cuda")


# --- one engine -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[Prompt]:
    return [make_prompt(tokenizer, seed=i, second_per_grid_s=s) for i, s in enumerate(SECONDS_PER_GRID)]


@pytest.fixture
def rank() -> TensorRank:
    return TensorRank()


@pytest.fixture
def source(rank: TensorRank, checkpoint: Path) -> Source:
    return Source(LocalRanks(rank), expected_weights(str(checkpoint)))


def load_by_group(engine: Any, rank: TensorRank, update: LearnerWeights, model: Any, *, num_receivers: int = 1) -> None:
    """The same by gloo, from this process to the engine's."""
    rank.hold(model.state_dict())
    host, port = rank.open_group(60)
    address = GroupAddress(host, port, 1 + num_receivers, 60)
    with ThreadPoolExecutor(1) as thread:
        joining = thread.submit(rank.join_group, address)
        engine.run(engine.worker.join_group(address, 1))
        joining.result()
        engine.run(engine.worker.begin_update(update.plan))
        for index, bucket in enumerate(update.plan.buckets):
            gathered = update.gather(index, bucket, only_changes=False)
            sending = thread.submit(rank.send_bucket)
            engine.run(engine.worker.receive_bucket(index, gathered))
            sending.result()
    engine.run(engine.worker.finish_update())
    update.end(is_whole=True)


def responses(groups: list[Group]) -> list[list[int]]:
    return [rollout.token_ids.tolist() for group in groups for rollout in group.rollouts]


async def without_clearing(engine: Any, prompts: list[Prompt]) -> list[Group]:
    """Generate as the worker does, but leave the engine's caches as they are."""
    version = await engine.worker.version()
    request = GenerateRequest(tuple(range(len(prompts))), sampling(group_size=2), 0, version or 0)
    groups = []
    for group_id, prompt in enumerate(prompts):
        outputs = await asyncio.gather(*engine.worker._submit(prompt, None, request, group_id))
        groups.append(Group(group_id, prompt.sample_id, tuple(rollout_worker._rollout(out, 0) for out in outputs)))
    return groups


@pytest.mark.slow
def test_log_probs_equal_hugging_face_at_every_frame_rate(engine: Any, checkpoint: Path, prompts: list[Prompt]) -> None:
    groups = generate(engine, prompts, temperature=0.9, top_k=50)
    assert [len(group.rollouts) for group in groups] == [4] * len(prompts)
    assert max_gap(hf_model(checkpoint), prompts, groups) < FLOAT32_LIMIT


@pytest.mark.slow
def test_visual_embeddings_stand_in_for_pixels(engine: Any, checkpoint: Path, prompts: list[Prompt]) -> None:
    """The learner's embeddings, and pixels that say nothing: the same tokens and log-probs as from the pixels."""
    model = hf_model(checkpoint)
    norm = PixelNorm((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    embeddings = [encode_clip(model, p.patches, p.video_grid_thw, pixel_norm=norm) for p in prompts]
    blank = [replace(prompt, patches=np.zeros_like(prompt.patches)) for prompt in prompts]
    groups = generate(engine, [*blank, *embeddings], group_ids=range(len(prompts)))
    assert responses(groups) == responses(generate(engine, prompts))
    assert max_gap(model, prompts, groups) < FLOAT32_LIMIT


@pytest.mark.slow
def test_wrong_positions_on_the_learners_side_are_noticed(engine: Any, checkpoint: Path, prompts: list[Prompt]) -> None:
    groups = generate(engine, prompts, group_size=1)
    model = hf_model(checkpoint)
    assert max_gap(model, prompts, groups, positions="transformers") > 1e-3
    before = int(np.argmax(prompts[0].token_ids == model.config.video_token_id))
    after = len(prompts[0].token_ids) - before - 24
    slower = [replace(p, position_ids=original_positions(before, after, second_per_grid_s=3.0)) for p in prompts]
    assert max_gap(model, slower, groups) > 1e-3


@pytest.mark.slow
def test_greedy_takes_the_most_likely_token(engine: Any, checkpoint: Path, prompts: list[Prompt]) -> None:
    groups = generate(engine, prompts, temperature=0.0, group_size=1)
    assert max_gap(hf_model(checkpoint), prompts, groups) < FLOAT32_LIMIT
    sampled = generate(engine, prompts, group_size=1)
    first = [(a.rollouts[0].log_probs[0], b.rollouts[0].log_probs[0]) for a, b in zip(groups, sampled, strict=True)]
    assert all(greedy >= other for greedy, other in first)


@pytest.mark.slow
def test_without_cuts_the_log_probs_are_of_what_was_sampled_from_and_without_seeds_no_two_calls_are_equal(
    engine_spec: EngineSpec, checkpoint: Path, prompts: list[Prompt], start_engine: Any
) -> None:
    rollout = replace(engine_spec.rollout, temperature=0.7, reproducible=False)
    with start_engine(replace(engine_spec, rollout=rollout)) as engine:
        first, second = (generate(engine, prompts, temperature=0.7, seed=7) for _ in range(2))
    model, banned = hf_model(checkpoint), engine_spec.banned_token_ids
    for prompt, group in zip(prompts, first, strict=True):
        for one in group.rollouts:
            expected = hf_log_probs(model, prompt, one.token_ids, temperature=0.7, banned=banned)
            assert np.abs(expected - one.log_probs).max() < FLOAT32_LIMIT
    assert len(set(map(tuple, [*responses(first), *responses(second)]))) == 2 * 4 * len(prompts)


@pytest.mark.slow
def test_a_float32_head_leaves_an_engines_bfloat16_logits_unrounded(
    engine_spec: EngineSpec, tokenizer: Any, start_engine: Any
) -> None:
    """Differences of log-probs are those of logits. In bfloat16 these are multiples of 2^-14 from 2^-6 on."""
    token_ids = tokenizer.encode("Which colour appears first?")
    shares = {}
    for head in (False, True):
        with start_engine(replace(engine_spec, dtype="bfloat16", float32_head=head)) as engine:
            steps = 2**14 * engine.run(differences_of_logits(engine, token_ids))
        shares[head] = float(np.mean(np.abs(steps - np.round(steps)) < 0.05))
    assert shares[False] > 0.95
    assert shares[True] < 0.5


async def differences_of_logits(engine: Any, token_ids: list[int]) -> np.ndarray:
    """Between the most likely tokens, at each of some positions."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=1.0, seed=0, max_tokens=24, logprobs=5, ignore_eos=True)
    async for output in engine.worker._engine.generate({"prompt_token_ids": token_ids}, params, "head"):
        found = output.outputs[0].logprobs
    best = [sorted((one.logprob for one in entry.values()), reverse=True)[:5] for entry in found]
    return np.diff(np.array(best), axis=1).ravel()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(engine: Any, prompts: list[Prompt]) -> None:
    first, second = generate(engine, prompts, seed=7), generate(engine, prompts, seed=7)
    assert responses(first) == responses(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a.rollouts, b.rollouts, strict=True):
            assert x.log_probs.tobytes() == y.log_probs.tobytes()
    assert len(set(map(tuple, responses(first)))) == 4 * len(prompts)  # siblings differ
    assert responses(generate(engine, prompts, seed=8)) != responses(first)


@pytest.mark.slow
def test_a_response_does_not_depend_on_the_prompts_beside_it(engine: Any, prompts: list[Prompt]) -> None:
    together = generate(engine, prompts, seed=7)
    alone = generate(engine, prompts[:1], seed=7)
    assert responses(alone) == responses(together[:1])


@pytest.mark.slow
def test_vision_tokens_are_never_sampled(engine: Any, engine_spec: EngineSpec, prompts: list[Prompt]) -> None:
    tokens = np.concatenate(responses(generate(engine, prompts, temperature=2.0, group_size=16)))
    assert len(tokens) > 1000
    assert not np.isin(tokens, engine_spec.banned_token_ids).any()


@pytest.mark.slow
def test_a_finished_response_ends_with_its_end_token(engine: Any, tokenizer: Any, prompts: list[Prompt]) -> None:
    groups = generate(engine, prompts, group_size=16, max_tokens=64)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for r in rollouts:
        assert (r.token_ids[-1] == tokenizer.eos_token_id) == (r.finish_reason == "stop")
        assert len(r.token_ids) == 64 or r.finish_reason == "stop"
        assert "<|im_end|>" not in r.text


@pytest.mark.slow
def test_the_doctors_memory_of_a_worker_is_within_a_fifth_of_the_measured_one(
    engine: Any, engine_spec: EngineSpec
) -> None:
    """The engine's peak above a fresh process that has imported the same; nearly all of it is the KV cache here."""
    (process,) = engine.worker._engine.engine_core.resources.engine_manager.processes
    peak = peak_bytes(Path(f"/proc/{process.pid}/status").read_text())
    program = "import vllm.v1.engine.async_llm, vllm.v1.worker.cpu_worker, vllm.model_executor.models.qwen2_5_vl as m;"
    program += "print(open('/proc/self/status').read())"
    empty = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    run = compose_run("grpo", GrpoRun, ["experiment=demo", f"model.path={engine_spec.model_path}"])
    run = replace(run, rollout=engine_spec.rollout)
    predicted = rollout_worker_bytes(model_shape(run.model), run.model, run)
    measured = peak - peak_bytes(empty.stdout)
    print(f"\n{predicted / 2**20:.0f} of {measured / 2**20:.0f} MiB")
    assert predicted == pytest.approx(measured, rel=0.2)


def peak_bytes(status: str) -> int:
    """The largest resident size of a process, from its /proc/PID/status."""
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


@pytest.mark.slow
def test_another_policy_version_is_refused(engine: Any, prompts: list[Prompt]) -> None:
    with pytest.raises(RuntimeError, match="41 was asked for"):
        generate(engine, prompts, version=41)


def numbers(groups: list[Group]) -> list[bytes]:
    """Tokens and log-probs to the last bit."""
    return [part.tobytes() for group in groups for r in group.rollouts for part in (r.token_ids, r.log_probs)]


@pytest.mark.slow
def test_after_an_update_log_probs_are_those_of_the_new_weights_whichever_way_they_came(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank, source: Source
) -> None:
    generate(engine, prompts)
    old, new = hf_model(checkpoint), hf_model(checkpoint, seed=11)
    update = source.weights(1)
    assert len(update.plan.buckets) > 10
    load(engine, rank, update, new.state_dict())
    by_file = generate(engine, prompts, version=1)
    assert {rollout.policy_version for group in by_file for rollout in group.rollouts} == {1}
    assert max_gap(new, prompts, by_file) < FLOAT32_LIMIT
    assert max_gap(old, prompts, by_file) > 0.1
    assert not list(Path("/dev/shm").glob("videor2-weights-1-*"))
    load(engine, rank, source.weights(2), old.state_dict())
    load_by_group(engine, rank, source.weights(1, max_bytes=1 << 20), new)
    assert numbers(generate(engine, prompts, version=1)) == numbers(by_file)
    load_by_group(engine, rank, source.weights(1, max_bytes=1), new)
    assert numbers(generate(engine, prompts, version=1)) == numbers(by_file)


@pytest.mark.slow
def test_an_engine_of_two_processes_takes_weights_into_both(
    engine_spec: EngineSpec,
    checkpoint: Path,
    prompts: list[Prompt],
    rank: TensorRank,
    source: Source,
    start_engine: Any,
) -> None:
    rollout = replace(engine_spec.rollout, tensor_parallel_size=2)
    new = hf_model(checkpoint, seed=11)
    with start_engine(replace(engine_spec, rollout=rollout)) as engine:
        assert max_gap(hf_model(checkpoint), prompts, generate(engine, prompts)) < FLOAT32_LIMIT
        load_by_group(engine, rank, source.weights(1), new, num_receivers=2)
        assert max_gap(new, prompts, generate(engine, prompts, version=1)) < FLOAT32_LIMIT


@pytest.mark.slow
def test_what_is_not_sent_stays_as_it_was(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank, source: Source
) -> None:
    load(engine, rank, source.weights(1), hf_model(checkpoint).state_dict())
    new, mixed = hf_model(checkpoint, seed=17), hf_model(checkpoint)
    changed = [name for name in new.state_dict() if ".layers.1.self_attn.q_proj." in name or ".layers.2.mlp." in name]
    plan = source.weights(2, names=changed).plan
    assert 0 < len(plan.shapes) < 12
    mixed.load_state_dict({name: new.state_dict()[name] for name in plan.shapes}, strict=False)
    load(engine, rank, source.weights(2, names=changed), new.state_dict())
    groups = generate(engine, prompts, version=2)
    assert max_gap(mixed, prompts, groups) < FLOAT32_LIMIT
    assert min(max_gap(other, prompts, groups) for other in (new, hf_model(checkpoint))) > 1e-3


@pytest.mark.slow
def test_stale_caches_are_noticed_and_emptied_by_what_changes_them(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank, source: Source, monkeypatch: Any
) -> None:
    """Embeddings of the tower outlive an update of the language model alone; its attention keys do not."""
    names = list(expected_weights(str(checkpoint)).shapes)
    parts = {"vision": [n for n in names if ".visual." in n], "language": [n for n in names if ".visual." not in n]}
    old = hf_model(checkpoint)
    emptied: list[str] = []
    for name in ("reset_mm_cache", "reset_encoder_cache", "reset_prefix_cache"):
        original = getattr(engine.worker._engine, name)

        async def counted(name: str = name, original: Any = original) -> None:
            emptied.append(name)
            await original()

        monkeypatch.setattr(engine.worker._engine, name, counted)
    for seed, (part, changed) in enumerate(parts.items(), start=40):
        load(engine, rank, source.weights(1), old.state_dict())
        engine.run(without_clearing(engine, prompts))
        new = hf_model(checkpoint)
        new.load_state_dict(
            {n: v for n, v in hf_model(checkpoint, seed=seed).state_dict().items() if n in changed}, strict=False
        )
        emptied.clear()
        load(engine, rank, source.weights(2, names=changed), new.state_dict())
        all_caches = {"reset_mm_cache", "reset_encoder_cache", "reset_prefix_cache"}
        assert set(emptied) == (all_caches if part == "vision" else {"reset_prefix_cache"})
        assert max_gap(new, prompts, engine.run(without_clearing(engine, prompts))) < FLOAT32_LIMIT
        assert max_gap(old, prompts, engine.run(without_clearing(engine, prompts))) > 1e-3

    async def nothing() -> None:
        return None

    for name in emptied:
        monkeypatch.setattr(engine.worker._engine, name, nothing)
    monkeypatch.setattr(engine.worker._engine, "reset_encoder_cache", nothing)
    load(engine, rank, source.weights(3), old.state_dict())
    assert max_gap(old, prompts, engine.run(without_clearing(engine, prompts))) > 1e-3


@pytest.mark.slow
def test_a_layer_that_is_not_whole_is_refused_by_name_and_the_old_weights_stay(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank, source: Source
) -> None:
    old = hf_model(checkpoint, seed=13)
    load(engine, rank, source.weights(3), old.state_dict())
    name = "model.language_model.layers.1.mlp.gate_proj.weight"
    plan = source.weights(4).plan
    short = [(tuple(n for n in b.names if n != name), b) for b in plan.buckets]
    buckets = tuple(
        Bucket(names, tuple(s for n, s in zip(b.names, b.shapes, strict=True) if n != name)) for names, b in short
    )
    with pytest.raises(WeightsRefused, match=f"1 missing: {name}"):
        engine.run(engine.worker.begin_update(replace(plan, buckets=buckets)))
    assert max_gap(old, prompts, generate(engine, prompts, version=3)) < FLOAT32_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_after_a_damaged_bucket_nothing_is_served_and_a_whole_update_mends_it(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank, source: Source, place: str
) -> None:
    update = source.weights(5)
    count = len(update.plan.buckets)
    damaged = {"first": 0, "middle": count // 2, "last": count - 1}[place]
    new = hf_model(checkpoint, seed=16)
    with pytest.raises(Exception, match="arrived damaged"):
        load(engine, rank, update, new.state_dict(), damaged=damaged)
    assert engine.run(engine.worker.version()) is None
    with pytest.raises(RuntimeError, match="holds policy version None"):
        generate(engine, prompts, version=5)
    load(engine, rank, source.weights(6), new.state_dict())
    assert max_gap(new, prompts, generate(engine, prompts, version=6)) < FLOAT32_LIMIT


@pytest.mark.slow
def test_a_layer_left_half_loaded_counts_for_nothing(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank, source: Source
) -> None:
    """As when a worker was cut off within a layer: the next update brings it whole."""
    new = hf_model(checkpoint, seed=18)
    whole = source.weights(7)
    name = "model.language_model.layers.1.mlp.gate_proj.weight"
    half = Bucket((name,), (whole.plan.shapes[name],))
    rank.hold(hf_model(checkpoint, seed=19).state_dict())
    engine.run(engine.worker.begin_update(whole.plan))
    engine.worker._plan = replace(whole.plan, buckets=(half,))
    engine.run(engine.worker.receive_bucket(0, rank.gather_bucket(0, half, False, False), rank.store_bucket()))
    load(engine, rank, whole, new.state_dict())
    assert max_gap(new, prompts, generate(engine, prompts, version=7)) < FLOAT32_LIMIT


@pytest.mark.slow
def test_changes_alone_bring_the_same_bits_and_only_to_those_that_hold_the_rest(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank
) -> None:
    source = Source(LocalRanks(rank), expected_weights(str(checkpoint)), sync="delta")
    base, new = hf_model(checkpoint, seed=50), hf_model(checkpoint, seed=50)
    with torch.no_grad():
        for weight in new.parameters():
            weight.view(-1)[:: max(1, weight.numel() // 10)] += 0.5
    sizes: list[int] = []

    def update(version: int, model: Any) -> list[bytes]:
        one = source.weights(version)
        gather = one.gather
        one.gather = lambda *args, **kwargs: counted(gather(*args, **kwargs))  # type: ignore[method-assign]
        sizes.append(0)
        load(engine, rank, one, model.state_dict())
        return numbers(generate(engine, prompts, version=version))

    def counted(gathered: Gathered) -> Gathered:
        sizes[-1] += gathered.num_bytes
        return gathered

    first, changed, again = update(1, base), update(2, new), update(3, base)
    assert first == again != changed
    assert max_gap(new, prompts, generate(engine, prompts, version=3)) > 1e-3
    assert sizes[1] == sizes[2] < sizes[0] / 5
    # An update of another kind came between: everything is sent again.
    full = Source(LocalRanks(rank), expected_weights(str(checkpoint)))
    load(engine, rank, full.weights(4), hf_model(checkpoint).state_dict())
    assert update(5, new) == changed
    assert sizes[-1] == sizes[0]


@pytest.mark.slow
def test_a_folder_is_read_by_the_engine_itself(
    engine: Any, checkpoint: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    new = hf_model(checkpoint, seed=21)
    shutil.copytree(checkpoint, tmp_path / "new")
    new.save_pretrained(tmp_path / "new")
    engine.run(engine.worker.load_folder(str(tmp_path / "new"), 9))
    assert max_gap(new, prompts, generate(engine, prompts, version=9)) < FLOAT32_LIMIT
    (tmp_path / "new" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="holds no weights"):
        engine.run(engine.worker.load_folder(str(tmp_path / "new"), 10))
    assert max_gap(new, prompts, generate(engine, prompts, version=9)) < FLOAT32_LIMIT


# --- the pool ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(ray_cluster: None, engine_spec: EngineSpec) -> Iterator[RolloutPool]:
    # A deadline that even a very busy machine keeps: only the workers killed here may be lost.
    config = replace(engine_spec.rollout, num_workers=2, max_response_tokens=150, cpus_per_worker=0.5, deadline_s=900.0)
    pool = RolloutPool(replace(engine_spec, rollout=config))
    yield pool
    pool.shutdown()


@pytest.fixture(scope="module")
def learner(pool: RolloutPool) -> Any:
    return rank_actor()


@pytest.fixture(scope="module")
def policy(learner: Any, checkpoint: Path) -> Source:
    return Source(ActorRanks(learner), expected_weights(str(checkpoint)), sync_deadline_s=15.0)


def hold(learner: Any, model: Any, damaged: int | None = None) -> None:
    import ray

    ray.get(learner.hold.remote(model.state_dict(), damaged))


def handles(prompts: list[Prompt]) -> list[PromptHandle]:
    import ray

    return [PromptHandle(p.sample_id, p.clip_key, len(p.token_ids), ray.put(p)) for p in prompts]


def four_groups(pool: RolloutPool, prompts: list[Prompt]) -> list[Group]:
    return pool.generate(handles(prompts), group_ids=[5, 6, 7, 8], sampling=sampling(), seed=1)


@pytest.mark.slow
@pytest.mark.ray
def test_an_update_reaches_every_worker_either_way_and_groups_come_in_order(
    pool: RolloutPool, checkpoint: Path, prompts: list[Prompt], learner: Any, policy: Source
) -> None:
    new = hf_model(checkpoint, seed=30)
    hold(learner, new)
    pool.update_weights(policy.weights(1))
    size = sum(4 * weight.numel() for weight in new.parameters()) / 2**20
    metrics = pool.sync_metrics()
    assert metrics["perf/sync_mib"] == pytest.approx(size, rel=1e-3)
    assert metrics["rollout/sync_failures"] == metrics["rollout/workers_replaced"] == 0
    phases = {name for name in metrics if name.startswith("timing_s/")}
    assert phases == {f"timing_s/sync_{phase}" for phase in ("begin", "gather", "move", "finish")}
    groups = four_groups(pool, prompts)
    assert [group.group_id for group in groups] == [5, 6, 7, 8]
    assert [group.sample_id for group in groups] == [prompt.sample_id for prompt in prompts]
    assert max_gap(new, prompts, groups) < FLOAT32_LIMIT

    pool.load_checkpoint(str(checkpoint), 3)
    others = four_groups(pool, prompts)
    assert others[0].rollouts[0].policy_version == 3
    assert max_gap(hf_model(checkpoint), prompts, others) < FLOAT32_LIMIT

    stored = Source(ActorRanks(learner), expected_weights(str(checkpoint)), sync_transport="object_store")
    pool.update_weights(stored.weights(4))
    assert numbers(four_groups(pool, prompts)) == numbers(groups)


@pytest.mark.slow
@pytest.mark.ray
def test_weights_of_another_model_are_refused_and_all_workers_keep_theirs(
    pool: RolloutPool, prompts: list[Prompt], policy: Source
) -> None:
    version, before = pool.policy_version, numbers(four_groups(pool, prompts))
    update = policy.weights(50)
    update.plan = replace(update.plan, buckets=(*update.plan.buckets, Bucket(("model.extra",), ((2,),))))
    with pytest.raises(WeightsRefused, match=r"1 unknown: model\.extra"):
        pool.update_weights(update)
    assert pool.policy_version == version
    assert numbers(four_groups(pool, prompts)) == before


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_within_an_update_is_replaced_and_all_hold_the_new_weights(
    pool: RolloutPool, checkpoint: Path, prompts: list[Prompt], learner: Any, policy: Source, fault: signal.Signals
) -> None:
    """Its engine is killed, or stopped, when half of the buckets are there."""
    new = hf_model(checkpoint, seed=32)
    hold(learner, new)
    update = policy.weights(pool.policy_version + 1)
    gather, half, replaced = update.gather, len(update.plan.buckets) // 2, pool.replacements
    struck: list[int] = []

    def gather_or_strike(index: int, bucket: Bucket, *, only_changes: bool) -> Gathered:
        if index == half and not struck:
            struck.append(engine_process_of(pool.actors[1]).pid)
            os.kill(struck[0], fault)
        return gather(index, bucket, only_changes=only_changes)

    update.gather = gather_or_strike  # type: ignore[method-assign]
    pool.update_weights(update)
    assert len(struck) == 1
    assert pool.replacements == replaced + 1
    assert pool.sync_metrics()["rollout/sync_failures"] >= 1
    groups = four_groups(pool, prompts)
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {update.policy_version}
    assert max_gap(new, prompts, groups) < FLOAT32_LIMIT
    # The group that meets now has the new worker in it.
    pool.update_weights(policy.weights(update.policy_version + 1))
    assert pool.sync_metrics()["rollout/sync_failures"] == 0
    assert numbers(four_groups(pool, prompts)) == numbers(groups)


def engine_process_of(actor: Any) -> Any:
    import psutil
    import ray

    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    (found,) = (p for p in psutil.Process(pid).children(recursive=True) if "EngineCore" in p.name())
    return found


@pytest.mark.slow
@pytest.mark.ray
def test_a_prompt_that_leaves_no_room_is_refused_with_the_key_to_change(
    pool: RolloutPool, prompts: list[Prompt]
) -> None:
    long = PromptHandle("row-3", "clip", 200, prompts[0])
    with pytest.raises(ConfigError, match=r"rollout\.max_model_tokens: sample row-3 has 200 prompt tokens"):
        pool.generate([long], group_ids=[0], sampling=sampling(max_tokens=57), seed=0)


@pytest.mark.slow
@pytest.mark.ray
def test_lost_workers_cost_nothing_but_time(
    pool: RolloutPool, tokenizer: Any, checkpoint: Path, learner: Any, policy: Source
) -> None:
    """One engine process and one actor are killed while they generate; version 70 must reach their replacements."""
    import psutil
    import ray

    new = hf_model(checkpoint, seed=31)
    hold(learner, new)
    pool.update_weights(policy.weights(70))
    before = pool.replacements
    many = [make_prompt(tokenizer, seed=100 + i) for i in range(24)]
    request: dict[str, Any] = {
        "group_ids": list(range(24)),
        "sampling": sampling(max_tokens=150, group_size=8),
        "seed": 3,
    }
    started = time.perf_counter()
    undisturbed = pool.generate(handles(many), **request)
    took_s = time.perf_counter() - started

    engine_process = engine_process_of(pool.actors[0])
    actor_pid = ray.get(pool.actors[1].__ray_call__.remote(lambda self: os.getpid()))

    def kill() -> None:
        engine_process.kill()
        psutil.Process(actor_pid).kill()

    timer = threading.Timer(took_s / 3, kill)
    timer.start()
    groups = pool.generate(handles(many), **request)
    timer.join()
    assert pool.replacements == before + 2
    assert [group.group_id for group in groups] == list(range(24))
    assert responses(groups) == responses(undisturbed)
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {70}
    assert max_gap(new, many[:2], groups[:2]) < FLOAT32_LIMIT
