"""What only a GPU can show, in one command: half an hour on one GPU or on two; on CPUs the same at toy size.

    python -m benchmarks.gpu_day [--gpus 0|1|2] [--model FOLDER] [--output FILE.json]

kernels    what the attention of packed groups runs on, and its time beside separate sequences
engine     new weights in a running engine, and the old ones again: to the last bit what it said before
learner    its log-probs beside the engine's, before and after new weights; peak memory beside the doctor's
transfer   (two GPUs) weights over NCCL: bytes a second, the numbers after it, and a worker killed within an update

Ends with 1 where a check fails. Without --model a tiny model is made; figures of memory and speed want the real one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.training.gap import check_gap, measure_gap

if TYPE_CHECKING:
    from videor2_rl.types import Group, PromptHandle, TrainGroup

log = logging.getLogger("gpu_day")

GROUP_SIZE = 8
SAMPLE_SEED = 1


@dataclass(frozen=True)
class Size:
    """Of what is run."""

    prompts: int
    frames: int
    side: int
    """Pixels of a frame, both ways."""
    response_tokens: int
    repeats: int


TOY = Size(prompts=2, frames=4, side=56, response_tokens=16, repeats=3)
REAL = Size(prompts=8, frames=32, side=392, response_tokens=512, repeats=10)


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    part: str
    what: str
    found: str
    is_ok: bool | None
    """None: a figure to write down, nothing to fail."""


class Results:
    """Checks as they are made, each printed at once."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def add(self, part: str, what: str, found: Any, *, is_ok: bool | None = None) -> None:
        check = Check(part, what, str(found), is_ok)
        self.checks.append(check)
        mark = {None: "    ", True: "ok  ", False: "FAIL"}[is_ok]
        print(f"{mark} {part:9} {what}: {check.found}", flush=True)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that breaks is a failed check, and the next one is made all the same."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            log.exception("%s", name)
            self.add(name, "ran to its end", " ".join(str(error).split())[:300], is_ok=False)
        else:
            self.add(name, "seconds", f"{time.perf_counter() - started:.0f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts; 1 where a check failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, choices=(0, 1, 2), help="default: as many of two as there are; 0: on CPUs")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: a tiny model is made")
    parser.add_argument("--output", type=Path, help="also write the checks there, as JSON")
    args = parser.parse_args(argv)
    import torch

    gpus = min(2, torch.cuda.device_count()) if args.gpus is None else args.gpus
    if gpus > torch.cuda.device_count():
        parser.error(f"--gpus: found {gpus}, and torch sees {torch.cuda.device_count()}")
    results = Results()
    # A short path: Ray's sockets live below it.
    with tempfile.TemporaryDirectory(prefix="gpu-day-", ignore_cleanup_errors=True) as folder:
        run_all(results, Path(folder), args.model, gpus=gpus)
    if args.output is not None:
        args.output.write_text(json.dumps([asdict(check) for check in results.checks], indent=1), encoding="utf-8")
    failed = [check for check in results.checks if check.is_ok is False]
    print(f"{len(failed)} of {sum(check.is_ok is not None for check in results.checks)} checks failed")
    return min(1, len(failed))


def run_all(results: Results, folder: Path, model: Path | None, *, gpus: int) -> None:
    """All parts that `gpus` allow; on CPUs (0) those of two."""
    device = "cuda" if gpus else "cpu"
    size = REAL if gpus and model is not None else TOY
    if model is None:
        from videor2_rl.demo.model import make_model

        model = folder / "model"
        make_model(model, seed=1)
    changed = perturbed(model, folder / "changed")
    run = configuration(model, device=device, folder=folder, size=size)
    with results.part("kernels"):
        kernels(results, device=device, size=size)
    from workers.cluster import connected
    from workers.learner.verl_config import learner_env

    with connected(run.cluster, worker_env=learner_env(run.cluster.device), parts=()):
        sampled: list[Sampled] = []
        with results.part("engine"):
            sampled += engine_alone(results, run, changed, size=size)
        with results.part("learner"):
            learner_alone(results, run, sampled)
        if gpus != 1:
            with results.part("transfer"):
                together(results, run, changed, size=size)


