"""Every shipped configuration composes into dataclasses; mistakes are named before anything starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from experiments import EXPERIMENTS

import conf
from rewards.types import VideoR2Config
from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import OpenAIJudge
from videor2_rl.config.runs import EvaluateRun, GrpoRun, LogsRun, SftRun

CONF = Path(conf.__file__).parent
PATHS = ["model.path=m", "data.train_file=t", "data.media_dir=d"]
OPENAI = ["judge=openai", "judge.base_url=http://h:8000/v1", "judge.model=m"]
JUDGES: dict[str, list[str]] = {
    "rules": [],
    "openai": OPENAI[1:],
    "managed": ["judge.model_path=j"],
    "managed_cpu": ["judge.model_path=j"],
}
ONE_STEP_OFF = ["algorithm.max_staleness=1", "rollout.top_k=0"]
BATCH_OF_4 = ["algorithm.prompts_per_step=2", "algorithm.group_size=2"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["judge.calls.extra_body={chat_template_kwargs:{enable_thinking:false},seed:null}"],
        ["judge.calls.extra_body={chat_template_kwargs: {enable_thinking: false}, seed: null}"],
        ["+judge.calls.extra_body={chat_template_kwargs:{enable_thinking:false},seed:null}"],
        ["+judge.calls.extra_body.chat_template_kwargs.enable_thinking=false", "+judge.calls.extra_body.seed=null"],
    ],
)
def test_further_fields_of_the_judges_requests_are_given_on_a_command_line(overrides: list[str]) -> None:
    judge = compose_run("grpo", GrpoRun, [*PATHS, *OPENAI, *overrides]).judge
    assert isinstance(judge, OpenAIJudge)
    assert judge.calls.extra_body == {"chat_template_kwargs": {"enable_thinking": False}, "seed": None}


@pytest.mark.parametrize("value", ["mixer_alpha=1.1", "mixer_alpha=-0.1", "mixer_gamma=0", "vas_prompt=other"])
def test_a_bad_option_of_the_summariser_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match=value.partition("=")[0]):
        compose_run("evaluate_logs", LogsRun, ["logs=x", value])
    bounds = ["mixer_alpha=1", "mixer_gamma=0.5", "vas_prompt=official"]
    assert compose_run("evaluate_logs", LogsRun, ["logs=x", *bounds]).vas_prompt == "official"


def test_every_experiment_file_is_listed_here() -> None:
    assert {file.stem for file in (CONF / "experiment").glob("*.yaml")} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes(name: str) -> None:
    app, run_type = EXPERIMENTS[name]
    run = compose_run(app, run_type, [f"experiment={name}", *PATHS])
    assert isinstance(run, run_type) and run.model.path == "m"


@pytest.mark.parametrize(
    "group", ["judge", "algorithm", "reward", "rollout", "learner", "reference", "cluster", "video", "model"]
)
def test_every_alternative_of_a_group_composes(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        overrides = [f"{group}={file.stem}", *PATHS]
        if group == "judge":
            overrides += JUDGES[file.stem]
        if group == "cluster" and file.stem == "cpu":
            overrides.append("model.dtype=float32")
        if group == "model" and file.stem.startswith("demo"):
            overrides.append("cluster=cpu")
        assert isinstance(compose_run("grpo", GrpoRun, overrides), GrpoRun), file


def test_the_papers_grpo_settings() -> None:
    run = compose_run("grpo", GrpoRun, PATHS)
    assert (run.rollout.temperature, run.rollout.top_k, run.rollout.max_response_tokens) == (0.9, 50, 1024)
    assert (run.algorithm.group_size, run.algorithm.kl_coefficient, run.algorithm.clip_low) == (8, 0.04, 0.2)
    assert (run.learner.learning_rate, run.learner.weight_decay) == (1e-6, 0.01)
    assert (run.video.fps, run.video.max_frames, run.video.max_pixels) == (2.0, 32, 360 * 420)
    assert run.model.freeze_vision_tower and run.model.freeze_merger and not run.model.freeze_language_model


def test_the_papers_runs_have_the_papers_frames_and_all_else_has_ours() -> None:
    frames = {}
    for name, (app, run_type) in EXPERIMENTS.items():
        video = compose_run(app, run_type, [f"experiment={name}", *PATHS]).video
        if video.rule == "video_r2_official":
            frames[name] = (video.fps, video.min_frames, video.max_frames, video.min_pixels, video.max_pixels)
    assert frames == {
        "video_r2_7b_grpo": (2.0, 4, 32, 128 * 28 * 28, 360 * 420),
        "video_r2_7b_sft": (1.0, 4, 128, 128 * 28 * 28, 360 * 420),
    }
    alone = compose_run("grpo", GrpoRun, [*PATHS, "video=video_r2_official"]).video
    assert alone == replace(compose_run("grpo", GrpoRun, PATHS).video, rule="video_r2_official", min_pixels=100352)


def test_ablations_differ_from_the_default_reward_only_in_what_they_ablate() -> None:
    full, no_gate, no_tar = (
        cast(VideoR2Config, compose_run("grpo", GrpoRun, [*PATHS, f"reward={name}"]).reward)
        for name in ("video_r2", "no_gate", "no_tar")
    )
    assert full.temporal_alignment.gate and not no_gate.temporal_alignment.gate
    assert full.temporal_alignment.weight == no_gate.temporal_alignment.weight > 0
    assert no_tar.temporal_alignment.weight == 0
    assert full.accuracy == no_gate.accuracy == no_tar.accuracy


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["rollout.num_workers=0"], "rollout.num_workers: found 0, needs at least 1"),
        (["rollout.standby=-1"], "rollout.standby: found -1, needs at least 0"),
        (["rollout.min_workers=2"], "rollout.min_workers: found 2, needs 1 to rollout.num_workers=1"),
        (["rollout.num_workers=3", "rollout.max_workers=2"], "rollout.max_workers: found 2, needs at least"),
        (["learner.max_rebuilds=-1"], "learner.max_rebuilds: found -1, cannot be negative"),
        (["rollout.num_workers=many"], "rollout.num_workers: found 'many'"),
        (["algorithm.group_size=1"], "algorithm.group_size: found 1"),
        (["logging.tracked_groups=-1"], "logging.tracked_groups: found -1"),
        (["logging.max_clip_mib=-0.5"], "logging.max_clip_mib: found -0.5"),
        (["algorithm.prompts_per_step=1", "learner.num_ranks=9"], "algorithm.prompts_per_step: found 1"),
        (["reference.num_ranks=0"], "reference.num_ranks: found 0 with algorithm.kl_coefficient=0.04"),
        (["learner.visual_cache_mib=-1"], "learner.visual_cache_mib: found -1"),
        (["learner.sync_bucket_mib=0"], "learner.sync_bucket_mib: found 0"),
        (["learner.sync_deadline_s=0"], "learner.sync_deadline_s: found 0"),
        (["learner.sync=some"], "learner.sync: found 'some'"),
        (["video.min_pixels=500", "video.max_pixels=500"], "video.max_pixels: found 500 with video.size_multiple=28"),
        (["video.min_frames=64"], "video.min_frames: found 64 with video.max_frames=32"),
        (["rollout.max_response_tokens=99999"], "rollout.max_response_tokens: found 99999"),
        (
            ["rollout.max_response_tokens=2048", "rollout.max_model_tokens=2048"],
            "rollout.max_response_tokens: found 2048 with rollout.max_model_tokens=2048",
        ),
        (
            [*BATCH_OF_4, "algorithm.updates_per_batch=2", "learner.num_ranks=3"],
            "algorithm.prompts_per_step: found 2 prompts of 2 responses for 2 updates on learner.num_ranks=3",
        ),
        ([*BATCH_OF_4, "algorithm.updates_per_batch=3"], "algorithm.updates_per_batch: found 3 with algorithm.prompts"),
        ([*BATCH_OF_4, "algorithm.updates_per_batch=0"], "algorithm.updates_per_batch: found 0"),
        (["algorithm.max_staleness=-1"], "algorithm.max_staleness: found -1, cannot be negative; 0 is the synchronous"),
        (["algorithm.lookahead=2"], "algorithm.lookahead: found 2 with algorithm.max_staleness=0"),
        (
            ["algorithm.max_staleness=1"],
            "algorithm.max_staleness: found 1 with rollout.top_k=50, top_p=1.0; importance",
        ),
        (["rollout.max_prepared_mib=0"], "rollout.max_prepared_mib: found 0, needs to be above 0"),
        (
            [*ONE_STEP_OFF, "rollout.on_update=finish", "learner.sync=delta"],
            "rollout.on_update: found finish with learner.sync=delta",
        ),
        ([*ONE_STEP_OFF, "reference.gpus_per_rank=2"], "reference.gpus_per_rank: found 2"),
        (["algorithm.importance_cap=0.5", "rollout.top_k=0"], "algorithm.importance_cap: found 0.5, needs to be at"),
        (["rollout.temperature=0"], "rollout.temperature: found 0.0, needs to be above 0"),
        (["algorithm.kl_coefficient=-0.1"], "algorithm.kl_coefficient: found -0.1, cannot be negative"),
        (["learner.warmup_frac=0.1", "learner.warmup_steps=1"], "learner.warmup_frac: found 0.1 with learner.warmup"),
        (["learner.warmup_frac=1", "learner.warmup_steps=0"], "learner.warmup_frac: found 1.0"),
        (["video.min_frames=1"], "video.min_frames: found 1 with video.max_frames=32"),
        (["video.min_pixels=200000"], "video.min_pixels: found 200000 with video.max_pixels=151200"),
        (["video.fps=0"], "video.fps: found 0.0, needs to be above 0"),
        (["evaluation.every_steps=5"], "evaluation.every_steps: found 5 without held-out rows"),
        (["model.lora.rank=1", "model.lora.alpha=0"], "model.lora: found rank 1 with alpha 0"),
        (["model.lora.rank=4", "model.freeze_merger=false"], "so vision tower and merger must be frozen"),
        (["model.lora.rank=1", "model.freeze_language_model=true"], "model.lora.rank: adapters train the language"),
        (["model.lora.rank=-1"], "model.lora.rank: found -1; 0 is no adapters"),
        (["algorithm.clip_low=-0.1"], "algorithm.clip_low, clip_high: found -0.1, 0.2"),
        (["algorithm.clip_high=-0.1"], "algorithm.clip_low, clip_high: found 0.2, -0.1"),
        (["algorithm.importance_cap=2"], "algorithm.importance_cap: found 2.0 with rollout.top_k=50, top_p=1.0"),
        (
            ["algorithm.importance_cap=2", "rollout.top_k=0", "rollout.top_p=0.9"],
            "algorithm.importance_cap: found 2.0 with rollout.top_k=0, top_p=0.9",
        ),
        (["model.dtype=float32"], "model.dtype: found float32 on cluster.device=cuda"),
        (["data.max_skipped_frac=3"], "data.max_skipped_frac: found 3.0"),
        (["+rollout.workers=3"], "rollout.workers: no such key"),
        (["model.path=???"], "model.path is required"),
        (["reward.consistency.reader=judge"], "reward.consistency.reader: needs a judge, found judge=rules; give"),
        (
            ["reward.consistency.reader=judge", "reward.temporal_alignment.claims=judge"],
            "or set reward.temporal_alignment.claims=rules reward.consistency.reader=rules",
        ),
        (
            ["judge=openai"],
            "judge.base_url and judge.model are required and have no value; give them as judge.base_url=VALUE "
            "judge.model=VALUE",
        ),
        (["judge=openai", "judge.base_url=h:8000", "judge.model=m"], "judge.base_url: found 'h:8000'"),
        ([*OPENAI, "judge.calls.deadline_s=0"], "judge.calls.deadline_s: found 0.0, needs to be above 0"),
        ([*OPENAI, "judge.calls.concurrency=1", "reward_workers.num_workers=2"], "judge.calls.concurrency: found 1"),
        ([*OPENAI, "judge.calls.max_failed_frac=2"], "judge.calls.max_failed_frac: found 2.0"),
        ([*OPENAI, "+judge.calls.retry=2"], "judge.calls.retry: no such key"),
        (["judge=managed"], "judge.model_path is required"),
        (
            ["learner.sequence_parallel_size=2"],
            "learner.sequence_parallel_size: found 2, and the attention over packed",
        ),
        (
            ["model=qwen2_5_vl_lora", "model.lora.dora=true", "learner=deepspeed_zero3"],
            "model.lora.dora: found true with learner.backend=deepspeed_zero3",
        ),
        (
            ["rollout.tensor_parallel_size=2"],
            "rollout.gpus_per_worker: found 1 with rollout.tensor_parallel_size=2; a worker's model is split over all "
            "of its GPUs, so give rollout.gpus_per_worker=2 rollout.tensor_parallel_size=2",
        ),
        (["rollout.gpus_per_worker=2"], "rollout.gpus_per_worker: found 2 with rollout.tensor_parallel_size=1"),
        (
            ["reference.cpu_offload=true", "learner=deepspeed_zero2"],
            "reference.cpu_offload: found true with cluster.device=cuda and learner.backend=deepspeed_zero2",
        ),
        (["rollout.gpus_per_worker=1.5"], "rollout.gpus_per_worker: found 1.5"),
        (["learner.gpus_per_rank=0.5"], "learner.gpus_per_rank: found 0.5 on cluster.device=cuda"),
        (["reference.gpus_per_rank=0"], "reference.gpus_per_rank: found 0 on cluster.device=cuda"),
        (["algorithm.clip_low=2"], "algorithm.clip_low, clip_high: found 2.0, 0.2"),
        (["algorithm.ratio_cap=1"], "algorithm.ratio_cap: found 1.0 with algorithm.policy_loss=vanilla"),
        (["algorithm=gspo", "algorithm.ratio_cap=3"], "algorithm.ratio_cap: found 3.0 with algorithm.policy_loss=gspo"),
        (["algorithm=gmpo", "algorithm.loss_aggregation=token-mean"], "algorithm.loss_aggregation: found token-mean"),
        (["algorithm=mapo", "reward.format.weight=-1"], "terms of negative weight can pay -1.0"),
    ],
)
def test_a_bad_value_is_named_with_its_mend(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_run("grpo", GrpoRun, [*PATHS, *overrides])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rollout_workers_gpus_follow_its_tensor_parallel_size() -> None:
    for accepted in (
        ["rollout.tensor_parallel_size=2", "rollout.gpus_per_worker=2"],
        ["rollout.gpus_per_worker=0.5"],
        ["cluster=cpu", "model.dtype=float32", "rollout.tensor_parallel_size=2"],
        ["algorithm.kl_coefficient=0", "reference.gpus_per_rank=0"],
    ):
        run = compose_run("grpo", GrpoRun, [*PATHS, *accepted])
        assert run.rollout.tensor_parallel_size == (2 if any("parallel" in one for one in accepted) else 1)


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.importance_cap=2", "rollout.temperature=0.7", "rollout.top_k=0", "rollout.top_p=1"],
        ["rollout.max_response_tokens=2047", "rollout.max_model_tokens=2048"],
        [*BATCH_OF_4, "algorithm.updates_per_batch=2", "learner.num_ranks=2"],
        ["video.min_frames=32", "video.max_frames=32", "video.min_pixels=151200"],
        ["data.max_skipped_frac=0"],
        ["data.max_skipped_frac=1"],
        ["algorithm.kl_coefficient=0", "reference.num_ranks=0"],
        ["model.lora.rank=1", "model.lora.alpha=1", "reference.num_ranks=0"],
        ["model.lora.rank=0", "model.lora.alpha=0"],
        [*OPENAI, "judge.calls.concurrency=2", "reward_workers.num_workers=2", "judge.calls.retries=0"],
        ["algorithm.clip_low=1", "algorithm.clip_high=0"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_a_value_at_its_bound_is_taken(overrides: list[str]) -> None:
    assert isinstance(compose_run("grpo", GrpoRun, [*PATHS, *overrides]), GrpoRun)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sft.batch_size=3", "learner.num_ranks=4"], "sft.batch_size: found 3 with learner.num_ranks=4"),
        (["sft.num_steps=-1"], "sft.num_steps: found -1"),
    ],
)
def test_a_bad_value_of_sft_is_named_with_its_mend(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_run("sft", SftRun, [*PATHS, *overrides])
    assert sentence in str(error.value)
    assert compose_run("sft", SftRun, [*PATHS, "sft.batch_size=4", "learner.num_ranks=4"]).sft.batch_size == 4


@pytest.mark.parametrize(
    ("app", "overrides", "keys"),
    [
        ("grpo", [], ["model.path", "data.train_file", "data.media_dir"]),
        ("sft", ["data.media_dir=d"], ["model.path", "data.train_file"]),
        ("evaluate", [], ["model.path", "data.validation_file", "data.media_dir"]),
        ("evaluate", ["evaluation.benchmark=mlvu", "evaluation.benchmark_dir=d"], ["model.path"]),
    ],
)
def test_all_missing_values_are_told_at_once(app: str, overrides: list[str], keys: list[str]) -> None:
    run_type: Any = {"grpo": GrpoRun, "sft": SftRun, "evaluate": EvaluateRun}[app]
    with pytest.raises(ConfigError) as error:
        compose_run(app, run_type, overrides)
    names = f"{', '.join(keys[:-1])} and {keys[-1]} are" if keys[1:] else f"{keys[0]} is"
    assert str(error.value).startswith(f"configuration: {names} required")
    assert str(error.value).endswith(" ".join(f"{key}=VALUE" for key in keys))


def test_no_steps_means_one_epoch() -> None:
    sft = compose_run("sft", SftRun, [*PATHS, "experiment=video_r2_7b_sft"])
    assert sft.sft.with_steps(1000).num_steps == 1000 // 32
    assert sft.sft.with_steps(5).num_steps == 1
    grpo = compose_run("grpo", GrpoRun, [*PATHS, "algorithm.num_steps=7"])
    assert grpo.algorithm.with_steps(1000).num_steps == 7


def test_the_papers_sft_settings() -> None:
    run = compose_run("sft", SftRun, [*PATHS, "experiment=video_r2_7b_sft"])
    assert (run.model.lora.rank, run.model.lora.alpha, run.model.lora.dropout) == (64, 64, 0.05)
    assert (run.learner.learning_rate, run.learner.weight_decay, run.learner.warmup_frac) == (1e-5, 0.1, 0.03)
    assert (run.sft.batch_size, run.video.fps, run.video.max_frames) == (32, 1.0, 128)
    assert run.learner.backend == "deepspeed_zero3"


@pytest.mark.parametrize(
    ("overrides", "cap"),
    [
        (["rollout.top_k=0"], 2.0),
        (["rollout.top_k=0", "rollout.temperature=1"], 2.0),
        ([], None),
        (["rollout.top_k=0", "rollout.top_p=0.9"], None),
        (["rollout.top_k=0", "algorithm.importance_cap=null"], None),
        (["rollout.top_k=0", "algorithm.importance_cap=5"], 5.0),
        # float32 on CPUs: both sides compute the same.
        (["rollout.top_k=0", "cluster=cpu", "model.dtype=float32"], None),
        (["rollout.top_k=0", "cluster=cpu"], 2.0),
        # What was sampled is of an older policy.
        (["rollout.top_k=0", "cluster=cpu", "model.dtype=float32", "algorithm.max_staleness=1"], 2.0),
        (["algorithm.importance_cap=null", "algorithm.max_staleness=1"], None),
    ],
)
def test_importance_weights_are_on_where_the_sides_differ_and_can_be_weighed(
    overrides: list[str], cap: float | None
) -> None:
    run = compose_run("grpo", GrpoRun, [*PATHS, *overrides]).with_importance_cap()
    assert run.algorithm.cap == cap
