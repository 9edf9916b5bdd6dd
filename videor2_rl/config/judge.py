"""The judge's section of the configuration; values stand in `conf/judge/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator

from rewards.types import Section


@dataclass(frozen=True)
class CallsConfig(Section):
    """How the judge's server is called. Temperature is 0."""

    concurrency: int
    """Calls under way at a time, hedges included, over all reward workers of a run."""
    deadline_s: float
    """Seconds that one request may take."""
    retries: int
    """Further requests after one that failed."""
    hedge_after_s: float | None
    """Send a second, equal request when the first has taken this long and the bound allows; the first reply counts.
    None: never."""
    structured: bool
    """Have the server hold replies to a JSON schema; given up for the run when the server fails or refuses it."""
    max_tokens: int
    """Of a reply."""
    seed: int
    extra_body: dict[str, Any] | None
    """Further fields of every request, e.g. chat_template_kwargs: {enable_thinking: false} for Qwen3 under vLLM. None
    in place of a value leaves the field out: temperature, seed and max_tokens too."""
    cache_dir: str | None
    """Replies by prompt, prompt version, model and sampling, shared by processes and runs. None: no cache."""
    breaker_failures: int
    """So many failed requests in a row, over all calls of a worker, and scoring pauses until the server is back."""
    probe_every_s: float
    """Seconds between two looks at whether it is."""
    patience_s: float
    """The run stops when the server has been away for this long."""
    max_failed_frac: float
    """The run stops when more than this share (0-1) of the replies needed in a step cannot be had or read."""


@dataclass(frozen=True)
class RulesJudge(Section):
    """No judge."""

    kind: Literal["rules"]
    reader: Literal["rules"]
    """What the reward's readers default to, by interpolation in conf/reward/."""


@dataclass(frozen=True)
class OpenAIJudge(Section):
    """Any OpenAI-compatible server, by its address."""

    kind: Literal["openai"]
    reader: Literal["rules", "judge"]
    """What the reward's readers default to, by interpolation in conf/reward/."""
    base_url: str
    """With the path, e.g. http://host:8000/v1."""
    model: str
    """The name under which the server knows it."""
    api_key_env: str | None
    """Name of the environment variable that holds the key; None: the server wants none."""
    calls: CallsConfig


@dataclass(frozen=True)
class ManagedJudge(Section):
    """A vLLM server that the run starts on its own resources and ends with itself."""

    kind: Literal["managed"]
    reader: Literal["rules", "judge"]
    """What the reward's readers default to, by interpolation in conf/reward/."""
    model_path: str
    """Folder of a Hugging Face checkpoint with a chat template."""
    dtype: Literal["auto", "float32", "bfloat16"]
    num_cpus: float
    num_gpus: float
    tensor_parallel_size: int
    max_model_tokens: int
    """Prompt and reply together."""
    gpu_memory_utilization: float
    kv_cache_gib: int
    """CPU only: KV cache in GiB."""
    start_deadline_s: float
    """Seconds from the start of the server until it must answer."""
    max_restarts: int
    """A server that ended is started again so often."""
    calls: CallsConfig


JudgeConfig: TypeAlias = Annotated[RulesJudge | OpenAIJudge | ManagedJudge, Discriminator("kind")]