def configuration(model: Path, *, device: str, folder: Path, size: Size) -> GrpoRun:
    """The demo's GRPO on CPUs, in float32; a plain one on GPUs, in bfloat16."""
    common = [
        f"model.path={model}",
        f"output_dir={folder / 'run'}",
        f"cluster.temp_dir={folder}",
        f"rollout.max_response_tokens={size.response_tokens}",
        f"algorithm.group_size={GROUP_SIZE}",
        "algorithm.kl_coefficient=0",
        "rollout.reproducible=true",
        "rollout.num_workers=1",
        "learner.num_ranks=1",
    ]
    if device == "cpu":
        return compose_run("grpo", GrpoRun, ["experiment=smoke", *common, "algorithm.group_size=2"])
    frozen = ["model=qwen2_5_vl", "data.train_file=none.json", "data.media_dir=none", "learner.cpu_offload=false"]
    return compose_run("grpo", GrpoRun, [*frozen, *common])


def perturbed(model: Path, target: Path) -> Path:
    """A copy of a checkpoint whose language model's matrices are each changed by a hundredth, at random."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, target)
    generator = torch.Generator().manual_seed(0)
    for file in target.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.dim() == 2 and "visual" not in name:
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
                tensors[name] = (tensor.float() + 0.01 * tensor.float().std() * noise).to(tensor.dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    return target


# --- one device ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """What an engine said under the weights of a folder."""

    folder: str
    prompts: Sequence[PromptHandle]
    groups: Sequence[Group]


def handles(run: GrpoRun, size: Size) -> list[PromptHandle]:
    """Prompts over random frames, in Ray's object store."""
    import ray

    from videor2_rl.model.family import read_family
    from videor2_rl.model.prompt import PromptBuilder
    from videor2_rl.types import Clip, PromptHandle, VideoSample

    rng = np.random.default_rng(0)
    builder = PromptBuilder(run.model)
    side = size.side // read_family(run.model.path).size_multiple * read_family(run.model.path).size_multiple
    found = []
    for index in range(size.prompts):
        frames = rng.integers(0, 256, (size.frames, 3, side, side), dtype=np.uint8)
        clip = Clip(f"clip-{index}", frames, np.arange(size.frames) / 2, 2.0)
        prompt = builder.build(VideoSample(f"s{index}", "none", "What happens first?", ""), clip)
        found.append(PromptHandle(prompt.sample_id, prompt.clip_key, len(prompt.token_ids), ray.put(prompt)))
    return found


def sample(pool: Any, run: GrpoRun, prompts: Sequence[PromptHandle]) -> list[Group]:
    """Groups by one seed: equal weights give equal groups."""
    from videor2_rl.training.stream import sampling_of

    groups: list[Group] = pool.generate(
        prompts, group_ids=range(len(prompts)), sampling=sampling_of(run), seed=SAMPLE_SEED
    )
    return groups


def bits(groups: Sequence[Group]) -> list[bytes]:
    """Tokens and log-probs to the last bit."""
    return [part.tobytes() for group in groups for r in group.rollouts for part in (r.token_ids, r.log_probs)]


def engine_alone(results: Results, run: GrpoRun, changed: Path, *, size: Size) -> list[Sampled]:
    """New weights in a running engine, and the old ones again; what it said under each, for the learner."""
    from workers.rollout.engine import engine_spec
    from workers.rollout.pool import RolloutPool

    pool = RolloutPool(engine_spec(run.rollout, run.model, device=run.cluster.device))
    try:
        pool.wait_ready()
        prompts = handles(run, size)
        first = sample(pool, run, prompts)
        started = time.perf_counter()
        again = sample(pool, run, prompts)
        seconds = time.perf_counter() - started
        tokens = sum(len(rollout.token_ids) for group in again for rollout in group.rollouts)
        results.add("engine", "tokens a second", f"{tokens / seconds:.0f} ({tokens} tokens)")
        results.add(
            "engine", "the same seed says the same", bits(first) == bits(again), is_ok=bits(first) == bits(again)
        )
        started = time.perf_counter()
        pool.load_checkpoint(str(changed), 1)
        results.add("engine", "seconds for a folder's weights", f"{time.perf_counter() - started:.2f}")
        new = sample(pool, run, prompts)
        results.add(
            "engine", "new weights say something else", bits(new) != bits(first), is_ok=bits(new) != bits(first)
        )
        pool.load_checkpoint(run.model.path, 2)
        back = bits(sample(pool, run, prompts)) == bits(first)
        results.add("engine", "the old weights again say what they said", back, is_ok=back)
    finally:
        pool.shutdown()
    return [Sampled(run.model.path, prompts, first), Sampled(str(changed), prompts, new)]


