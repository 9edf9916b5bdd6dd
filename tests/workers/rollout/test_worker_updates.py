"""New weights in a running engine."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_network import hf_model
from rollout_checks import (
    FLOAT32_LIMIT,
    generate,
    hf_log_probs,
    max_gap,
    numbers,
    sampling,
)
from weight_source import LocalRanks, Source, TensorRank, load

from videor2_rl.config.errors import ConfigError
from videor2_rl.model.weights import expected_weights
from videor2_rl.types import Group, Prompt
from workers.learner.policy_weights import LearnerWeights
from workers.rollout.engine import EngineSpec
from workers.rollout.worker import GenerateRequest
from workers.weights.group import GroupAddress
from workers.weights.plan import Bucket, Gathered, WeightsRefused


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


async def without_clearing(engine: Any, prompts: list[Prompt]) -> list[Group]:
    """Generate as the worker does, but leave the engine's caches as they are."""
    request = GenerateRequest(tuple(range(len(prompts))), sampling(group_size=2), 0, None)
    found: list[Group] = await engine.worker.generate(request, *prompts)
    return found


@pytest.mark.slow
def test_responses_that_an_update_finds_go_on_with_the_new_weights_and_say_from_where(
    engine: Any, checkpoint: Path, prompts: list[Prompt], rank: TensorRank, source: Source
) -> None:
    old, new = hf_model(checkpoint), hf_model(checkpoint, seed=19)
    load(engine, rank, source.weights(6), old.state_dict())
    request = GenerateRequest(tuple(range(len(prompts))), sampling(max_tokens=150), 3, None)
    sampling_task = engine.loop.create_task(engine.worker.generate(request, *prompts))
    engine.run(sampled(engine, num_tokens=12))
    late = engine.loop.create_task(engine.worker.generate(replace(request, group_ids=(9,)), prompts[0]))
    load(engine, rank, source.weights(7), new.state_dict())
    groups = engine.run(sampling_task)
    places = []
    for prompt, group in zip(prompts, groups, strict=True):
        for one in group.rollouts:
            assert one.policy_version == 6 and [version for version, _ in one.continued] in ([], [7])
            place = one.continued[0][1] if one.continued else len(one.token_ids)
            expected = [hf_log_probs(model, prompt, one.token_ids) for model in (old, new)]
            joined = np.concatenate([expected[0][:place], expected[1][place:]])
            assert np.abs(joined - one.log_probs).max() < FLOAT32_LIMIT
            places += [place] if one.continued else []
    assert len(places) > 4 and min(places) >= 12
    # What came after the update had begun is of the new policy alone, or was added before it.
    [after] = engine.run(late)
    assert {[(one.policy_version, 0), *one.continued][-1][0] for one in after.rollouts} == {7}
    assert not engine.worker._running


async def sampled(engine: Any, *, num_tokens: int) -> None:
    """Wait until every running response has so many tokens."""
    states = engine.worker._engine.output_processor.request_states
    while not states or min(s.detokenizer.num_output_tokens() for s in states.values()) < num_tokens:
        await asyncio.sleep(0.005)


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

        async def counted(name: str = name, original: Any = original, **options: bool) -> None:
            emptied.append(name)
            await original(**options)

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

    async def nothing(**_: bool) -> None:
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
