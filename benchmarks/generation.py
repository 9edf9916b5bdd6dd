"""Tokens a second through our rollout workers beside a vLLM engine by itself.

    python -m benchmarks.generation [--groups 16] [--repeats 7] [--override "rollout.reproducible=false" ...]

A checkpoint of the demo's size that writes responses of one length (`grpo_workload.py`), sampled in groups of 8 under
the demo's settings. Ours is the pool of a run: prompts out of Ray's object store, groups back in the driver. vLLM alone
is an engine with the same arguments that gets one request for each prompt (n=8, prompts processed beforehand), without
seeds and without banned tokens, once with the sampled tokens' log-probs and once without; its time is taken beside it.
Each --override is a further pool of ours. Every repeat has prompts that no engine has seen, the same for all; all take
turns, in an order that turns about. The first one is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.grpo_workload import successors, teach_successors

if TYPE_CHECKING:
    from videor2_rl.config.runs import GrpoRun
    from videor2_rl.types import Prompt, PromptHandle, SamplingSpec
    from workers.rollout.engine import EngineSpec

GROUP_SIZE = 8
NUM_FRAMES, SIDE = 16, 28
OURS, ALONE, ALONE_WITHOUT = "ours", "vLLM alone", "vLLM alone, no log-probs"


@dataclass(frozen=True)
class Speed:
    """Of one turn."""

    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class BareEngine:
    """A vLLM engine and nothing of ours but its arguments (Ray actor)."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._calls = 0

    async def start(self) -> None:
        """Build the engine."""
        from transformers import AutoProcessor
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from videor2_rl.model.family import read_family
        from workers.rollout.engine import engine_arguments

        arguments = {name: value for name, value in engine_arguments(self._spec).items() if "extension" not in name}
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._family = read_family(self._spec.model_path)
        self._video_processor = AutoProcessor.from_pretrained(self._spec.model_path).video_processor

    async def generate(self, sampling: SamplingSpec, has_log_probs: bool, *prompts: Prompt) -> Speed:
        """All responses to the prompts, which become vLLM's input before the clock starts."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=sampling.group_size,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            logprobs=0 if has_log_probs else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        inputs = [self._input(prompt) for prompt in prompts]
        self._calls += 1
        started = time.perf_counter()
        counts = await asyncio.gather(
            *(self._count(one, params, f"{self._calls}-{index}") for index, one in enumerate(inputs))
        )
        return Speed(sum(counts), time.perf_counter() - started)

    async def _count(self, one: Any, params: Any, request_id: str) -> int:
        (output,) = [output async for output in self._engine.generate(one, params, request_id)]
        return sum(len(response.token_ids) for response in output.outputs)

    def _input(self, prompt: Prompt) -> Any:
        import torch

        from videor2_rl.model.prompt import normalize_patches
        from workers.rollout.engine import engine_input

        processor = self._video_processor
        video = normalize_patches(torch.tensor(prompt.patches), mean=processor.image_mean, std=processor.image_std)
        whole: Any = engine_input(prompt, video=video, is_encoded=False, family=self._family)
        # As vLLM's own processor does: items that are in its cache already go by name.
        items = {"video": list(whole["mm_kwargs"]["video"])}
        self._engine.input_processor.inject_into_mm_cache(whole["mm_hashes"], items)
        return {**whole, "mm_kwargs": items}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7, help="that are counted")
    parser.add_argument("--override", action="append", default=[], help="a further pool of ours: its keys, in quotes")
    args = parser.parse_args()
    # A short path: Ray's sockets live below it.
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        make_checkpoint(Path(folder) / "model")
        print(report(measure(Path(folder), args.override, groups=args.groups, repeats=args.repeats)))


def make_checkpoint(folder: Path) -> None:
    """The demo's, which writes responses of the demo's greatest length."""
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from videor2_rl.demo.model import make_model

    disable_progress_bar()
    set_verbosity_error()
    make_model(folder, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    teach_successors(folder, successors(tokenizer, length=64), end_token=tokenizer.eos_token_id)


def measure(folder: Path, overrides: Sequence[str], *, groups: int, repeats: int) -> dict[str, list[Speed]]:
    """By who generated, a speed for each repeat."""
    import ray

    from videor2_rl.training.stream import sampling_of
    from workers.cluster import connected
    from workers.learner.verl_config import learner_env
    from workers.rollout.engine import engine_spec, rollout_env
    from workers.rollout.pool import RolloutPool

    # Ray's processes would give way to all others on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    runs = {" ".join([OURS, *extra.split()]): configuration(folder, extra.split()) for extra in ["", *overrides]}
    plain = runs[OURS]
    sampling = sampling_of(plain)
    with ExitStack() as stack:
        stack.enter_context(connected(plain.cluster, worker_env=learner_env("cpu"), parts=()))
        spec = engine_spec(plain.rollout, plain.model, device="cpu")
        environment = {"env_vars": rollout_env(plain.rollout, "cpu")}
        bare: Any = ray.remote(BareEngine).options(runtime_env=environment).remote(spec)
        pools = {name: RolloutPool(engine_spec(run.rollout, run.model, device="cpu")) for name, run in runs.items()}
        for pool in pools.values():
            stack.callback(pool.shutdown)
            pool.wait_ready()
        ray.get(bare.start.remote())

        def ours(pool: RolloutPool, prompts: Sequence[PromptHandle]) -> Speed:
            started = time.perf_counter()
            found = pool.generate(prompts, group_ids=range(len(prompts)), sampling=sampling, seed=0)
            seconds = time.perf_counter() - started
            return Speed(sum(len(rollout.token_ids) for group in found for rollout in group.rollouts), seconds)

        def alone(has_log_probs: bool, prompts: Sequence[PromptHandle]) -> Speed:
            refs = [prompt.ref for prompt in prompts]
            speed: Speed = ray.get(bare.generate.remote(sampling, has_log_probs, *refs))
            return speed

        turns: dict[str, Callable[[Sequence[PromptHandle]], Speed]] = {
            **{name: lambda prompts, pool=pool: ours(pool, prompts) for name, pool in pools.items()},  # type: ignore[misc]
            ALONE: lambda prompts: alone(True, prompts),
            ALONE_WITHOUT: lambda prompts: alone(False, prompts),
        }
        # Clips of their own for the two that share an engine.
        batches = [[make_prompts(plain, groups, seed=(repeat, one)) for one in (0, 1)] for repeat in range(repeats + 1)]
        return take_turns(turns, batches)


def take_turns(
    turns: Mapping[str, Callable[[Sequence[Any]], Speed]], batches: Sequence[Sequence[Sequence[Any]]]
) -> dict[str, list[Speed]]:
    """Everyone's speed on each repeat's batch but the first; who was last in one begins the next.

    Args:
        batches: of each repeat, the prompts of all, and those of `ALONE_WITHOUT`.
    """
    found: dict[str, list[Speed]] = {name: [] for name in turns}
    names = list(turns)
    for repeat, (prompts, others) in enumerate(batches):
        for name in names:
            speed = turns[name](others if name == ALONE_WITHOUT else prompts)
            if repeat:
                found[name].append(speed)
        names = [names[-1], *names[:-1]]
    return found


def configuration(folder: Path, overrides: Sequence[str]) -> GrpoRun:
    """The demo's run of GRPO, with its engine."""
    from videor2_rl.app import compose_run
    from videor2_rl.config.runs import GrpoRun

    common = [f"model.path={folder / 'model'}", f"cluster.temp_dir={folder}", f"algorithm.group_size={GROUP_SIZE}"]
    return compose_run("grpo", GrpoRun, ["experiment=demo", *common, *overrides])