def learner_alone(results: Results, run: GrpoRun, sampled: Sequence[Sampled]) -> None:
    """The learner's log-probs of what an engine said, and one update."""
    for one in sampled:
        name = "its first" if one.folder == run.model.path else "new"
        with learner_of(replace(run, model=replace(run.model, path=one.folder))) as learner:
            prompts = learner.encoder.encode(one.prompts)
            train = train_groups(one.groups, prompts)
            found = learner.log_probs(train, temperature=run.rollout.temperature)
            gap = measure_gap(one.groups, found, is_tempered=run.rollout.is_tempered)
            assert gap is not None
            figures = f"mean {gap.mean:.1e}, 99.9 % {gap.tail:.1e}, largest {gap.largest:.1e} nats"
            results.add("learner", f"gap to the engine, {name} weights", figures, is_ok=raises_nothing(gap, run))
            if one is not sampled[0]:
                continue
            metrics = learner.update(train, algorithm=run.algorithm, temperature=run.rollout.temperature)
            is_finite = bool(np.isfinite(metrics["actor/grad_norm"])) and metrics["actor/grad_norm"] > 0
            results.add("learner", "gradient norm", f"{metrics['actor/grad_norm']:.3g}", is_ok=is_finite)
            memory(results, run, learner.memory(), train)


def raises_nothing(gap: Any, run: GrpoRun) -> bool:
    """Whether a run would go on with this gap."""
    from videor2_rl.training.gap import LogProbGapError

    try:
        check_gap(gap, run.algorithm)
    except LogProbGapError:
        return False
    return True


@contextmanager
def learner_of(run: GrpoRun) -> Iterator[Any]:
    """A learner of one rank."""
    from workers.learner.learner import Learner

    learner = Learner(run.learner, run.model, total_steps=10, seed=0)
    try:
        learner.wait_ready()
        yield learner
    finally:
        learner.shutdown()


def train_groups(groups: Sequence[Group], prompts: Sequence[PromptHandle]) -> list[TrainGroup]:
    """With advantages of either sign."""
    from videor2_rl.types import TrainGroup

    return [
        TrainGroup(
            group_id=group.group_id,
            prompt=prompt,
            response_ids=tuple(rollout.token_ids for rollout in group.rollouts),
            advantages=np.resize(np.array([1.0, -1.0], dtype=np.float32), len(group.rollouts)),
            rollout_log_probs=tuple(rollout.log_probs for rollout in group.rollouts),
        )
        for group, prompt in zip(groups, prompts, strict=True)
    ]


def memory(results: Results, run: GrpoRun, taken: dict[str, float], groups: Sequence[TrainGroup]) -> None:
    """A rank's peak beside the doctor's; on CPUs the whole process's, with its libraries."""
    from videor2_rl.doctor.sizing import learner_rank_bytes, model_shape

    responses = sum(len(ids) for group in groups for ids in group.response_ids)
    tokens = min(run.learner.max_tokens_per_micro_batch, sum(group.num_tokens for group in groups))
    parts = learner_rank_bytes(model_shape(run.model), run.model, run.learner, tokens=tokens, response_tokens=responses)
    predicted = parts.total / 2**20
    kind = "gpu" if "gpu" in taken else "rss"
    found = f"{taken[kind]:.0f} MiB ({kind}), the doctor says {predicted:.0f} ({parts.text()} GiB)"
    # Of a tiny model everything is libraries and workspace.
    is_ok = 0.9 < taken[kind] / predicted < 1.1 if kind == "gpu" and predicted > 2**13 else None
    results.add("learner", "peak memory", found, is_ok=is_ok)


# --- kernels ------------------------------------------------------------------------------------------------------


