"""What nodes say of themselves, held against a run: one sentence a fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import published
import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.doctor.preflight import NodeReport, faults, longest_sample
from videor2_rl.doctor.sizing import GIB, ModelShape, model_shape

MODEL = str(published.FOLDER / "Qwen2.5-VL-7B-Instruct")
NODE = NodeReport(
    name="node 10.0.0.1",
    gpus=8,
    object_store_bytes=48 * GIB,
    shared_memory_bytes=64 * GIB,
    unseen=(),
    driver="580.65.06",
    cuda="13.0",
    gpu_bytes=85.5e9,
)
FOLDERS = {"model.path": MODEL, "output_dir": "outputs/run"}


@pytest.fixture(scope="module")
def run() -> GrpoRun:
    overrides = ["experiment=grpo_7b_1node", f"model.path={MODEL}", "data.train_file=t", "data.media_dir=d"]
    return compose_run("grpo", GrpoRun, overrides)


@pytest.fixture(scope="module")
def shape(run: GrpoRun) -> ModelShape:
    return model_shape(run.model)


def found(run: Any, shape: ModelShape, *nodes: NodeReport) -> list[str]:
    sentences = faults(run, shape, nodes, folders=FOLDERS, prompts_per_call=0)
    assert not any("\n" in sentence for sentence in sentences)
    return sentences


def test_a_node_that_has_everything_has_no_fault(run: GrpoRun, shape: ModelShape) -> None:
    assert found(run, shape, NODE) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"driver": "570.86.15"}, "node 10.0.0.1 has NVIDIA driver 570.86.15, and PyTorch for CUDA 13.0 needs 580"),
        ({"driver": "520.61.05", "cuda": "12.8"}, "driver 520.61.05, and PyTorch for CUDA 12.8 needs 525 or newer"),
        ({"driver": None}, "node 10.0.0.1 has no NVIDIA driver"),
        ({"cuda": None}, "PyTorch on node 10.0.0.1 is built without CUDA"),
        ({"unseen": ("model.path",)}, f"model.path: node 10.0.0.1 does not see {MODEL}; put it where every node"),
        ({"unseen": ("output_dir",)}, "output_dir: node 10.0.0.1 does not see outputs/run"),
        ({"object_store_bytes": 1.0 * GIB}, "cluster.object_store_mib: the run puts up to"),
        ({"shared_memory_bytes": 1.0 * GIB}, "node 10.0.0.1 has 1 GiB of shared memory"),
        ({"gpu_bytes": 24e9}, "learner rank memory: the longest pass that the configuration allows needs"),
    ],
)
def test_what_lacks_is_one_sentence(run: GrpoRun, shape: ModelShape, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in found(run, shape, replace(NODE, **changes))[0]


def test_every_fault_of_every_node_is_said(run: GrpoRun, shape: ModelShape) -> None:
    other = replace(NODE, name="node 10.0.0.2", driver="535.10", unseen=("model.path", "output_dir"))
    said = found(run, shape, NODE, other)
    assert len(said) == 3 and all("node 10.0.0.2" in sentence for sentence in said)


def test_drivers_of_nodes_without_gpus_and_newer_cuda_are_left_alone(run: GrpoRun, shape: ModelShape) -> None:
    of_cpus = replace(NODE, gpus=0, driver=None, cuda=None, gpu_bytes=None)
    assert found(run, shape, NODE, of_cpus) == []
    assert found(run, shape, replace(NODE, cuda="14.1", driver="600.1")) == []
    cpu = compose_run("grpo", GrpoRun, ["experiment=smoke"])
    assert found(cpu, shape, replace(NODE, driver=None, cuda=None, gpu_bytes=1.0)) == []


def test_object_stores_count_together(run: GrpoRun, shape: ModelShape) -> None:
    """32 frames of 151,200 pixels are 14,515,200 bytes a clip and 2 x 16 clips in the store, with embeddings of up to
    2 GiB and a bucket of 512 MiB: 2.95 GiB."""
    sample = longest_sample(run, shape)
    assert sample.vision_tokens * shape.merge_size**2 * shape.patch_values == pytest.approx(32 * 151_200 * 3, rel=1e-3)
    needed = 32 * (32 * 151_200 * 3 + 40 * sample.prompt_tokens) + 2 * GIB + GIB / 2
    half = replace(NODE, object_store_bytes=needed / 2 + 1e6)
    assert found(run, shape, half, half) == []
    assert "cluster.object_store_mib" in found(run, shape, half)[0]
