"""What a run asks of its cluster, part by part, and whether the cluster holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videor2_rl.config.judge import JudgeConfig, ManagedJudge
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun


@dataclass(frozen=True)
class Part:
    """Like processes of a run; each stands on one node."""

    name: str
    count: int
    cpus: float
    """Of each, as Ray counts CPUs."""
    gpus: float
    """Of each."""
    key: str
    """The configuration's key that says how many there are."""

    def __str__(self) -> str:
        each = " + ".join(f"{amount:g} {unit}" for amount, unit in ((self.cpus, "CPU"), (self.gpus, "GPU")) if amount)
        return f"{self.key}={self.count} x {each or 'nothing'}"


def parts_of(run: GrpoRun | SftRun | EvaluateRun) -> list[Part]:
    """Every part that the run starts on its cluster."""
    video = Part("video worker", run.video.num_workers, run.video.cpus_per_worker, 0, "video.num_workers")
    if isinstance(run, SftRun):
        return [_learner(run), video]
    engines, rewards = run.rollout, run.reward_workers
    rollout = Part(
        "rollout worker", engines.num_engines, engines.cpus_per_worker, engines.gpus_per_worker, "rollout.num_workers"
    )
    reward = Part("reward worker", rewards.num_workers, rewards.cpus_per_worker, 0, "reward_workers.num_workers")
    ranks = [_learner(run), *_reference(run)] if isinstance(run, GrpoRun) else []
    return [rollout, *ranks, reward, video, *_judge(run.judge)]


def has_reference(run: GrpoRun) -> bool:
    """Whether the KL term's reference has ranks of its own: under an adapter the learner is its own reference."""
    return run.algorithm.kl_coefficient > 0 and run.model.lora.rank == 0


def encodes_beside_learner(run: GrpoRun) -> bool:
    """Whether clips are encoded by the reference's ranks: the learner trains meanwhile."""
    encodes_once = run.model.has_frozen_vision and run.learner.visual_cache_mib > 0
    return run.algorithm.max_staleness > 0 and encodes_once


def has_reference_ranks(run: GrpoRun) -> bool:
    """Whether reference ranks are started, be it for their vision tower alone."""
    return has_reference(run) or encodes_beside_learner(run)


def total(parts: Sequence[Part]) -> dict[str, float]:
    """CPU and GPU over all parts."""
    return {"CPU": sum(p.count * p.cpus for p in parts), "GPU": sum(p.count * p.gpus for p in parts)}


def amounts(found: Mapping[str, float], *, like: Mapping[str, float] | None = None) -> str:
    """`5 CPUs and 3 GPUs`; kinds that nobody needs are left out."""
    needed = found if like is None else like
    named = [
        f"{found.get(kind, 0):g} {kind}{'' if found.get(kind, 0) == 1 else 's'}" for kind in needed if needed[kind]
    ]
    return " and ".join(named) or "nothing"


def shortfall(parts: Sequence[Part], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """What the cluster cannot hold, with both figures; None: it holds everything.

    Args:
        nodes: each node's resources under Ray's names, "CPU" and "GPU".
    """
    needed = total(parts)
    there = {kind: sum(node.get(kind, 0) for node in nodes) for kind in needed}
    if any(there[kind] < needed[kind] for kind in needed):
        return (
            f"the run needs {amounts(needed)} ({'; '.join(map(str, parts))}), "
            f"the cluster has {amounts(there, like=needed)}"
        )
    for part in parts:
        one = {"CPU": part.cpus, "GPU": part.gpus}
        if part.count and not any(all(node.get(kind, 0) >= one[kind] for kind in one) for node in nodes):
            most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in one}
            return (
                f"a {part.name} needs {amounts(one)} on one node, and no node has more than {amounts(most, like=one)}"
            )
    return None


def _learner(run: GrpoRun | SftRun) -> Part:
    learner = run.learner
    return Part("learner rank", learner.num_ranks, learner.cpus_per_rank, learner.gpus_per_rank, "learner.num_ranks")


def _reference(run: GrpoRun) -> list[Part]:
    ranks, key = run.reference, "reference.num_ranks"
    part = Part("reference rank", ranks.num_ranks, ranks.cpus_per_rank, ranks.gpus_per_rank, key)
    return [part] if has_reference_ranks(run) else []


def _judge(judge: JudgeConfig) -> list[Part]:
    return [Part("judge", 1, judge.num_cpus, judge.num_gpus, "judge")] if isinstance(judge, ManagedJudge) else []
