"""What a run asks of its cluster, against what the cluster has."""

from __future__ import annotations

import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.resources import Part, amounts, parts_of, shortfall, total
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun

PAPER = ["model.path=m", "data.train_file=f", "data.media_dir=d"]


def part(*, count: int = 1, cpus: float = 1, gpus: float = 0) -> Part:
    return Part("worker", count, cpus, gpus, "rollout.num_workers")


def test_the_demo_fits_two_cpus() -> None:
    run = compose_run("grpo", GrpoRun, ["experiment=smoke"])
    assert total(parts_of(run)) == {"CPU": 2.0, "GPU": 0}
    assert shortfall(parts_of(run), [{"CPU": 2.0}]) is None


def test_every_part_is_counted() -> None:
    sizes = [
        "rollout.num_workers=4",
        "rollout.gpus_per_worker=2",
        "rollout.tensor_parallel_size=2",
        "learner.num_ranks=8",
        "reference.num_ranks=3",
    ]
    sizes += ["reward_workers.num_workers=5", "reward_workers.cpus_per_worker=0.5", "video.num_workers=6"]
    judge = ["judge=managed", "judge.model_path=j", "judge.num_gpus=2"]
    run = compose_run("grpo", GrpoRun, [*PAPER, *sizes, *judge])
    assert {p.name: p.count for p in parts_of(run)} == {
        "rollout worker": 4,
        "learner rank": 8,
        "reference rank": 3,
        "reward worker": 5,
        "video worker": 6,
        "judge": 1,
    }
    # CPUs: 4 + 8 + 3 + 5 x 0.5 + 6 + the judge's 1; GPUs: 4 x 2 + 8 + 3 + 2.
    assert total(parts_of(run)) == {"CPU": 24.5, "GPU": 21}


@pytest.mark.parametrize("without", ["algorithm.kl_coefficient=0", "model=qwen2_5_vl_lora"])
def test_reference_ranks_that_are_not_started_ask_for_nothing(without: str) -> None:
    run = compose_run("grpo", GrpoRun, [without, *PAPER])
    assert "reference rank" not in {p.name for p in parts_of(run)}


def test_sft_and_evaluation_ask_for_their_own_parts() -> None:
    sft = compose_run("sft", SftRun, PAPER)
    assert [p.name for p in parts_of(sft)] == ["learner rank", "video worker"]
    evaluate = compose_run("evaluate", EvaluateRun, ["model.path=m", "data.validation_file=f", "data.media_dir=d"])
    assert [p.name for p in parts_of(evaluate)] == ["rollout worker", "reward worker", "video worker"]


def test_cluster_cpu_alone_takes_the_gpus_off() -> None:
    assert total(parts_of(compose_run("grpo", GrpoRun, [*PAPER, "cluster=cpu"])))["GPU"] == 0
    with pytest.raises(ConfigError, match=r"learner\.num_ranks: each learner rank asks for 1 GPU on .*device=cpu"):
        compose_run("grpo", GrpoRun, [*PAPER, "cluster=cpu", "learner.gpus_per_rank=1"])


def test_what_lacks_is_said_with_both_figures() -> None:
    parts = [part(count=2, cpus=2), part(cpus=1, gpus=3)]
    assert shortfall(parts, [{"CPU": 4, "GPU": 3}, {"CPU": 1}]) is None
    said = shortfall(parts, [{"CPU": 4, "GPU": 1}])
    assert said is not None and "needs 5 CPUs and 3 GPUs" in said and said.endswith("the cluster has 4 CPUs and 1 GPU")
    assert "rollout.num_workers=2 x 2 CPU; rollout.num_workers=1 x 1 CPU + 3 GPU" in said


def test_a_part_has_to_fit_one_node() -> None:
    parts = [part(count=2, cpus=1, gpus=2)]
    assert shortfall(parts, [{"CPU": 1, "GPU": 2}] * 2) is None
    assert shortfall(parts, [{"CPU": 1, "GPU": 1}] * 4) == (
        "a worker needs 1 CPU and 2 GPUs on one node, and no node has more than 1 CPU and 1 GPU"
    )


def test_a_cluster_without_nodes_holds_nothing() -> None:
    assert shortfall([part()], []) is not None
    assert shortfall([], []) is None


def test_amounts_leave_out_what_nobody_needs() -> None:
    assert amounts({"CPU": 1, "GPU": 0}) == "1 CPU"
    assert amounts({"CPU": 0.25}, like={"CPU": 2, "GPU": 1}) == "0.25 CPUs and 0 GPUs"
