"""What a run will need, before anything is booked.

    python -m videor2_rl.doctor grpo --gpu-gib 80 --gpus 8 experiment=grpo_7b_1node model.path=... data.train_file=...

Reads the configuration, the checkpoint's config and the samples' lengths: no weight is loaded, no engine started, and
of each clip one frame is decoded. Exits with 1 when something does not fit, and names the first thing that does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import ManagedJudge
from videor2_rl.config.sections import GrpoRun, SftRun

if TYPE_CHECKING:
    from videor2_rl.sizing import ModelShape, Need, SampleSize
    from videor2_rl.types import VideoSample


@dataclass(frozen=True)
class Machine:
    """What the user says there is; None: not said, so nothing is held against it."""

    gpus: int | None
    gpu_gib: float | None
    cpus: int | None
    gpu_flops: float | None
    """FLOP/s that one GPU really reaches."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments, overrides = _parser().parse_known_args(argv)
    machine = Machine(arguments.gpus, arguments.gpu_gib, arguments.cpus, arguments.gpu_flops)
    try:
        report = examine(arguments.app, overrides, machine, num_samples=arguments.samples)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    print(report.text())
    return 1 if report.misfits else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="doctor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("app", choices=("grpo", "sft"), help="whose configuration the KEY=VALUE overrides are")
    parser.add_argument("--gpus", type=int, help="GPUs there are")
    parser.add_argument("--gpu-gib", type=float, help="memory of one GPU (or, on CPUs, for each process) in GiB")
    parser.add_argument("--cpus", type=int, help="CPU cores there are")
    parser.add_argument("--gpu-flops", type=float, help="FLOP/s that one GPU really reaches, e.g. 2e14")
    parser.add_argument("--samples", type=int, default=256, help="samples looked at (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


@dataclass(frozen=True)
class Report:
    """Lengths, needs, and what cannot be held against a limit."""

    lengths: dict[str, float]
    needs: list[Need]
    skipped: list[str]

    @property
    def misfits(self) -> list[Need]:
        return [need for need in self.needs if not need.fits]

    def as_json(self) -> dict[str, Any]:
        rows = {
            need.name: {"needed": need.needed, "available": need.available, "unit": need.unit} for need in self.needs
        }
        return {"lengths": self.lengths, "needs": rows, "misfits": [need.name for need in self.misfits]}

    def text(self) -> str:
        lines = [f"{name:<42}{value:>14,.0f}" for name, value in self.lengths.items()]
        lines += [f"skipped: {reason}" for reason in self.skipped[:5]]
        lines.append("")
        for need in self.needs:
            there = "" if need.available is None else f" of {need.available:,.4g}"
            mark = " " if need.fits else "!"
            lines.append(f"{mark} {need.name:<40}{need.needed:>14,.4g}{there} {need.unit:<8} {need.explanation}")
        first = next(iter(self.misfits), None)
        lines.append("")
        lines.append("everything fits" if first is None else f"does not fit first: {first.name}: {first.explanation}")
        return "\n".join(lines)


def examine(app: str, overrides: Sequence[str], machine: Machine, *, num_samples: int) -> Report:
    """The report of a configuration.

    Raises:
        ConfigError: the configuration, the dataset or the checkpoint cannot be read.
    """
    from videor2_rl.app import compose_run, require_folder
    from videor2_rl.dataset import load_samples
    from videor2_rl.model_family import check_frames
    from videor2_rl.sizing import model_shape

    run: GrpoRun | SftRun = (
        compose_run("grpo", GrpoRun, list(overrides)) if app == "grpo" else compose_run("sft", SftRun, list(overrides))
    )
    require_folder(run.model.path, key="model.path", holding="config.json")
    check_frames(run.model, run.video)
    if run.data.train_file is None:
        raise ConfigError("data.train_file is required; give it as data.train_file=FILE")
    samples = load_samples(run.data.train_file, data=run.data)
    sizes, seconds, skipped = sample_sizes(run, samples[:: max(1, len(samples) // num_samples)][:num_samples])
    if not sizes:
        raise ConfigError(f"{run.data.train_file}: no clip of the samples looked at can be used; first: {skipped[0]}")
    shape = model_shape(run.model)
    needs = (
        grpo_needs(run, shape, sizes, machine, decode_s=seconds)
        if isinstance(run, GrpoRun)
        else sft_needs(run, shape, sizes, machine)
    )
    return Report(_lengths(sizes, shape, len(samples)), needs, skipped)


def sample_sizes(run: GrpoRun | SftRun, samples: Sequence[VideoSample]) -> tuple[list[SampleSize], float, list[str]]:
    """Exact token counts; seconds that decoding takes on the mean of a few clips; why samples were left out."""
    import time

    from videor2_rl.prompt import PromptBuilder
    from videor2_rl.sizing import SampleSize
    from videor2_rl.video.decode import decode, probe
    from videor2_rl.video.errors import VideoError

    builder = PromptBuilder(run.model)
    sizes: list[SampleSize] = []
    seconds: list[float] = []
    skipped: list[str] = []
    for sample in samples:
        bounds = {"start_s": sample.clip_start_s, "end_s": sample.clip_end_s}
        try:
            times_s, height, width = probe(sample.video, run.video, **bounds)
            if len(seconds) < 8:
                started = time.perf_counter()
                decode(sample.video, run.video, **bounds)
                seconds.append(time.perf_counter() - started)
        except VideoError as error:
            skipped.append(str(error))
            continue
        prompt, vision = builder.num_tokens(sample.question, timestamps_s=times_s, height=height, width=width)
        response = None if isinstance(run, GrpoRun) else len(builder.encode_response(sample.solution))
        sizes.append(SampleSize(prompt, vision, response, len(times_s)))
    return sizes, sum(seconds) / max(1, len(seconds)), skipped


def grpo_needs(
    run: GrpoRun, shape: ModelShape, sizes: Sequence[SampleSize], machine: Machine, *, decode_s: float
) -> list[Need]:
    """In the order in which a run would come to grief."""
    from videor2_rl.sizing import Need

    algorithm = run.algorithm
    longest = max(size.prompt_tokens for size in sizes)
    response = run.rollout.max_response_tokens
    budget = run.learner.max_tokens_per_micro_batch
    tokens = max(longest + response, min(budget, longest + algorithm.group_size * response))
    return [
        Need(
            "longest prompt",
            longest,
            run.rollout.max_model_tokens - response,
            "tokens",
            "rollout.max_model_tokens minus response; longer ones are skipped",
        ),
        Need("GPUs", _gpus(run), machine.gpus, "", "rollout workers, learner and reference ranks, a managed judge"),
        _memory(
            run, shape, machine, tokens=tokens, response_tokens=min(tokens - longest, algorithm.group_size * response)
        ),
        _rollout_memory(run, shape, machine),
        *([_reference_memory(run, shape, machine, tokens=tokens)] if _has_reference(run) else []),
        _object_store(run, shape, sizes),
        _checkpoints(run, shape),
        Need(
            "decoding a step",
            algorithm.prompts_per_step * decode_s,
            None,
            "core-s",
            "first epoch only; video.num_workers share it",
        ),
        *_judge_and_rates(run, shape, sizes, machine, decode_s=decode_s),
    ]


def _rollout_memory(run: GrpoRun, shape: ModelShape, machine: Machine) -> Need:
    from videor2_rl.sizing import GIB, Need, rollout_worker_bytes

    is_cpu = run.cluster.device == "cpu"
    return Need(
        "rollout worker memory",
        rollout_worker_bytes(shape, run.model, run) / GIB,
        machine.gpu_gib if is_cpu else _times(machine.gpu_gib, run.rollout.gpu_memory_utilization),
        "GiB",
        "a process: weights and rollout.kv_cache_gib"
        if is_cpu
        else "a GPU: weights and the KV cache of one sequence; rollout.gpu_memory_utilization",
    )


def _reference_memory(run: GrpoRun, shape: ModelShape, machine: Machine, *, tokens: int) -> Need:
    from videor2_rl.sizing import GIB, Need, width_of

    width = width_of(run.model)
    weights = shape.parameters * width / run.reference.num_ranks
    return Need(
        "reference rank memory",
        (weights + tokens * shape.intermediate * 4 * width) / GIB,
        machine.gpu_gib,
        "GiB",
        "a GPU: weights and one layer's activations",
    )


def _object_store(run: GrpoRun, shape: ModelShape, sizes: Sequence[SampleSize]) -> Need:
    from videor2_rl.sizing import GIB, Need, object_store_bytes

    store = object_store_bytes(shape, run.model, sizes, per_step=run.algorithm.prompts_per_step)
    store += run.learner.visual_cache_mib << 20 if run.model.has_frozen_vision else 0
    return Need(
        "object store",
        store / GIB,
        run.cluster.object_store_mib / 1024,
        "GiB",
        "two steps' prompts, two versions of the weights, learner.visual_cache_mib; cluster.object_store_mib",
    )


def _checkpoints(run: GrpoRun | SftRun, shape: ModelShape) -> Need:
    from videor2_rl.sizing import GIB, Need, checkpoint_bytes

    needed = run.checkpoint.keep * checkpoint_bytes(shape, run.model) / GIB
    return Need("checkpoints on disk", needed, None, "GiB", f"checkpoint.keep={run.checkpoint.keep}")


def _judge_and_rates(
    run: GrpoRun, shape: ModelShape, sizes: Sequence[SampleSize], machine: Machine, *, decode_s: float
) -> list[Need]:
    """The judge's calls a step; where the GPUs' speed is said, a step's seconds and what has to keep up with it."""
    from videor2_rl.sizing import Need, judge_load

    judge, needs = judge_load(run), []
    if judge.calls:
        most = f"at most {judge.tokens} tokens without instructions; cached replies and missing blocks ask less"
        needs.append(Need("judge calls a step", judge.calls, None, "calls", most))
    if machine.gpu_flops is None:
        return needs
    seconds = _step_flops_of_a_gpu(run, shape, sizes) / machine.gpu_flops
    needs.append(
        Need("a step", seconds, None, "s", f"at {machine.gpu_flops:.3g} FLOP/s a GPU, responses of full length")
    )
    cores = run.algorithm.prompts_per_step * decode_s / max(seconds, 1e-9)
    needs.append(Need("decode cores", cores, machine.cpus, "cores", "to decode as fast as the rest works"))
    if judge.calls:
        rate = judge.calls / max(seconds, 1e-9)
        needs.append(Need("judge calls a second", rate, None, "1/s", "to score as fast as the rest works"))
    return needs


def _step_flops_of_a_gpu(run: GrpoRun, shape: ModelShape, sizes: Sequence[SampleSize]) -> float:
    """What one GPU of each kind has to do in a step, one kind after the other."""
    from videor2_rl.sizing import step_flops

    flops = step_flops(
        shape,
        prompt_tokens=sum(size.prompt_tokens for size in sizes) / len(sizes),
        response_tokens=run.rollout.max_response_tokens,
        responses=run.algorithm.group_size,
        has_reference=_has_reference(run),
    )
    trained = flops["learner"] / run.learner.num_ranks + flops["rollout"] / run.rollout.num_workers
    return run.algorithm.prompts_per_step * (trained + flops["reference"] / max(1, run.reference.num_ranks))


def sft_needs(run: SftRun, shape: ModelShape, sizes: Sequence[SampleSize], machine: Machine) -> list[Need]:
    """In the order in which a run would come to grief."""
    from videor2_rl.sizing import Need

    longest = max(size.prompt_tokens + (size.response_tokens or 0) for size in sizes)
    response = max(size.response_tokens or 0 for size in sizes)
    budget = run.learner.max_tokens_per_micro_batch
    tokens = max(longest, min(budget, sum(size.prompt_tokens for size in sizes[: run.sft.batch_size])))
    needs = [
        Need(
            "longest prompt",
            max(size.prompt_tokens for size in sizes),
            budget,
            "tokens",
            "learner.max_tokens_per_micro_batch; longer ones are skipped",
        ),
        Need("GPUs", run.learner.num_ranks * run.learner.gpus_per_rank, machine.gpus, "", "learner ranks"),
        _memory(run, shape, machine, tokens=tokens, response_tokens=response * max(1, tokens // longest)),
        _checkpoints(run, shape),
    ]
    if machine.gpu_flops is not None:
        mean = sum(size.prompt_tokens + (size.response_tokens or 0) for size in sizes) / len(sizes)
        seconds = 6 * shape.parameters * mean * run.sft.batch_size / run.learner.num_ranks / machine.gpu_flops
        needs.append(Need("a step", seconds, None, "s", f"at {machine.gpu_flops:.3g} FLOP/s a GPU"))
    return needs


def _memory(run: GrpoRun | SftRun, shape: ModelShape, machine: Machine, *, tokens: int, response_tokens: int) -> Need:
    from videor2_rl.sizing import GIB, Need, learner_rank_bytes, state_bytes

    needed = learner_rank_bytes(shape, run.model, run.learner, tokens=tokens, response_tokens=response_tokens)
    state = state_bytes(shape, run.model, run.learner)
    host = f", {state.host / GIB:.3g} GiB of host memory" if state.host else ""
    what = f"a rank: {state.device / GIB:.3g} GiB of state{host}, the rest a pass of {tokens} tokens"
    return Need("learner rank memory", needed / GIB, machine.gpu_gib, "GiB", what)


def _gpus(run: GrpoRun) -> float:
    rollouts = run.rollout.num_workers * run.rollout.gpus_per_worker
    learner = run.learner.num_ranks * run.learner.gpus_per_rank
    reference = run.reference.num_ranks * run.reference.gpus_per_rank if _has_reference(run) else 0
    return rollouts + learner + reference + (run.judge.num_gpus if isinstance(run.judge, ManagedJudge) else 0)


def _has_reference(run: GrpoRun) -> bool:
    """Whether reference ranks are started: under an adapter the learner is its own reference."""
    return run.algorithm.kl_coefficient > 0 and run.model.lora.rank == 0


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _lengths(sizes: Sequence[SampleSize], shape: ModelShape, num_samples: int) -> dict[str, float]:
    prompts = sorted(size.prompt_tokens for size in sizes)
    return {
        "samples": num_samples,
        "samples looked at": len(sizes),
        "prompt tokens, mean": sum(prompts) / len(prompts),
        "prompt tokens, median": prompts[len(prompts) // 2],
        "prompt tokens, longest": prompts[-1],
        "frames, most": max(size.num_frames for size in sizes),
        "parameters": shape.parameters,
        "of them vision tower and merger": shape.vision_parameters + shape.merger_parameters,
    }


if __name__ == "__main__":
    sys.exit(main())
