"""Sections of configurations: frozen dataclasses; `runs` makes each app's whole of them.

`conf/` holds every value; the dataclasses hold none, so each default stands in one place. `loading` makes them from
Hydra's tree, `checks` says what must hold between their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from rewards.types import Section


@dataclass(frozen=True)
class LoraConfig(Section):
    """Adapters on the linear layers of the language model, trained in its place (arXiv:2106.09685)."""

    rank: int
    """0: no adapters, the weights themselves train."""
    alpha: int
    """The adapter's output is scaled by alpha / rank."""
    dropout: float
    """Of the adapter's input, while training."""
    targets: tuple[str, ...]
    """Names of the language model's linear layers that get one."""
    dora: bool
    """Also learn each row's norm (DoRA, arXiv:2402.09353)."""


@dataclass(frozen=True)
class ModelConfig(Section):
    """The policy's checkpoint and how a question becomes a chat."""

    path: str
    """Folder of a Hugging Face checkpoint: weights, tokenizer and processor."""
    dtype: Literal["float32", "bfloat16"]
    freeze_vision_tower: bool
    freeze_merger: bool
    freeze_language_model: bool
    lora: LoraConfig
    system_prompt: str
    """Empty: no system turn. A row's own system turn takes its place."""
    instruction: str
    """Appended to every question, e.g. to think inside tags. Empty: the question as it is."""
    float32_head: bool
    """Logits are not rounded to `dtype`, in the learner and in vLLM: both then agree better about a bfloat16 policy."""
    text_timestamps: bool
    """Write each pair of frames' time before it as text, as Qwen3-VL was trained; Qwen2.5-VL cannot."""

    @property
    def bytes_per_value(self) -> int:
        """Of a number in `dtype`."""
        return 4 if self.dtype == "float32" else 2

    @property
    def has_frozen_vision(self) -> bool:
        """A clip's visual embeddings never change."""
        return self.freeze_vision_tower and self.freeze_merger


@dataclass(frozen=True)
class DataConfig(Section):
    """Dataset files: JSON, JSON lines or Parquet, rows in the paper's layout or another (`videor2_rl.layouts`)."""

    train_file: str | None
    validation_file: str | None
    """Held-out rows: SFT's validation loss, evaluation."""
    media_dir: str
    """Clips are named relative to it."""
    subtitles_dir: str | None
    """Subtitle files under the clips' relative paths; a clip without one there may have it beside it."""
    shuffle: bool
    max_skipped_frac: float
    """A run stops when more than this share (0-1) of the samples asked for could not be used."""
    make_demo: tuple[str, ...] | None
    """Arguments of videor2_rl.make_demo, which then fills media_dir before anything else; None: the data are there."""


@dataclass(frozen=True)
class VideoConfig(Section):
    """How frames are sampled, sized and drawn on."""

    rule: Literal["player", "video_r2_official"]
    """player: frames by their true times, drawn on at the size the model sees. video_r2_official: as the code of
    arXiv:2511.23478 makes them (`videor2_rl.video.official`)."""
    fps: float
    """Frames sampled per second of video."""
    min_frames: int
    max_frames: int
    min_pixels: int
    """Per frame, after the resize."""
    max_pixels: int
    size_multiple: int
    """Sides are multiples of this many pixels: patch size times merge size of the model (Qwen2.5-VL: 28,
    Qwen3-VL: 32)."""
    timestamps: bool
    """Draw the presentation time on each frame."""
    subtitles: bool
    """Draw the active subtitle on each frame."""
    cache_dir: str
    """Processed clips by content address, shared by all stages and runs."""
    num_workers: int
    """Video workers (Ray actors) that decode."""
    cpus_per_worker: float
    decoder: Literal["auto", "pyav", "decord"]
    """auto: decord for files whose pictures it is proven to count right, else PyAV; decord: other files are skipped as
    unreadable. All give the same frames."""
    font: str | None
    """Font file (.ttf, .otf, .ttc) for subtitles, null for DejaVu Sans; what it lacks, the system's fonts draw."""
    subtitle_encoding: str | None
    """Of subtitle files, as Python names it (gb18030, cp1251); null finds out for each file."""


