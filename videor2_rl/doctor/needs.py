"""What a configuration needs of a machine, each figure beside what is there, in the order in which it is missed."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.judge import needs_judge
from videor2_rl.config.judge import RulesJudge
from videor2_rl.config.resources import has_reference, has_reference_ranks, parts_of, total
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun
from videor2_rl.config.sections import DataConfig
from videor2_rl.doctor.machine import AnyRun, Machine
from videor2_rl.doctor.sizing import (
    GIB,
    ModelShape,
    Need,
    SampleSize,
    checkpoint_bytes,
    embeddings_bytes,
    gathered_bytes,
    judge_load,
    learner_rank_bytes,
    prompt_bytes,
    prompts_bytes,
    rollout_worker_bytes,
    state_bytes,
    step_flops,
    weight_transfer_bytes,
)
from videor2_rl.inputs import (
    CLIPS_MEASURED,
    OUTSIDE,
    UNREADABLE,
    KeyFault,
    count_subtitles,
    fault_text,
    least_usable,
    unreadable_keys,
)
from videor2_rl.types import VideoSample
from videor2_rl.video.subtitle_check import look_at_subtitles


def clip_needs(data: DataConfig, *looks: tuple[int, Sequence[str]]) -> Need:
    """How many clips have to be usable, and how many are, by the look that found the larger share of faults.

    Args:
        looks: each how many samples were looked at, and why some of them cannot be used.
    """
    looked_at, faults = max(looks, key=lambda look: len(look[1]) / look[0])
    first = f"; first {faults[0]}" if faults else ""
    return Need(
        "usable clips",
        least_usable(looked_at, data),
        looked_at - len(faults),
        "clips",
        f"of {looked_at} samples looked at; data.max_skipped_frac={data.max_skipped_frac}{first}",
    )


def row_needs(run: AnyRun, samples: Sequence[VideoSample], outside: Sequence[KeyFault]) -> list[Need]:
    """What the rows hold that says nothing, and their subtitles; nothing of it stops a run.

    Args:
        outside: time keys outside their clips, of the samples looked at.
    """
    unreadable = unreadable_keys(samples)
    needs = []
    if any(sample.temporal_grounding for sample in samples):
        texts = (fault_text(unreadable, UNREADABLE), fault_text(outside, OUTSIDE))
        needs += [
            Need("unreadable time keys", len(unreadable), None, "keys", texts[0]),
            Need("time keys outside their clips", len(outside), None, "keys", f"of the samples looked at, {texts[1]}"),
        ]
    if run.video.subtitles:
        found, clips = count_subtitles(samples, run.video)
        needs.append(
            Need("clips with subtitles", found, None, "clips", f"{found} of {clips} clips have subtitles to be drawn")
        )
        check = look_at_subtitles(samples, run.video, limit=CLIPS_MEASURED)
        needs += [
            Need("subtitle files without a cue", len(check.faults), None, "files", check.fault_text()),
            Need("unreadable subtitle times", len(check.unreadable), None, "files", check.unreadable_text()),
            Need("subtitles with boxes", len(check.boxes), None, "files", check.box_text()),
        ]
    return needs


def grpo_needs(
    run: GrpoRun, shape: ModelShape, sizes: Sequence[SampleSize], machine: Machine, *, decode_s: float
) -> list[Need]:
    """In the order in which a run would come to grief."""
    algorithm = run.algorithm
    longest = max(size.prompt_tokens for size in sizes)
    response = run.rollout.max_response_tokens
    budget = run.learner.max_tokens_per_micro_batch
    tokens = max(longest + response, min(budget, longest + algorithm.group_size * response))
    learner = _memory(
        run, shape, machine, tokens=tokens, response_tokens=min(tokens - longest, algorithm.group_size * response)
    )
    rollout = _rollout_memory(run, shape, machine)
    reference = [_reference_memory(run, shape, machine, tokens=tokens)] if has_reference_ranks(run) else []
    processes = [(run.learner.num_ranks, learner), (_rollout_processes(run), rollout)]
    processes += [(run.reference.num_ranks, need) for need in reference]
    return [
        _longest_prompt(run, longest),
        _gpus(run, machine, "rollout workers, learner and reference ranks, a managed judge"),
        _cpus(run, machine),
        learner,
        rollout,
        *reference,
        _object_store(run, shape, sizes),
        _host_memory(run, shape, machine, processes),
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


def _longest_prompt(run: GrpoRun | EvaluateRun, tokens: int) -> Need:
    room = run.rollout.max_model_tokens - run.rollout.max_response_tokens
    what = "rollout.max_model_tokens minus response; longer ones are skipped"
    return Need("longest prompt", tokens, room, "tokens", what)


def _rollout_processes(run: GrpoRun | EvaluateRun) -> int:
    return run.rollout.num_engines * run.rollout.tensor_parallel_size


def _rollout_memory(run: GrpoRun | EvaluateRun, shape: ModelShape, machine: Machine) -> Need:
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
    width = run.model.bytes_per_value
    weights = 0.0 if run.reference.cpu_offload else shape.parameters * width / run.reference.num_ranks
    gathered = gathered_bytes(shape, run.model, run.learner)
    needed = weights + gathered + tokens * shape.intermediate * 4 * width
    what = "a GPU: weights, gathered ones, and one layer's activations"
    return Need("reference rank memory", needed / GIB, machine.gpu_gib, "GiB", what)


def _cpus(run: GrpoRun | SftRun | EvaluateRun, machine: Machine) -> Need:
    """Logical ones, in which Ray places actors: it waits for ever where there are too few."""
    cpus = total(parts_of(run))["CPU"]
    own_cluster = run.cluster.address is None and run.cluster.num_cpus is not None
    there = run.cluster.num_cpus if own_cluster else machine.cpus
    return Need("CPUs", cpus, there, "", "logical ones of all actors" + ("; cluster.num_cpus" if own_cluster else ""))


def _host_memory(
    run: GrpoRun | SftRun | EvaluateRun, shape: ModelShape, machine: Machine, processes: Sequence[tuple[int, Need]]
) -> Need:
    """`processes`: how many of a kind, and the memory of one, which is the host's where there are no GPUs."""
    needed = run.cluster.object_store_mib / 1024
    if run.cluster.device == "cpu":
        needed += sum(number * need.needed for number, need in processes)
    if not isinstance(run, EvaluateRun):
        needed += run.learner.num_ranks * state_bytes(shape, run.model, run.learner).host / GIB
    if isinstance(run, GrpoRun) and has_reference_ranks(run) and run.reference.cpu_offload:
        needed += shape.parameters * run.model.bytes_per_value / GIB
    what = "models, caches and object store; each process takes its libraries' share besides"
    return Need("host memory", needed, machine.memory_gib, "GiB", what)