def kernels(results: Results, *, device: str, size: Size) -> None:
    """One attention layer of packed groups beside one sequence for each response, forward and backward."""
    import torch

    from videor2_rl.model.packed_attention import PackedLayout, Segment, packed_group_attention

    on_gpu = device == "cuda"
    heads, key_heads, width = (28, 4, 128) if on_gpu else (4, 2, 32)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    prompt, response = (3072, 512) if on_gpu else (96, 16)
    segment = Segment(0, prompt, (response,) * GROUP_SIZE)
    layout = PackedLayout.of([segment], device)
    generator = torch.Generator().manual_seed(0)

    def states(count: int) -> Any:
        values = torch.randn((1, count, segment.stop, width), generator=generator)
        return values.to(device, dtype).requires_grad_()

    query, key, value = states(heads), states(key_heads), states(key_heads)
    scale = width**-0.5

    def packed() -> Any:
        return packed_group_attention(
            torch.nn.Identity(), query, key, value, None, scaling=scale, packed_layout=layout
        )[0][0]

    def separate() -> Any:
        rows = [
            torch.cat([torch.arange(prompt), segment.response_start + g * response + torch.arange(response)])
            for g in range(GROUP_SIZE)
        ]
        index = torch.stack(rows).to(device)
        one, of_key, of_value = (part[0][:, index].transpose(0, 1) for part in (query, key, value))
        output = torch.nn.functional.scaled_dot_product_attention(
            one, of_key, of_value, is_causal=True, scale=scale, enable_gqa=True
        )
        return output[:, :, prompt:].transpose(1, 2)

    by_response = packed()[prompt:].view(GROUP_SIZE, response, heads, width)
    difference = float((by_response - separate()).detach().abs().max())
    limit = 2e-2 if on_gpu else 1e-5
    results.add("kernels", "largest difference to separate sequences", f"{difference:.1e}", is_ok=difference < limit)
    times = [(seconds(packed, on_gpu=on_gpu), seconds(separate, on_gpu=on_gpu)) for _ in range(size.repeats)]
    ratio = statistics.median(other / one for one, other in times)
    results.add("kernels", "times faster than separate sequences, forward and backward", f"{ratio:.2f}")
    if on_gpu:
        used = kernels_of(packed)
        results.add("kernels", "run", ", ".join(used), is_ok=any("flash" in name.lower() for name in used))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        packed().sum().backward()
        mib = (torch.cuda.max_memory_allocated() - before) / 2**20
        results.add("kernels", "MiB beside its input, at most", f"{mib:.0f}")


def seconds(compute: Callable[[], Any], *, on_gpu: bool) -> float:
    """Of a forward and a backward pass."""
    import torch

    started = time.perf_counter()
    compute().sum().backward()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def kernels_of(compute: Callable[[], Any]) -> list[str]:
    """Names of the five GPU kernels that take longest."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        compute().sum().backward()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    return [event.key.split("<")[0].split("(")[0][-60:] for event in events[:5]]


# --- two devices --------------------------------------------------------------------------------------------------


def together(results: Results, run: GrpoRun, changed: Path, *, size: Size) -> None:
    """A learner and an engine on a device each: weights by the collective, by the store, and past a lost worker."""
    from workers.rollout.engine import engine_spec
    from workers.rollout.pool import RolloutPool

    pool = RolloutPool(engine_spec(run.rollout, run.model, device=run.cluster.device))
    try:
        with learner_of(replace(run, model=replace(run.model, path=str(changed)))) as learner:
            pool.wait_ready()
            prompts = learner.encoder.encode(handles(run, size))
            rates = []
            for version in range(1, size.repeats + 1):
                pool.update_weights(learner.weights(version))
                sync = pool.metrics()
                assert sync["rollout/sync_failures"] == 0, "the collective failed and the object store took over"
                rates.append(sync["perf/sync_mib"] / sync["timing_s/sync_move"])
            phases = ", ".join(f"{name[14:]} {value:.2f}" for name, value in sync.items() if name.startswith("timing"))
            results.add("transfer", "seconds of the last update", f"{phases} s for {sync['perf/sync_mib']:.0f} MiB")
            results.add("transfer", "MiB a second sent and loaded, median", f"{statistics.median(rates):.0f}")
            groups = sample(pool, run, prompts)
            found = learner.log_probs(train_groups(groups, prompts), temperature=run.rollout.temperature)
            gap = measure_gap(groups, found, is_tempered=run.rollout.is_tempered)
            assert gap is not None
            figures = f"mean {gap.mean:.1e}, 99.9 % {gap.tail:.1e}, largest {gap.largest:.1e} nats"
            results.add("transfer", "gap after it", figures, is_ok=raises_nothing(gap, run))
            stored = learner.weights(size.repeats + 1)
            stored.is_collective = False
            pool.update_weights(stored)
            same = bits(sample(pool, run, prompts)) == bits(groups)
            results.add("transfer", "the object store brings the same bits", same, is_ok=same)
            lose_a_worker(pool)
            started = time.perf_counter()
            pool.update_weights(learner.weights(size.repeats + 2))
            same = bits(sample(pool, run, prompts)) == bits(groups)
            what = f"{same}, {time.perf_counter() - started:.0f} s, {pool.replacements} replaced"
            results.add("transfer", "past a lost worker too", what, is_ok=same and pool.replacements == 1)
    finally:
        pool.shutdown()


def lose_a_worker(pool: Any) -> None:
    """End the engine process of the first worker."""
    import psutil
    import ray

    pid = ray.get(pool.actors[0].__ray_call__.remote(lambda self: os.getpid()))
    for process in psutil.Process(pid).children(recursive=True):
        if "EngineCore" in process.name():
            process.kill()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
