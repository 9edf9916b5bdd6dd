"""The single change of a configuration that would make it fit, where there is a simple one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from videor2_rl.config.checks import check
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun
from videor2_rl.doctor.machine import AnyRun
from videor2_rl.doctor.sizing import Need


def mends(run: AnyRun, needs: Sequence[Need], needs_of: Callable[[AnyRun], Sequence[Need]]) -> dict[str, str]:
    """For each need that is not met, KEY=VALUE with which it is, and nothing else is missed for it.

    Args:
        run: the configuration.
        needs: its own.
        needs_of: those of a changed one.
    """
    missed = {need.name for need in needs if not need.fits}
    found = {}
    for need in needs:
        if need.fits:
            continue
        for text, changed in _candidates(run, need):
            try:
                check(changed)
            except ConfigError:
                continue
            if {other.name for other in needs_of(changed) if not other.fits} <= missed - {need.name}:
                found[need.name] = text
                break
    return found


def _candidates(run: AnyRun, need: Need) -> Iterator[tuple[str, AnyRun]]:
    """Changes that could help, the least costly first."""
    if need.name == "GPUs":
        yield from _fewer_gpus(run, need)
    elif need.name == "CPUs":
        cpus = math.ceil(need.needed)
        yield f"cluster.num_cpus={cpus}", replace(run, cluster=replace(run.cluster, num_cpus=cpus))
    elif need.name == "object store":
        mib = math.ceil(need.needed * 1024)
        yield f"cluster.object_store_mib={mib}", replace(run, cluster=replace(run.cluster, object_store_mib=mib))
    elif need.name == "longest prompt":
        yield from _longer_prompts(run, need)
    elif need.name == "learner rank memory" and not isinstance(run, EvaluateRun):
        yield from _lighter_learner(run)
    elif need.name == "rollout worker memory" and not isinstance(run, SftRun):
        rollout = run.rollout
        if run.cluster.device == "cpu":
            yield "rollout.kv_cache_gib=1", replace(run, rollout=replace(rollout, kv_cache_gib=1))
        for ranks in _doublings(rollout.tensor_parallel_size, up_to=8):
            changed, text = replace(rollout, tensor_parallel_size=ranks), f"rollout.tensor_parallel_size={ranks}"
            if run.cluster.device == "cuda":
                changed, text = replace(changed, gpus_per_worker=ranks), f"{text} rollout.gpus_per_worker={ranks}"
            yield text, replace(run, rollout=changed)
    elif need.name == "reference rank memory" and isinstance(run, GrpoRun):
        for ranks in _doublings(run.reference.num_ranks, up_to=64):
            changed_reference = replace(run.reference, num_ranks=ranks)
            yield f"reference.num_ranks={ranks}", replace(run, reference=changed_reference)


def _fewer_gpus(run: AnyRun, need: Need) -> Iterator[tuple[str, AnyRun]]:
    over = need.needed - (need.available or 0)
    if not isinstance(run, SftRun) and run.rollout.gpus_per_worker > 0:
        workers = run.rollout.num_workers - math.ceil(over / run.rollout.gpus_per_worker)
        if workers >= 1:
            yield f"rollout.num_workers={workers}", replace(run, rollout=replace(run.rollout, num_workers=workers))
    if not isinstance(run, EvaluateRun) and run.learner.gpus_per_rank > 0:
        ranks = run.learner.num_ranks - math.ceil(over / run.learner.gpus_per_rank)
        if ranks >= 1:
            yield f"learner.num_ranks={ranks}", replace(run, learner=replace(run.learner, num_ranks=ranks))
    if isinstance(run, GrpoRun):
        yield "algorithm.kl_coefficient=0", replace(run, algorithm=replace(run.algorithm, kl_coefficient=0.0))


def _longer_prompts(run: AnyRun, need: Need) -> Iterator[tuple[str, AnyRun]]:
    if isinstance(run, SftRun):
        tokens = math.ceil(need.needed)
        learner = replace(run.learner, max_tokens_per_micro_batch=tokens)
        yield f"learner.max_tokens_per_micro_batch={tokens}", replace(run, learner=learner)
    else:
        tokens = math.ceil(need.needed) + run.rollout.max_response_tokens
        yield f"rollout.max_model_tokens={tokens}", replace(run, rollout=replace(run.rollout, max_model_tokens=tokens))


def _lighter_learner(run: AnyRun) -> Iterator[tuple[str, AnyRun]]:
    assert not isinstance(run, EvaluateRun)
    learner = run.learner
    yield (
        "learner.gradient_checkpointing=true",
        replace(run, learner=replace(learner, gradient_checkpointing=True)),
    )
    for tokens in (learner.max_tokens_per_micro_batch // 2, learner.max_tokens_per_micro_batch // 4):
        changed = replace(learner, max_tokens_per_micro_batch=tokens)
        yield f"learner.max_tokens_per_micro_batch={tokens}", replace(run, learner=changed)
    for ranks in _doublings(learner.num_ranks, up_to=64):
        yield f"learner.num_ranks={ranks}", replace(run, learner=replace(learner, num_ranks=ranks))
    yield "learner.cpu_offload=true", replace(run, learner=replace(learner, cpu_offload=True))


def _doublings(value: int, *, up_to: int) -> Iterator[int]:
    while 2 * value <= up_to:
        value *= 2
        yield value
