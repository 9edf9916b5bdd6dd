"""Ranges and combinations of configuration values that types cannot express, each refused with one sentence."""

from __future__ import annotations

from rewards.judge import needs_judge
from rewards.types import OfficialConfig, RewardConfig
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import JudgeConfig, ManagedJudge, OpenAIJudge, RulesJudge
from videor2_rl.config.resources import has_reference_ranks, parts_of
from videor2_rl.config.runs import ChatRun, EvaluateRun, GrpoRun, LogsRun, ScoreRun, SftRun
from videor2_rl.config.sections import LearnerConfig, ModelConfig, RolloutConfig, VideoConfig


def require(is_met: bool, message: str) -> None:
    """Raise ConfigError with `message` unless it is met."""
    if not is_met:
        raise ConfigError(f"configuration: {message}")


def check(run: GrpoRun | SftRun | EvaluateRun | ScoreRun | LogsRun | ChatRun) -> None:
    """Everything that must hold of a whole configuration."""
    require(
        isinstance(run, ScoreRun | ChatRun) or bool(run.output_dir.strip()),
        "output_dir: is empty; give output_dir=FOLDER (a shell variable that is not set?)",
    )
    if isinstance(run, LogsRun):
        require(
            not isinstance(run.judge, ManagedJudge),
            "judge: found managed, but logs are read without a cluster; give judge=openai judge.base_url=ADDRESS of a "
            "server that runs",
        )
        require(
            0 <= run.mixer_alpha <= 1,
            f"mixer_alpha: found {run.mixer_alpha}, needs to be between 0 and 1; 0.7 is usual",
        )
        require(run.mixer_gamma > 0, f"mixer_gamma: found {run.mixer_gamma}, needs to be above 0; 2 is usual")
        return
    if isinstance(run, ScoreRun):
        _check_reward(run.reward)
        check_judge(run.judge, run.reward, num_workers=1, must_ask=False)
        require(
            not isinstance(run.judge, ManagedJudge),
            "judge: found managed, but score starts no server; give judge=openai judge.base_url=ADDRESS",
        )
        return
    _check_video(run.video)
    if isinstance(run, ChatRun):
        _check_chat(run)
        return
    require(
        0 <= run.data.max_skipped_frac <= 1,
        f"data.max_skipped_frac: found {run.data.max_skipped_frac}, a share lies between 0 and 1",
    )
    if run.cluster.device == "cuda":
        require(run.model.dtype == "bfloat16", "model.dtype: found float32 on cluster.device=cuda; use bfloat16")
    for part in parts_of(run):
        # A judge may have GPUs of its own.
        require(
            run.cluster.device == "cuda" or part.gpus == 0 or part.name == "judge",
            f"{part.key}: each {part.name} asks for {part.gpus:g} GPU on cluster.device=cpu; set its GPUs to 0",
        )
    if run.cluster.device == "cuda":
        _check_gpus(run)
    if not isinstance(run, EvaluateRun):
        _check_learner(run.learner)
        _check_lora(run.model)
        require(
            not (run.model.lora.rank > 0 and run.model.lora.dora and run.learner.backend == "deepspeed_zero3"),
            "model.lora.dora: found true with learner.backend=deepspeed_zero3, and DoRA reads whole weights where "
            "ZeRO-3 has shards; give learner=fsdp2 or learner=deepspeed_zero2, or model.lora.dora=false",
        )
    if not isinstance(run, SftRun):
        _check_rollout(run.rollout)
        _check_reward(run.reward)
        check_judge(run.judge, run.reward, num_workers=run.reward_workers.num_workers, must_ask=True)
    if isinstance(run, GrpoRun):
        _check_grpo(run)
    if isinstance(run, SftRun):
        require(run.sft.num_steps >= 0, f"sft.num_steps: found {run.sft.num_steps}; give the steps, or 0 for one epoch")
        require(
            run.sft.batch_size >= run.learner.num_ranks,
            f"sft.batch_size: found {run.sft.batch_size} with learner.num_ranks={run.learner.num_ranks}; "
            "each rank needs at least one sample",
        )
    if isinstance(run, EvaluateRun):
        require(bool(run.evaluation.modes), "evaluation.modes: found none; use [sampled], [greedy] or both")
        require(
            bool(run.evaluation.checkpoints) and all(":" in entry for entry in run.evaluation.checkpoints),
            f"evaluation.checkpoints: found {list(run.evaluation.checkpoints)}; "
            "give evaluation.checkpoints=[NAME:FOLDER]",
        )