@dataclass(frozen=True)
class RolloutConfig(Section):
    """vLLM engines, one per rollout worker."""

    num_workers: int
    """That sample when the run begins; `python -m videor2_rl.scale` changes it."""
    min_workers: int | None
    """The run begins with so many, and goes on with so many where others never get ready; None: num_workers."""
    max_workers: int | None
    """The most that `scale` may ask for; None: no limit but the cluster's."""
    standby: int
    """Further workers that take every update and sample nothing, until one of the others is lost."""
    cpus_per_worker: float
    gpus_per_worker: float
    tensor_parallel_size: int
    temperature: float
    top_p: float
    top_k: int
    """0 switches it off."""
    max_response_tokens: int
    max_model_tokens: int
    """Prompt and response together."""
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    """Tokens per KV block; a prompt shorter than one block is never shared between its rollouts."""
    kv_cache_gib: int
    """CPU only: KV cache of each engine in GiB."""
    gpu_memory_utilization: float
    reproducible: bool
    """A seed for each response: the same tokens from any worker at any time. On GPUs it costs vLLM its fast sampler."""
    deadline_s: float
    """A worker whose generation call takes longer is replaced and its work issued again; after three the run stops."""
    on_update: Literal["continue", "finish"]
    """Where new weights find a worker sampling (algorithm.max_staleness above 0). continue: it holds its responses for
    the time of its load and goes on with them; each says which policy sampled which of its tokens. finish: its
    responses end first, and it takes no new ones meanwhile."""
    max_prepared_mib: int
    """With algorithm.max_staleness above 0: prompts wait with their preparation while the pixels of those that set out
    and were not trained on take more than this in the object store; those of the next step never wait."""

    @property
    def max_prompt_tokens(self) -> int:
        """Longer prompts leave no room for a response."""
        return self.max_model_tokens - self.max_response_tokens

    @property
    def num_engines(self) -> int:
        """Workers that are started, those that stand by among them."""
        return self.num_workers + self.standby

    @property
    def is_full_softmax(self) -> bool:
        """Nothing is cut from what is sampled, so that an importance weight can be had."""
        return self.top_k == 0 and self.top_p == 1

    @property
    def is_tempered(self) -> bool:
        """vLLM's log-probs are of the softmax at the sampling temperature, else of that at temperature 1."""
        return self.is_full_softmax and self.temperature != 1


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """A class of PyTorch's kind, by its place; it gets the learner's learning rate, weight decay and `options`."""

    module: str
    """Where it stands: torch.optim, torchao.optim, bitsandbytes.optim."""
    name: str
    """AdamW, Adam, SGD, AdamW8bit, ..."""
    options: Mapping[str, Any]
    """Further keyword arguments, e.g. {momentum: 0.9} of SGD."""


@dataclass(frozen=True)
class LearnerConfig(Section):
    """verl training workers."""

    backend: Literal["fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"]
    """What shards the training state over the ranks; FSDP2 shards like ZeRO-3."""
    cpu_offload: bool
    """Keep what the optimiser needs in host memory; slower, for models that do not fit."""
    max_rebuilds: int
    """So often in a run, lost ranks (of the reference too) are started anew, from the last checkpoint."""
    num_ranks: int
    cpus_per_rank: float
    gpus_per_rank: float
    learning_rate: float
    vision_tower_learning_rate: float | None
    """Of the vision tower where it trains; None: the same."""
    merger_learning_rate: float | None
    """Of the merger where it trains; None: the same."""
    lr_schedule: Literal["constant", "cosine"]
    min_lr_frac: float
    """Cosine ends at this share of the learning rate."""
    warmup_steps: int
    warmup_frac: float
    """Warm-up as a share (0-1) of all steps, in place of `warmup_steps`."""
    weight_decay: float
    betas: tuple[float, float]
    """Of optimisers of Adam's kind; others do not take them."""
    optimizer: OptimizerConfig
    max_grad_norm: float
    sequence_parallel_size: int
    """Ranks that share one sequence; packed groups allow 1 alone, other values are refused."""
    max_tokens_per_micro_batch: int
    """Packed groups are put into one forward pass up to this many tokens; a larger group is split by responses."""
    gradient_checkpointing: bool
    visual_cache_mib: int
    """Where vision tower and merger are frozen, a clip's visual embeddings are computed once for all passes of a step,
    and up to this many MiB of them stay in the object store for later steps. 0: every pass runs the tower."""
    sync: Literal["full", "delta"]
    """What goes to the rollout workers of the weights that train: all, or those that changed since the last time. For
    the latter both sides keep what was sent in host memory."""
    sync_transport: Literal["collective", "object_store"]
    """collective: to all at once, by NCCL between GPUs and by gloo between CPUs; object_store: where that cannot be."""
    sync_bucket_mib: int
    """Weights travel in portions of up to this many MiB; a larger layer goes by itself."""
    sync_deadline_s: float
    """Each phase of one portion must end in time; the transfer is then repeated without the worker that is at fault."""


@dataclass(frozen=True)
class ReferenceConfig(Section):
    """The frozen reference policy; started only when the KL coefficient is above 0."""

    num_ranks: int
    cpus_per_rank: float
    gpus_per_rank: float
    cpu_offload: bool
    """Keep its weights in host memory and copy them to the GPU for every pass; slower, for models that do not fit."""