def make_prompts(run: GrpoRun, count: int, *, seed: tuple[int, int]) -> list[PromptHandle]:
    """Prompts over random frames, in Ray's object store."""
    import ray

    from videor2_rl.model.prompt import PromptBuilder
    from videor2_rl.types import Clip, PromptHandle, VideoSample

    rng = np.random.default_rng(seed)
    builder = PromptBuilder(run.model)
    handles = []
    for index in range(count):
        frames = rng.integers(0, 256, (NUM_FRAMES, 3, SIDE, SIDE), dtype=np.uint8)
        clip = Clip(f"clip-{seed}-{index}", frames, np.arange(NUM_FRAMES, dtype=np.float64), 1.0)
        question = "Which colour appears first? A. red B. green C. blue D. yellow"
        prompt = builder.build(VideoSample(f"s{index}", "none", question, ""), clip)
        handles.append(PromptHandle(prompt.sample_id, prompt.clip_key, len(prompt.token_ids), ray.put(prompt)))
    return handles


def report(found: Mapping[str, Sequence[Speed]]) -> str:
    """A line for each: median tokens a second, and their share of vLLM's alone, the median over the repeats."""
    base = found[ALONE]
    lines = [f"{base[0].tokens} tokens a turn; medians of {len(base)} turns", "| | tokens a second | of vLLM alone |"]
    lines.append("|---|---|---|")
    for name, speeds in found.items():
        share = statistics.median(
            speed.tokens_per_s / alone.tokens_per_s for speed, alone in zip(speeds, base, strict=True)
        )
        lines.append(
            f"| {name} | {statistics.median(speed.tokens_per_s for speed in speeds):,.0f} | {100 * share:.0f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