def _check_video(video: VideoConfig) -> None:
    require(video.fps > 0, f"video.fps: found {video.fps}, needs to be above 0")
    require(
        2 <= video.min_frames <= video.max_frames,
        f"video.min_frames: found {video.min_frames} with video.max_frames={video.max_frames}; "
        "needs 2 <= min_frames <= max_frames",
    )
    require(
        0 < video.min_pixels <= video.max_pixels,
        f"video.min_pixels: found {video.min_pixels} with video.max_pixels={video.max_pixels}; needs min <= max",
    )
    require(
        video.size_multiple**2 <= video.max_pixels,
        f"video.max_pixels: found {video.max_pixels} with video.size_multiple={video.size_multiple}; needs at least "
        f"one cell of {video.size_multiple} x {video.size_multiple}",
    )
    require(video.num_workers >= 1, f"video.num_workers: found {video.num_workers}, needs at least 1")


def _check_chat(run: ChatRun) -> None:
    require(run.temperature >= 0, f"temperature: found {run.temperature}, cannot be negative; 0 is the likeliest token")
    _check_rollout(run.rollout)
    _check_reward(run.reward)
    require(
        not isinstance(run.reward, OfficialConfig),
        "reward: chat reads what the model wrote by reward=video_r2, or another with that rule; give one of them",
    )
    check_judge(run.judge, run.reward, num_workers=1, must_ask=True)
    require(
        not isinstance(run.judge, ManagedJudge),
        "judge: found managed, but chat starts no server; give judge=openai judge.base_url=ADDRESS, or judge=rules",
    )


def _check_gpus(run: GrpoRun | SftRun | EvaluateRun) -> None:
    """vLLM splits a model over exactly the GPUs that its worker is given, and verl gives each rank a whole one."""
    if not isinstance(run, SftRun):
        gpus, ranks = run.rollout.gpus_per_worker, run.rollout.tensor_parallel_size
        require(
            gpus == ranks or (ranks == 1 and 0 < gpus < 1),
            f"rollout.gpus_per_worker: found {gpus:g} with rollout.tensor_parallel_size={ranks}; a worker's model is "
            f"split over all of its GPUs, so give rollout.gpus_per_worker={ranks} "
            f"rollout.tensor_parallel_size={ranks}",
        )
    if not isinstance(run, EvaluateRun):
        _check_whole_gpu(run.learner.gpus_per_rank, "learner.gpus_per_rank")
    if isinstance(run, GrpoRun) and has_reference_ranks(run):
        _check_whole_gpu(run.reference.gpus_per_rank, "reference.gpus_per_rank")


def _check_whole_gpu(gpus: float, key: str) -> None:
    require(gpus == 1, f"{key}: found {gpus:g} on cluster.device=cuda, and each rank computes on one GPU; give 1")


def _check_reward(reward: RewardConfig) -> None:
    from rewards.compose import check_config

    try:
        check_config(reward)
    except ValueError as error:
        raise ConfigError(f"configuration: {error}") from error


