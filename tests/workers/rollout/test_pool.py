"""The pool over real workers: updates of all of them, faults, growth."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_network import hf_model
from rollout_checks import (
    FLOAT32_LIMIT,
    hf_log_probs,
    make_prompt,
    max_gap,
    numbers,
    responses,
    sampling,
)
from weight_source import ActorRanks, Source, rank_actor

from videor2_rl.config.errors import ConfigError
from videor2_rl.model.weights import expected_weights
from videor2_rl.types import Group, Prompt, PromptHandle
from workers.rollout.engine import EngineSpec
from workers.rollout.pool import RolloutPool
from workers.weights.plan import Bucket, Gathered, WeightsRefused


@pytest.fixture(scope="module")
def pool(ray_cluster: None, engine_spec: EngineSpec) -> Iterator[RolloutPool]:
    # A deadline that even a very busy machine keeps: only the workers killed here may be lost.
    config = replace(engine_spec.rollout, num_workers=2, max_response_tokens=150, cpus_per_worker=0.5, deadline_s=900.0)
    pool = RolloutPool(replace(engine_spec, rollout=config))
    pool.wait_ready()
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
    metrics = pool.metrics()
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
    assert pool.metrics()["rollout/sync_failures"] >= 1
    groups = four_groups(pool, prompts)
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {update.policy_version}
    assert max_gap(new, prompts, groups) < FLOAT32_LIMIT
    # The group that meets now has the new worker in it.
    pool.wait_ready()
    pool.update_weights(policy.weights(update.policy_version + 1))
    assert pool.metrics()["rollout/sync_failures"] == 0
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
    """One engine process is stopped and one actor killed while they generate, long before any deadline; version 70 must
    reach their replacements."""
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
    undisturbed = pool.generate(handles(many), **request)

    engine_process = engine_process_of(pool.actors[0])
    actor_pid = ray.get(pool.actors[1].__ray_call__.remote(lambda self: os.getpid()))

    def kill() -> None:
        engine_process.suspend()
        psutil.Process(actor_pid).kill()

    # Long before the 28,800 tokens are sampled, on any machine.
    timer = threading.Timer(0.5, kill)
    timer.start()
    groups = pool.generate(handles(many), **request)
    timer.join()
    assert pool.replacements == before + 2
    assert [group.group_id for group in groups] == list(range(24))
    assert responses(groups) == responses(undisturbed)
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {70}
    assert max_gap(new, many[:2], groups[:2]) < FLOAT32_LIMIT


@pytest.fixture
def streaming(pool: RolloutPool, monkeypatch: pytest.MonkeyPatch) -> RolloutPool:
    """The same workers, driven as in an asynchronous run."""
    monkeypatch.setattr(pool, "_streams", True)
    monkeypatch.setattr(pool._pool._dispatch, "limits", replace(pool._pool._dispatch.limits, max_in_flight=9))
    pool.wait_ready()
    return pool


def begin_long(pool: RolloutPool, tokenizer: Any) -> tuple[list[Prompt], Future[Any]]:
    """Sixteen groups of four long responses: more than the workers sample in a moment."""
    many = [make_prompt(tokenizer, seed=200 + i) for i in range(16)]
    long = sampling(max_tokens=150, group_size=4)
    return many, pool.begin_generate(handles(many), group_ids=range(16), sampling=long, seed=5)


@dataclass(frozen=True)
class BetweenPolicies:
    """Groups that set out with one policy, while the learner holds the next one."""

    old: Any
    new: Any
    prompts: list[Prompt]
    begun: Future[Any]


def between_policies(
    pool: RolloutPool, tokenizer: Any, checkpoint: Path, learner: Any, policy: Source, *, version: int, seed: int
) -> BetweenPolicies:
    """The workers hold this version, of a model of this seed; the next one is of the next seed."""
    old, new = hf_model(checkpoint, seed=seed), hf_model(checkpoint, seed=seed + 1)
    hold(learner, old)
    pool.update_weights(policy.weights(version))
    prompts, begun = begin_long(pool, tokenizer)
    hold(learner, new)
    return BetweenPolicies(old, new, prompts, begun)


def versions_of(groups: list[Group]) -> set[tuple[int, ...]]:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {(one.policy_version, *(version for version, _ in one.continued)) for one in rollouts}


@pytest.mark.slow
@pytest.mark.ray
def test_weights_that_come_while_groups_are_sampled_are_taken_at_once(
    streaming: RolloutPool, tokenizer: Any, checkpoint: Path, learner: Any, policy: Source
) -> None:
    between = between_policies(streaming, tokenizer, checkpoint, learner, policy, version=80, seed=33)
    time.sleep(0.5)
    streaming.update_weights(policy.weights(81))
    assert not between.begun.done()
    groups = between.begun.result(timeout=300)
    assert versions_of(groups) <= {(80,), (80, 81), (81,)} and (80, 81) in versions_of(groups)
    assert [group.group_id for group in groups] == list(range(16))
    crossing = [
        (prompt, one)
        for prompt, group in zip(between.prompts, groups, strict=True)
        for one in group.rollouts
        if one.continued
    ]
    for prompt, one in crossing[:3]:
        [(_, place)] = one.continued
        expected = [hf_log_probs(model, prompt, one.token_ids) for model in (between.old, between.new)]
        assert np.abs(np.concatenate([expected[0][:place], expected[1][place:]]) - one.log_probs).max() < FLOAT32_LIMIT
    assert 0 <= streaming.metrics()["perf/rollout_idle_frac"] < 1


@pytest.mark.slow
@pytest.mark.ray
def test_an_update_does_not_wait_for_a_worker_that_stands_still_for_a_moment(
    streaming: RolloutPool, tokenizer: Any, checkpoint: Path, learner: Any, policy: Source
) -> None:
    """Its process is stopped and goes on before it is given up: it takes the weights then, and lost nothing."""
    import ray

    between = between_policies(streaming, tokenizer, checkpoint, learner, policy, version=85, seed=38)
    replaced, (first, second) = streaming.replacements, streaming.actors
    pid = ray.get(second.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGSTOP)
    try:
        streaming.update_weights(policy.weights(86))
        assert list(streaming.states().values()) == ["serving", "ready"]
        assert ray.get(first.version.remote()) == 86
    finally:
        os.kill(pid, signal.SIGCONT)
    while list(streaming.states().values()) != ["serving", "serving"]:
        streaming.admit_joiners()
        time.sleep(0.1)
    assert ray.get(second.version.remote()) == 86
    groups = between.begun.result(timeout=300)
    assert [group.group_id for group in groups] == list(range(16))
    assert versions_of(groups) <= {(85,), (85, 86), (86,)}
    assert (streaming.replacements, streaming.metrics()["rollout/sync_failures"]) == (replaced, 0)
    four = between.prompts[:4]
    later = streaming.generate(handles(four), group_ids=[0, 1, 2, 3], sampling=sampling(), seed=5)
    assert max_gap(between.new, four, later) < FLOAT32_LIMIT


@pytest.mark.slow
@pytest.mark.ray
def test_workers_that_finish_first_take_new_weights_by_themselves_and_no_response_has_two_policies(
    streaming: RolloutPool,
    tokenizer: Any,
    checkpoint: Path,
    learner: Any,
    policy: Source,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "_finishes", True)
    between = between_policies(streaming, tokenizer, checkpoint, learner, policy, version=90, seed=35)
    streaming.update_weights(policy.weights(91))
    # The learner may go on: what the workers take lies in the object store.
    hold(learner, between.old)
    groups = between.begun.result(timeout=300)
    assert versions_of(groups) <= {(90,), (91,)}
    four = between.prompts[:4]
    later = streaming.generate(handles(four), group_ids=[0, 1, 2, 3], sampling=sampling(), seed=5)
    assert versions_of(later) == {(91,)}
    assert max_gap(between.new, four, later) < FLOAT32_LIMIT


@pytest.mark.slow
@pytest.mark.ray
def test_a_pool_grows_and_shrinks_between_updates_and_its_first_worker_leaves(
    streaming: RolloutPool, tokenizer: Any, checkpoint: Path, learner: Any, policy: Source
) -> None:
    """The last test here: one worker is left of the module's two, and it is none of them."""
    new = hf_model(checkpoint, seed=37)
    hold(learner, new)
    streaming.update_weights(policy.weights(95))
    before, replaced = streaming.actors, streaming.replacements
    many, begun = begin_long(streaming, tokenizer)
    streaming.resize(3)
    while list(streaming.states().values()) != ["serving"] * 3:
        streaming.admit_joiners()
        time.sleep(0.1)
    # The one that came is in the group of this update, and those that leave are in none from then on.
    streaming.update_weights(policy.weights(96))
    assert streaming.metrics()["rollout/sync_failures"] == 0
    streaming.resize(1, leaving=(0, 1))
    streaming.update_weights(policy.weights(97))
    groups = begun.result(timeout=300)
    assert [group.group_id for group in groups] == list(range(16))
    assert min(versions[0] for versions in versions_of(groups)) >= 95
    while streaming.states() != {2: "serving"}:
        time.sleep(0.1)
    assert not set(streaming.actors) & set(before) and streaming.replacements == replaced
    later = streaming.generate(handles(many[:4]), group_ids=[0, 1, 2, 3], sampling=sampling(), seed=5)
    assert versions_of(later) == {(97,)}
    assert max_gap(new, many[:4], later) < FLOAT32_LIMIT
