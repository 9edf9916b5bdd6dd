"""Configuration -> the workers of a run, started; and their end, whatever happens in between."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from videor2_rl.config.resources import encodes_beside_learner, has_reference, has_reference_ranks, parts_of
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun
from videor2_rl.training.protocols import Workers
from workers.cluster import ask_for_nodes, connected
from workers.control import Scaled, controlled
from workers.judge_server import judge_access
from workers.learner.learner import Learner
from workers.learner.reference import BaseOfAdapter, Reference
from workers.learner.verl_config import learner_env
from workers.preflight import check_cluster
from workers.reward import RewardPool
from workers.rollout.engine import engine_spec
from workers.rollout.pool import RolloutPool
from workers.video import VideoPool

logger = logging.getLogger(__name__)


@contextmanager
def grpo_workers(run: GrpoRun) -> Iterator[Workers]:
    """Everything that GRPO needs, on its cluster; the pools start side by side and are shut down at the end."""
    with ExitStack() as stack:
        device = run.cluster.device
        stack.enter_context(connected(run.cluster, worker_env=learner_env(device), parts=parts_of(run)))
        check_cluster(run, model_path=run.model.path)
        _announce(run)
        rollouts = RolloutPool(
            engine_spec(run.rollout, run.model, device=device),
            group_size=run.algorithm.group_size if run.algorithm.max_staleness > 0 else None,
        )
        stack.callback(rollouts.shutdown)
        judge = stack.enter_context(judge_access(run.judge, device=device))
        rewards = RewardPool(run.reward, run.reward_workers, judge)
        stack.callback(rewards.shutdown)
        videos = VideoPool(run.model, run.video, max_prompt_tokens=run.rollout.max_prompt_tokens)
        stack.callback(videos.shutdown)
        learner = Learner(
            run.learner,
            run.model,
            total_steps=run.algorithm.num_steps * run.algorithm.updates_per_batch,
            seed=run.seed,
            max_response_tokens=run.rollout.max_response_tokens,
        )
        stack.callback(learner.shutdown)
        encoder = learner.encoder
        references: list[Reference] = []
        reference: Reference | BaseOfAdapter | None = (
            BaseOfAdapter(learner) if run.algorithm.kl_coefficient > 0 else None
        )
        if has_reference_ranks(run):
            ranks = Reference(
                run.reference,
                run.model,
                backend=run.learner.backend,
                max_tokens_per_micro_batch=run.learner.max_tokens_per_micro_batch,
                visual_cache_mib=run.learner.visual_cache_mib if encodes_beside_learner(run) else None,
            )
            stack.callback(ranks.shutdown)
            references.append(ranks)
            reference = ranks if has_reference(run) else reference
            encoder = ranks.encoder if encodes_beside_learner(run) else encoder
        rollouts.wait_ready()
        learner.wait_ready()

        def rebuild() -> None:
            rollouts.meet_anew()
            learner.rebuild()
            for ranks in references:
                ranks.rebuild_if_lost()

        stack.enter_context(_scalable(run, rollouts, rewards, videos))
        yield Workers(videos, encoder, rollouts, rewards, learner, reference, rebuild)


@contextmanager
def sft_workers(run: SftRun) -> Iterator[tuple[VideoPool, Learner]]:
    """Video workers and the learner of SFT."""
    with ExitStack() as stack:
        device = run.cluster.device
        stack.enter_context(connected(run.cluster, worker_env=learner_env(device), parts=parts_of(run)))
        check_cluster(run, model_path=run.model.path)
        _announce(run)
        videos = VideoPool(
            run.model, run.video, max_prompt_tokens=run.learner.max_tokens_per_micro_batch, encode_solutions=True
        )
        stack.callback(videos.shutdown)
        learner = Learner(run.learner, run.model, total_steps=run.sft.num_steps, seed=run.seed)
        stack.callback(learner.shutdown)
        learner.wait_ready()
        yield videos, learner


@contextmanager
def evaluation_workers(
    run: EvaluateRun, *, model_path: str, prompts_per_call: int
) -> Iterator[tuple[VideoPool, RolloutPool, RewardPool]]:
    """Video, rollout and reward workers; the rollout workers begin with the weights of `model_path`.

    Args:
        prompts_per_call: that are in the object store at the same time.
    """
    with ExitStack() as stack:
        device = run.cluster.device
        stack.enter_context(connected(run.cluster, worker_env={}, parts=parts_of(run)))
        check_cluster(run, model_path=model_path, prompts_per_call=prompts_per_call)
        _announce(run)
        model = replace(run.model, path=model_path)
        rollouts = RolloutPool(engine_spec(run.rollout, model, device=device))
        stack.callback(rollouts.shutdown)
        judge = stack.enter_context(judge_access(run.judge, device=device))
        rewards = RewardPool(run.reward, run.reward_workers, judge)
        stack.callback(rewards.shutdown)
        videos = VideoPool(model, run.video, max_prompt_tokens=run.rollout.max_prompt_tokens)
        stack.callback(videos.shutdown)
        rollouts.wait_ready()
        stack.enter_context(_scalable(run, rollouts, rewards, videos))
        yield videos, rollouts, rewards


@contextmanager
def _scalable(
    run: GrpoRun | EvaluateRun, rollouts: RolloutPool, rewards: RewardPool, videos: VideoPool
) -> Iterator[None]:
    """The pools change their sizes as `python -m videor2_rl.scale` says, and an autoscaler learns of it."""
    # With a judge each worker has a part of judge.calls.concurrency.
    most = None if run.judge.kind == "rules" else run.judge.calls.concurrency
    pools = {
        "rollout": Scaled(rollouts, "rollout.max_workers", run.rollout.max_workers),
        "reward": Scaled(rewards, "judge.calls.concurrency, which they share", most),
        "video": Scaled(videos, "video.num_workers"),
    }

    def ask(sizes: Mapping[str, int]) -> None:
        if run.cluster.autoscaler:
            ask_for_nodes(parts_of(resized(run, sizes)))

    try:
        with controlled(Path(run.output_dir), pools, on_resize=ask):
            yield
    finally:
        if run.cluster.autoscaler:
            ask_for_nodes([])


def resized(run: GrpoRun | EvaluateRun, sizes: Mapping[str, int]) -> GrpoRun | EvaluateRun:
    """The run as if it had been started with pools of these sizes."""
    return replace(
        run,
        rollout=replace(run.rollout, num_workers=sizes["rollout"]),
        reward_workers=replace(run.reward_workers, num_workers=sizes["reward"]),
        video=replace(run.video, num_workers=sizes["video"]),
    )


def _announce(run: GrpoRun | SftRun | EvaluateRun) -> None:
    parts = ", ".join(f"{part.count} {part.name}{'' if part.count == 1 else 's'}" for part in parts_of(run))
    logger.info("starting %s%s", parts, "" if isinstance(run, SftRun) else "; engines take a minute")