def _check_learner(learner: LearnerConfig) -> None:
    require(learner.num_ranks >= 1, f"learner.num_ranks: found {learner.num_ranks}, needs at least 1")
    require(learner.max_rebuilds >= 0, f"learner.max_rebuilds: found {learner.max_rebuilds}, cannot be negative")
    require(learner.learning_rate > 0, f"learner.learning_rate: found {learner.learning_rate}, needs to be above 0")
    require(
        learner.sequence_parallel_size == 1,
        f"learner.sequence_parallel_size: found {learner.sequence_parallel_size}, and the attention over packed groups "
        "needs each sequence whole on one rank; give 1, and a smaller learner.max_tokens_per_micro_batch, at which "
        "groups are split into parts that repeat the prompt, with learner.gradient_checkpointing=true",
    )
    require(
        learner.visual_cache_mib >= 0,
        f"learner.visual_cache_mib: found {learner.visual_cache_mib}, cannot be negative; 0 is no reuse",
    )
    require(learner.sync_bucket_mib >= 1, f"learner.sync_bucket_mib: found {learner.sync_bucket_mib}, needs at least 1")
    require(
        learner.sync_deadline_s > 0, f"learner.sync_deadline_s: found {learner.sync_deadline_s}, needs to be above 0"
    )
    require(learner.warmup_steps >= 0, f"learner.warmup_steps: found {learner.warmup_steps}, cannot be negative")
    require(
        0 <= learner.warmup_frac < 1 and (learner.warmup_frac == 0 or learner.warmup_steps == 0),
        f"learner.warmup_frac: found {learner.warmup_frac} with learner.warmup_steps={learner.warmup_steps}; "
        "give a share from 0 to 1 and warmup_steps=0, or the steps and warmup_frac=0",
    )


def _check_lora(model: ModelConfig) -> None:
    lora = model.lora
    require(lora.rank >= 0, f"model.lora.rank: found {lora.rank}; 0 is no adapters, 64 is the paper's")
    require(0 <= lora.dropout < 1, f"model.lora.dropout: found {lora.dropout}, a share lies between 0 and 1")
    require(
        lora.rank == 0 or (lora.alpha > 0 and bool(lora.targets)),
        f"model.lora: found rank {lora.rank} with alpha {lora.alpha} and targets {list(lora.targets)}; "
        "adapters need an alpha above 0 and at least one target",
    )
    require(
        lora.rank == 0 or not model.freeze_language_model,
        "model.lora.rank: adapters train the language model, and model.freeze_language_model is true; choose one",
    )


def _check_rollout(rollout: RolloutConfig) -> None:
    require(rollout.num_workers >= 1, f"rollout.num_workers: found {rollout.num_workers}, needs at least 1")
    require(rollout.standby >= 0, f"rollout.standby: found {rollout.standby}, needs at least 0")
    least, most = rollout.min_workers, rollout.max_workers
    require(
        least is None or 1 <= least <= rollout.num_workers,
        f"rollout.min_workers: found {least}, needs 1 to rollout.num_workers={rollout.num_workers}",
    )
    require(
        most is None or most >= rollout.num_workers,
        f"rollout.max_workers: found {most}, needs at least rollout.num_workers={rollout.num_workers}",
    )
    require(
        rollout.max_response_tokens < rollout.max_model_tokens,
        f"rollout.max_response_tokens: found {rollout.max_response_tokens} with rollout.max_model_tokens="
        f"{rollout.max_model_tokens}; the prompt needs room too",
    )
    require(rollout.temperature > 0, f"rollout.temperature: found {rollout.temperature}, needs to be above 0")


