"""One engine against Hugging Face."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_network import hf_model
from rollout_checks import (
    FLOAT32_LIMIT,
    generate,
    hf_log_probs,
    make_prompt,
    max_gap,
    original_positions,
    responses,
)

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.doctor.sizing import model_shape, rollout_worker_bytes
from videor2_rl.model.packing import PixelNorm
from videor2_rl.model.visual import encode_clip
from videor2_rl.types import Prompt
from workers.rollout.engine import EngineSpec


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
def test_prompts_that_do_not_fit_into_one_step_change_no_response(engine: Any, tokenizer: Any) -> None:
    """vLLM samples behind the part of a prompt that did fit, and discards the token."""
    many = [make_prompt(tokenizer, seed=300 + i) for i in range(16)]
    assert 4 * sum(len(prompt.token_ids) for prompt in many) > engine.worker._spec.rollout.max_num_batched_tokens
    together = generate(engine, many, seed=7)
    for place in (0, 11, 15):
        alone = generate(engine, [many[place]], group_ids=[place], seed=7)
        assert responses(alone) == responses([together[place]])


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