@dataclass(frozen=True)
class RewardWorkersConfig(Section):
    """Ray actors that run `rewards/` with the sentence encoder."""

    num_workers: int
    cpus_per_worker: float


@dataclass(frozen=True)
class SftConfig(Section):
    """Supervised fine-tuning."""

    num_steps: int
    """0: one epoch."""
    batch_size: int
    """Samples per optimiser step over all ranks."""
    validate_every: int
    """Steps between two validation losses; 0: only at the end."""
    validation_samples: int
    """At most this many held-out samples."""

    def with_steps(self, num_samples: int) -> SftConfig:
        """The same with its number of steps, if that is 0: an epoch, without a last step of fewer samples."""
        return replace(self, num_steps=self.num_steps or max(1, num_samples // self.batch_size))


BenchmarkName: TypeAlias = Literal[
    "mvbench",
    "videomme",
    "tempcompass",
    "mlvu",
    "longvideobench",
    "videomathqa",
    "video_mmmu",
    "mmvu",
    "vsibench",
    "minerva",
    "scivideobench",
    "synthetic",
]


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """What is evaluated and how often."""

    checkpoints: tuple[str, ...]
    """NAME:FOLDER of Hugging Face checkpoints, evaluated one after the other by the same rollout workers."""
    num_samples: int
    """At most this many held-out samples."""
    modes: tuple[Literal["sampled", "greedy"], ...]
    """sampled: temperature 1 with the full softmax; greedy: the most likely token."""
    bootstrap_resamples: int
    benchmark: BenchmarkName | None
    """A published benchmark in `benchmark_dir`, or the synthetic clips; None: the rows of `data.validation_file`."""
    benchmark_dir: str | None
    probes: tuple[Literal["attention", "interventions"], ...]
    """Measured on each checkpoint after its responses, in this process, one sample at a time."""
    probe_samples: int
    """At most this many samples are probed."""

    @property
    def folders(self) -> dict[str, str]:
        """`checkpoints` by name, in their order."""
        return dict(entry.split(":", 1) for entry in self.checkpoints)


@dataclass(frozen=True)
class PeriodicEvaluationConfig(Section):
    """Evaluations on held-out rows while GRPO trains."""

    every_steps: int
    """Before the first step, after every so many, and after the last; 0: none."""
    num_samples: int
    """At most this many rows of `data.validation_file`."""
    mode: Literal["sampled", "greedy"]
    bootstrap_resamples: int


@dataclass(frozen=True)
class ClusterConfig(Section):
    """The Ray cluster: an existing one, or one started for this run."""

    address: str | None
    """None: RAY_ADDRESS where it is set (`ray job submit` sets it), else a new local one; "auto" or host:port."""
    device: Literal["cpu", "cuda"]
    gpus_per_process: float
    """What `rollout.gpus_per_worker`, `learner.gpus_per_rank` and `reference.gpus_per_rank` default to."""
    num_cpus: int | None
    """Logical CPUs of a new local cluster, in which actors are sized; None: the machine's."""
    object_store_mib: int
    temp_dir: str | None
    """Ray's own folder for a local cluster; None: a new one under the system's."""
    autoscaler: bool
    """The cluster adds nodes when they are asked for: wait for what it lacks, rather than refuse."""
    wait_s: float
    """Seconds to wait for nodes, or for what other jobs hold."""


TrackerName: TypeAlias = Literal[
    "tensorboard", "wandb", "mlflow", "swanlab", "vemlp_wandb", "clearml", "trackio", "rl_insight"
]
"""verl's, without those that only repeat metrics.jsonl and the console."""


@dataclass(frozen=True)
class LoggingConfig(Section):
    """Where metrics go besides metrics.jsonl and the console."""

    trackers: tuple[TrackerName, ...]
    project: str
    name: str
    rollouts: bool
    """Write rollouts/step_*.jsonl."""
    tracked_groups: int
    """Of GRPO: so many of a step's groups go to W&B and TensorBoard as a table; 0: none."""
    max_clip_mib: float
    """W&B gets the clips of these groups that are at most so large; 0: none."""


@dataclass(frozen=True)
class CheckpointConfig(Section):
    """Step-level checkpoints."""

    every_steps: int
    """0: none."""
    keep: int
    """Newest complete checkpoints kept."""
    resume: bool
    """Go on from the newest complete checkpoint of the run's folder, if there is one."""
    overwrite: bool
    """Where the folder holds a run that cannot be gone on with (finished, or resume is off), remove what it left."""
    export: bool
    """Write hf/ at the end."""
    max_hours: float | None
    """Stop with a checkpoint before this many hours of the process are over; None: when the steps are done."""
    stop_within_s: float
    """SIGTERM and Ctrl-C stop with a checkpoint of the last whole step; after so many seconds without one."""