def check_judge(judge: JudgeConfig, reward: RewardConfig, *, num_workers: int, must_ask: bool) -> None:
    """Whether reward and judge fit together.

    Args:
        num_workers: who share the judge's concurrency.
        must_ask: what the reward has a judge read stands nowhere else.

    Raises:
        ConfigError: they do not, or a value is out of range.
    """
    keys = needs_judge(reward)
    if isinstance(judge, RulesJudge):
        require(
            not (keys and must_ask),
            f"{' and '.join(keys)}: needs a judge, found judge=rules; give judge=openai with judge.base_url and "
            f"judge.model, or judge=managed with judge.model_path, or set {'=rules '.join(keys)}=rules",
        )
        return
    calls = judge.calls
    require(
        calls.concurrency >= num_workers,
        f"judge.calls.concurrency: found {calls.concurrency} for reward_workers.num_workers={num_workers}; each worker "
        "needs at least one call",
    )
    above_0 = ("deadline_s", "max_tokens", "breaker_failures", "probe_every_s", "patience_s")
    for name in above_0:
        value = getattr(calls, name)
        require(value > 0, f"judge.calls.{name}: found {value}, needs to be above 0")
    require(calls.retries >= 0, f"judge.calls.retries: found {calls.retries}, cannot be negative")
    require(
        0 <= calls.max_failed_frac <= 1,
        f"judge.calls.max_failed_frac: found {calls.max_failed_frac}, a share lies between 0 and 1",
    )
    if isinstance(judge, OpenAIJudge):
        require(
            judge.base_url.startswith(("http://", "https://")),
            f"judge.base_url: found {judge.base_url!r}; give it with scheme and path, e.g. http://host:8000/v1",
        )


def _check_grpo(run: GrpoRun) -> None:
    from rewards.compose import reward_range

    algorithm = run.algorithm
    for key, value in (("tracked_groups", run.logging.tracked_groups), ("max_clip_mib", run.logging.max_clip_mib)):
        require(value >= 0, f"logging.{key}: found {value}, needs at least 0; 0 is none")
    require(
        algorithm.num_steps >= 0,
        f"algorithm.num_steps: found {algorithm.num_steps}; give the steps, or 0 for one epoch",
    )
    require(
        algorithm.group_size >= 2,
        f"algorithm.group_size: found {algorithm.group_size}; an advantage relative to the group needs at least 2",
    )
    require(
        1 <= algorithm.updates_per_batch <= algorithm.prompts_per_step,
        f"algorithm.updates_per_batch: found {algorithm.updates_per_batch} with algorithm.prompts_per_step="
        f"{algorithm.prompts_per_step}; each update needs at least one group",
    )
    require(
        algorithm.prompts_per_step * algorithm.group_size // algorithm.updates_per_batch >= run.learner.num_ranks,
        f"algorithm.prompts_per_step: found {algorithm.prompts_per_step} prompts of {algorithm.group_size} responses "
        f"for {algorithm.updates_per_batch} updates on learner.num_ranks={run.learner.num_ranks}; each rank needs at "
        "least one response an update",
    )
    require(
        algorithm.kl_coefficient >= 0,
        f"algorithm.kl_coefficient: found {algorithm.kl_coefficient}, cannot be negative",
    )
    require(
        algorithm.kl_coefficient == 0 or run.model.lora.rank > 0 or run.reference.num_ranks >= 1,
        f"reference.num_ranks: found {run.reference.num_ranks} with algorithm.kl_coefficient="
        f"{algorithm.kl_coefficient}; the KL term needs a reference, or set algorithm.kl_coefficient=0",
    )
    require(
        not run.reference.cpu_offload
        or (run.cluster.device == "cuda" and run.learner.backend in ("fsdp2", "deepspeed_zero3")),
        f"reference.cpu_offload: found true with cluster.device={run.cluster.device} and learner.backend="
        f"{run.learner.backend}; it needs GPUs, and learner=fsdp2 or learner=deepspeed_zero3, so give false",
    )
    require(
        run.model.lora.rank == 0 or algorithm.kl_coefficient == 0 or run.model.has_frozen_vision,
        "model.lora.rank: the KL term's reference is the model without its adapter, so vision tower and merger must be "
        "frozen (model.freeze_vision_tower=true model.freeze_merger=true), or set algorithm.kl_coefficient=0",
    )
    rollout = run.rollout
    require(
        run.evaluation.every_steps >= 0,
        f"evaluation.every_steps: found {run.evaluation.every_steps}, cannot be negative; 0 is never",
    )
    require(
        run.evaluation.every_steps == 0 or run.data.validation_file is not None,
        f"evaluation.every_steps: found {run.evaluation.every_steps} without held-out rows; "
        "give data.validation_file=FILE",
    )
    require(
        algorithm.importance_cap in (None, "auto") or rollout.is_full_softmax,
        f"algorithm.importance_cap: found {algorithm.importance_cap} with rollout.top_k={rollout.top_k}, "
        f"top_p={rollout.top_p}; what they cut away cannot be weighed, so set rollout.top_k=0 rollout.top_p=1, or "
        "algorithm.importance_cap=null",
    )
    require(
        algorithm.importance_cap in (None, "auto") or float(algorithm.importance_cap) >= 1,
        f"algorithm.importance_cap: found {algorithm.importance_cap}, needs to be at least 1; 2 is usual",
    )
    _check_staleness(run)
    _check_loss(algorithm)
    least, most = reward_range(run.reward)
    require(
        algorithm.advantage != "mapo" or least >= 0,
        f"algorithm.advantage: mapo divides by the group's mean reward, and terms of negative weight can pay {least}; "
        "give all terms a weight of at least 0, or another advantage",
    )
    require(
        algorithm.advantage != "bnpo" or most > least,
        "algorithm.advantage: bnpo scales rewards to 0-1, and no term of the reward has a weight; give one",
    )


