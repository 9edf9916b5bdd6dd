"""Runs on Ray clusters whose nodes are processes of this machine and whose GPUs are numbers: refused or accepted.

python fake_clusters.py SCENARIO MODEL_FOLDER, in an empty folder; a line for each run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from experiments import EXPERIMENTS
from ray.cluster_utils import Cluster

from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.resources import parts_of
from videor2_rl.doctor.preflight import faults
from videor2_rl.doctor.sizing import model_shape
from workers.cluster import connected
from workers.preflight import check_cluster, look_at_nodes

MORE_NODES = ("video_r2_7b_grpo", "grpo_7b_4nodes")
ONE_NODE = tuple(name for name in EXPERIMENTS if name not in MORE_NODES)


def main() -> None:
    scenario, model = sys.argv[1:]
    Path("out").mkdir()
    {"fits": fits, "folder": folder, "store": store}[scenario](model)


def fits(model: str) -> None:
    """Eight GPUs, then four times as many, whose nodes are said to have a driver and 80 GB a GPU."""
    cluster = Cluster(initialize_head=True, head_node_args=node_arguments())
    for name in (*ONE_NODE, *MORE_NODES):
        if name == MORE_NODES[0]:
            show(name, lambda run: None, model, address=cluster.address)
            for _ in range(3):
                cluster.add_node(**node_arguments())
            cluster.wait_for_nodes()
        show(name, described, model, address=cluster.address)
    show("grpo_7b_1node", checked, model, address=cluster.address)
    cluster.shutdown()


def store(model: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args=node_arguments(object_store_memory=100 << 20))
    show("grpo_7b_1node", described, model, address=cluster.address)
    cluster.shutdown()


def folder(model: str) -> None:
    """Paths are relative to where a node was started, and the second one was started elsewhere."""
    Path("model").symlink_to(model)
    elsewhere = Path("elsewhere").absolute()
    elsewhere.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args=node_arguments())
    show("smoke", checked, "model", address=cluster.address)
    command = [str(Path(sys.executable).parent / "ray"), "start", f"--address={cluster.address}", "--num-cpus=1"]
    with joined([*command, f"--object-store-memory={100 << 20}", "--block"], cwd=elsewhere):
        show("smoke", checked, "model", address=cluster.address)
    cluster.shutdown()


@contextmanager
def joined(command: Sequence[str], *, cwd: Path) -> Iterator[None]:
    """A node that joins by itself, and leaves."""
    with open(cwd / "log", "w") as log:
        node = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log)
    try:
        while "Ray runtime started" not in (cwd / "log").read_text():
            assert node.poll() is None, (cwd / "log").read_text()
        yield
    finally:
        node.terminate()
        node.wait(timeout=30)


def node_arguments(**changes: int) -> dict[str, Any]:
    return {"num_cpus": 80, "num_gpus": 8, "object_store_memory": 7 << 30, **changes}


def checked(run: Any) -> None:
    check_cluster(run, model_path=run.model.path, prompts_per_call=64)


def described(run: Any) -> None:
    paths = {"model.path": run.model.path, "output_dir": run.output_dir}
    nodes = [replace(n, driver="580.65.06", cuda="13.0", gpu_bytes=80e9) for n in look_at_nodes(paths)]
    found = faults(run, model_shape(run.model), nodes, folders=paths, prompts_per_call=64)
    if found:
        raise ConfigError(" | ".join(found))


def show(experiment: str, check: Any, model: str, *, address: str) -> None:
    app, kind = EXPERIMENTS[experiment]
    overrides = [f"experiment={experiment}", f"model.path={model}", "output_dir=out", f"cluster.address={address}"]
    overrides += ["data.train_file=t", "data.media_dir=d"] if "7b" in experiment else []
    overrides += ["data.subtitles_dir=null"] if experiment.startswith("video_r2") else []
    overrides += ["evaluation.checkpoints=[m:m]"] if app == "evaluate" else []
    run = compose_run(app, kind, overrides)
    try:
        with connected(run.cluster, worker_env={}, parts=parts_of(run)):
            check(run)
            print("ACCEPTED", experiment, len(ray.nodes()), flush=True)
    except ConfigError as error:
        print("REFUSED", experiment, error, flush=True)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    main()