def evaluate_needs(
    run: EvaluateRun,
    shape: ModelShape,
    sizes: Sequence[SampleSize],
    machine: Machine,
    *,
    decode_s: float,
    num_samples: int,
    prompts_per_call: int,
) -> list[Need]:
    """Of the evaluation of every checkpoint in every mode, in the order in which it would come to grief."""
    longest = max(size.prompt_tokens for size in sizes)
    rollout = _rollout_memory(run, shape, machine)
    largest = sorted((prompt_bytes(shape, size) for size in sizes), reverse=True)[:prompts_per_call]
    responses = num_samples * len(run.evaluation.modes) * len(run.evaluation.folders)
    needs = [
        _longest_prompt(run, longest),
        _gpus(run, machine, "rollout workers, a managed judge"),
        _cpus(run, machine),
        rollout,
        Need(
            "object store",
            sum(largest) / len(largest) * min(prompts_per_call, num_samples) / GIB,
            run.cluster.object_store_mib / 1024,
            "GiB",
            f"{prompts_per_call} prompts at a time; cluster.object_store_mib",
        ),
        _host_memory(run, shape, machine, [(_rollout_processes(run), rollout)]),
        Need("decoding", num_samples * decode_s, None, "core-s", "once for all; video.num_workers share it"),
        Need("responses", responses, None, "", "samples x modes x checkpoints"),
    ]
    if not isinstance(run.judge, RulesJudge):
        calls = responses * len(needs_judge(run.reward))
        needs.append(Need("judge calls", calls, None, "calls", "at most; missing blocks and cached replies ask less"))
    if machine.gpu_flops is not None:
        tokens = sum(size.prompt_tokens for size in sizes) / len(sizes) + run.rollout.max_response_tokens
        seconds = 2.0 * shape.parameters * tokens * responses / run.rollout.num_workers / machine.gpu_flops
        what = f"at {machine.gpu_flops:.3g} FLOP/s a GPU, responses of full length"
        needs.append(Need("the evaluation", seconds, None, "s", what))
    return needs


