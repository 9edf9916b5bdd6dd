"""What the nodes of a cluster say of themselves, held against what a run needs: a sentence for each fault.

Pure functions; `workers.preflight` asks the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videor2_rl.config.resources import parts_of, total
from videor2_rl.config.runs import EvaluateRun, GrpoRun
from videor2_rl.doctor.machine import AnyRun, Machine
from videor2_rl.doctor.needs import evaluate_needs, grpo_needs, sft_needs
from videor2_rl.doctor.sizing import GIB, ModelShape, Need, SampleSize

_LEAST_DRIVERS = {"12": 525, "13": 580}
"""The oldest driver branch that runs a CUDA version's programs, by its first number: docs.nvidia.com/deploy, CUDA
compatibility, minor version compatibility."""
_OF_A_GPU = ("learner rank memory", "rollout worker memory", "reference rank memory")


@dataclass(frozen=True)
class NodeReport:
    """What one Ray node has."""

    name: str
    gpus: float
    """As Ray counts them; 0: nothing below that is of GPUs is looked at."""
    object_store_bytes: float
    shared_memory_bytes: float
    """Of /dev/shm as a whole."""
    unseen: tuple[str, ...]
    """Of the folders that it was asked for, the keys of those that are not there."""
    driver: str | None
    """NVIDIA's, as 580.65.06; None: there is none."""
    cuda: str | None
    """That PyTorch is built for; None: for CPUs alone."""
    gpu_bytes: float | None
    """Of the smallest GPU; None: not known."""


def faults(
    run: AnyRun, shape: ModelShape, nodes: Sequence[NodeReport], *, folders: dict[str, str], prompts_per_call: int
) -> list[str]:
    """What would stop the run or slow it down, a sentence each; none: nothing.

    Args:
        shape: of the model.
        nodes: at least one.
        folders: those that the nodes were asked for, by their configuration key.
        prompts_per_call: of an evaluation, which has no steps.
    """
    needs = {need.name: need for need in _needs(run, shape, nodes, prompts_per_call=prompts_per_call)}
    found = [
        f"{key}: {node.name} does not see {folders[key]}; put it where every node of the cluster has it under this path"
        for node in nodes
        for key in node.unseen
    ]
    if total(parts_of(run))["GPU"] > 0:
        found += [fault for node in nodes if node.gpus > 0 for fault in _driver_faults(node)]
    found += [
        f"{name}: the longest pass that the configuration allows needs {need.needed:.3g} GiB, and the smallest GPU has "
        f"room for {need.available:.3g} GiB ({need.explanation}); "
        "python -m videor2_rl.doctor names a change with which it would fit"
        for name, need in needs.items()
        if name in _OF_A_GPU and not need.fits
    ]
    return found + _store_faults(run, needs["object store"].needed * GIB, nodes)


def longest_sample(run: AnyRun, shape: ModelShape) -> SampleSize:
    """The longest prompt that the configuration lets pass, of the most and the largest frames."""
    if isinstance(run, EvaluateRun | GrpoRun):
        tokens = run.rollout.max_model_tokens - run.rollout.max_response_tokens
    else:
        tokens = run.learner.max_tokens_per_micro_batch
    values = 3 * run.video.max_frames * run.video.max_pixels
    vision = min(tokens, values // (shape.merge_size**2 * shape.patch_values))
    return SampleSize(tokens, vision, None, run.video.max_frames)


def _needs(run: AnyRun, shape: ModelShape, nodes: Sequence[NodeReport], *, prompts_per_call: int) -> list[Need]:
    sizes = [longest_sample(run, shape)]
    on_gpus = run.cluster.device == "cuda"
    memory = [node.gpu_bytes for node in nodes if on_gpus and node.gpu_bytes is not None]
    machine = Machine(gpus=None, gpu_gib=min(memory) / GIB if memory else None, cpus=None, gpu_flops=None)
    if isinstance(run, GrpoRun):
        return grpo_needs(run, shape, sizes, machine, decode_s=0.0)
    if isinstance(run, EvaluateRun):
        return evaluate_needs(
            run, shape, sizes, machine, decode_s=0.0, num_samples=prompts_per_call, prompts_per_call=prompts_per_call
        )
    return sft_needs(run, shape, sizes, machine)


def _driver_faults(node: NodeReport) -> list[str]:
    if node.cuda is None:
        return [
            f"cluster.device: found cuda, and PyTorch on {node.name} is built without CUDA; install "
            "docker/requirements-gpu.txt there, or add cluster=cpu"
        ]
    if node.driver is None:
        return [
            f"cluster.device: found cuda, and {node.name} has no NVIDIA driver (/proc/driver/nvidia/version); install "
            "one, and start containers with --gpus all"
        ]
    least = _LEAST_DRIVERS.get(node.cuda.split(".")[0])
    if least is not None and int(node.driver.split(".")[0]) < least:
        return [
            f"cluster.device: {node.name} has NVIDIA driver {node.driver}, and PyTorch for CUDA {node.cuda} needs "
            f"{least} or newer; update the driver"
        ]
    return []


def _store_faults(run: AnyRun, needed: float, nodes: Sequence[NodeReport]) -> list[str]:
    """Objects lie on the node that made them, so the stores count together; a full one goes to the disk."""
    there = sum(node.object_store_bytes for node in nodes)
    if there < needed:
        return [
            f"cluster.object_store_mib: the run puts up to {needed / GIB:.3g} GiB into Ray's object store, which has "
            f"{there / GIB:.3g} GiB; give cluster.object_store_mib={_mib(needed)}, or start a cluster's nodes with "
            "ray start --object-store-memory=BYTES"
        ]
    share = needed / len(nodes)
    return [
        f"cluster.object_store_mib: {node.name} has {node.shared_memory_bytes / GIB:.3g} GiB of shared memory for "
        f"Ray's object store, of which the run needs {share / GIB:.3g} GiB; start the container with "
        f"--shm-size={_mib(share)}m"
        for node in nodes
        if node.shared_memory_bytes < share
    ]


def _mib(size: float) -> int:
    return -int(-size // 2**20)