def _check_staleness(run: GrpoRun) -> None:
    algorithm, rollout = run.algorithm, run.rollout
    staleness = algorithm.max_staleness
    require(
        staleness >= 0, f"algorithm.max_staleness: found {staleness}, cannot be negative; 0 is the synchronous loop"
    )
    require(
        algorithm.lookahead >= 0 and (algorithm.lookahead == 0 or staleness > 0),
        f"algorithm.lookahead: found {algorithm.lookahead} with algorithm.max_staleness={staleness}; no group can be "
        "passed in the synchronous loop, so give 0, or a max_staleness above 0",
    )
    require(
        rollout.max_prepared_mib > 0, f"rollout.max_prepared_mib: found {rollout.max_prepared_mib}, needs to be above 0"
    )
    if staleness == 0:
        return
    require(
        algorithm.importance_cap is None or rollout.is_full_softmax,
        f"algorithm.max_staleness: found {staleness} with rollout.top_k={rollout.top_k}, top_p={rollout.top_p}; "
        "importance weights correct what separates the policies that sample and train, and what is cut away cannot be "
        "weighed: set rollout.top_k=0 rollout.top_p=1, or algorithm.importance_cap=null to go without",
    )
    require(
        rollout.on_update != "finish" or run.learner.sync == "full",
        f"rollout.on_update: found finish with learner.sync={run.learner.sync}; each worker loads when it comes to it, "
        "and may lack what the changes are to: give learner.sync=full, or rollout.on_update=continue",
    )


def _check_loss(algorithm: AlgorithmConfig) -> None:
    require(
        0 <= algorithm.clip_low <= 1 and algorithm.clip_high >= 0,
        f"algorithm.clip_low, clip_high: found {algorithm.clip_low}, {algorithm.clip_high}; "
        "needs 0 <= clip_low <= 1 and clip_high >= 0",
    )
    require(
        algorithm.ratio_cap is None
        or (algorithm.ratio_cap > 1 and algorithm.policy_loss in ("vanilla", "dppo_tv", "dppo_kl")),
        f"algorithm.ratio_cap: found {algorithm.ratio_cap} with algorithm.policy_loss={algorithm.policy_loss}; give a "
        "value above 1 with vanilla, dppo_tv or dppo_kl, or null",
    )
    require(
        algorithm.policy_loss not in ("geo_mean", "sapo") or algorithm.loss_aggregation == "seq-mean-token-mean",
        f"algorithm.loss_aggregation: found {algorithm.loss_aggregation}, and algorithm.policy_loss="
        f"{algorithm.policy_loss} is a mean over responses; give seq-mean-token-mean",
    )