def _object_store(run: GrpoRun | SftRun, shape: ModelShape, sizes: Sequence[SampleSize]) -> Need:
    per_step, steps = run.sft.batch_size if isinstance(run, SftRun) else run.algorithm.prompts_per_step, 2
    what = "two steps' prompts"
    if isinstance(run, GrpoRun) and run.algorithm.max_staleness > 0:
        steps = run.algorithm.max_staleness + 2
        what = "prompts ahead (algorithm.max_staleness, rollout.max_prepared_mib)"
    needed = prompts_bytes(shape, sizes, per_step=per_step, steps=steps)
    if steps > 2:
        # Beyond the next step's, prompts wait while the others fill what they may.
        needed = min(needed, needed / steps + (run.rollout.max_prepared_mib << 20))  # type: ignore[union-attr]
    needed += embeddings_bytes(shape, run.model, run.learner, sizes, per_step=per_step * (steps - 1))
    what += ", visual embeddings (learner.visual_cache_mib)"
    if isinstance(run, GrpoRun) and run.algorithm.max_staleness > 0 and run.rollout.on_update == "finish":
        # One version that a worker still takes, and the next.
        needed += 2 * shape.parameters * run.model.bytes_per_value
        what += ", two versions of the weights (rollout.on_update=finish)"
    elif isinstance(run, GrpoRun):
        needed += weight_transfer_bytes(shape, run.model, run.learner)
        what += ", a bucket of weights (learner.sync_bucket_mib)"
    there = run.cluster.object_store_mib / 1024
    return Need("object store", needed / GIB, there, "GiB", f"{what}; cluster.object_store_mib")


def _checkpoints(run: GrpoRun | SftRun, shape: ModelShape) -> Need:
    needed = run.checkpoint.keep * checkpoint_bytes(shape, run.model) / GIB
    return Need("checkpoints on disk", needed, None, "GiB", f"checkpoint.keep={run.checkpoint.keep}")


def _judge_and_rates(
    run: GrpoRun, shape: ModelShape, sizes: Sequence[SampleSize], machine: Machine, *, decode_s: float
) -> list[Need]:
    """The judge's calls a step; where the GPUs' speed is said, a step's seconds and what has to keep up with it."""
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
    flops = step_flops(
        shape,
        prompt_tokens=sum(size.prompt_tokens for size in sizes) / len(sizes),
        response_tokens=run.rollout.max_response_tokens,
        responses=run.algorithm.group_size,
        has_reference=has_reference(run),
    )
    trained = flops["learner"] / run.learner.num_ranks + flops["rollout"] / run.rollout.num_workers
    return run.algorithm.prompts_per_step * (trained + flops["reference"] / max(1, run.reference.num_ranks))


def sft_needs(run: SftRun, shape: ModelShape, sizes: Sequence[SampleSize], machine: Machine) -> list[Need]:
    """In the order in which a run would come to grief."""
    longest = max(size.prompt_tokens + (size.response_tokens or 0) for size in sizes)
    response = max(size.response_tokens or 0 for size in sizes)
    budget = run.learner.max_tokens_per_micro_batch
    tokens = max(longest, min(budget, sum(size.prompt_tokens for size in sizes[: run.sft.batch_size])))
    learner = _memory(run, shape, machine, tokens=tokens, response_tokens=response * max(1, tokens // longest))
    needs = [
        Need(
            "longest prompt",
            max(size.prompt_tokens for size in sizes),
            budget,
            "tokens",
            "learner.max_tokens_per_micro_batch; longer ones are skipped",
        ),
        _gpus(run, machine, "learner ranks"),
        _cpus(run, machine),
        learner,
        _object_store(run, shape, sizes),
        _host_memory(run, shape, machine, [(run.learner.num_ranks, learner)]),
        _checkpoints(run, shape),
    ]
    if machine.gpu_flops is not None:
        mean = sum(size.prompt_tokens + (size.response_tokens or 0) for size in sizes) / len(sizes)
        seconds = 6 * shape.parameters * mean * run.sft.batch_size / run.learner.num_ranks / machine.gpu_flops
        needs.append(Need("a step", seconds, None, "s", f"at {machine.gpu_flops:.3g} FLOP/s a GPU"))
    return needs


def _memory(run: GrpoRun | SftRun, shape: ModelShape, machine: Machine, *, tokens: int, response_tokens: int) -> Need:
    needed = learner_rank_bytes(shape, run.model, run.learner, tokens=tokens, response_tokens=response_tokens)
    in_host = state_bytes(shape, run.model, run.learner).host
    host = f", {in_host / GIB:.3g} GiB of host memory" if in_host else ""
    what = f"a rank in a pass of {tokens} tokens: {needed.text()}{host}"
    return Need("learner rank memory", needed.total / GIB, machine.gpu_gib, "GiB", what)


def _gpus(run: GrpoRun | SftRun | EvaluateRun, machine: Machine, whose: str) -> Need:
    return Need("GPUs", total(parts_of(run))["GPU"], machine.gpus, "", whose)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
