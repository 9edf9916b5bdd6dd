"""One of some gloo ranks, without Ray: three updates with each backend.

python train_briefly.py RANK PORT NUM_RANKS MODEL_FOLDER OUTPUT_FOLDER CASE [CASE ...]

Cases are those of `train_backend.py`; rank 0 writes losses and gradient norms over all ranks, the weights at the end,
and the rotary frequencies that the model computes with.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from packed_prompts import make_groups
from train_backend import log_probs_of, make_worker, update_spec, weights_of


def main() -> None:
    rank, port, num_ranks, model_folder, output, *cases = sys.argv[1:]
    os.environ.update(RANK=rank, WORLD_SIZE=num_ranks, LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from workers.learner.verl_config import learner_env

    os.environ.update(learner_env("cpu"), RAY_LOCAL_WORLD_SIZE=num_ranks)
    groups = make_groups(model_folder)
    for case in cases:
        train(int(rank), int(num_ranks), model_folder, Path(output), case=case, groups=groups)


def train(rank: int, num_ranks: int, model_folder: str, output: Path, *, case: str, groups: list[Any]) -> None:
    import torch

    from workers.learner.learner import plan
    from workers.learner.losses import update_metrics

    worker = make_worker(model_folder, case=case, num_ranks=num_ranks)
    worker.start(0)
    groups = [
        replace(group, old_log_probs=values, ref_log_probs=values)
        for group, values in zip(groups, log_probs_of(worker, groups), strict=True)
    ]
    share = plan(groups, num_ranks=num_ranks, max_tokens=70)[rank]
    lengths = [len(ids) for group in groups for ids in group.response_ids]
    spec = update_spec(batch_tokens=sum(lengths), batch_responses=len(lengths), num_ranks=num_ranks)
    steps = []
    for _ in range(3):
        sums, shared = worker.update(share, spec)
        gathered: list[Any] = [None] * num_ranks
        torch.distributed.all_gather_object(gathered, sums)
        steps.append({"loss": update_metrics(gathered)["actor/loss"], "grad_norm": shared["grad_norm"]})
    weights: dict[str, Any] = weights_of(worker)
    accumulated = held_gradients(worker, share) if case.startswith("fsdp2") else []
    if rank == 0:
        buffers = worker.engine.module.named_buffers()
        frequencies = {
            "vision" if ".visual." in name else "language": tensor.double().tolist()
            for name, tensor in buffers
            if name.endswith(".inv_freq")
        }
        (output / f"{case}.json").write_text(
            json.dumps({"steps": steps, "frequencies": frequencies, "gradients": accumulated})
        )
        np.savez(output / f"{case}.npz", **weights)


def held_gradients(worker: Any, share: list[Any]) -> list[dict[str, int]]:
    """Values of gradients that this rank holds when each micro-batch has come as far as its loss."""
    held: list[dict[str, int]] = []

    def look(scores: Any, *_: Any) -> tuple[Any, None]:
        parts = [part for part in worker.engine.module.modules() if hasattr(part, "_get_fsdp_state")]
        groups = [part._get_fsdp_state()._fsdp_param_group for part in parts]
        parameters = [parameter for group in groups if group is not None for parameter in group.fsdp_params]
        whole = [parameter.unsharded_accumulated_grad for parameter in parameters]
        shards = [parameter.sharded_param.grad for parameter in parameters]
        held.append(
            {
                "whole": sum(gradient.numel() for gradient in whole if gradient is not None),
                "in_shards": sum(gradient.to_local().numel() for gradient in shards if gradient is not None),
            }
        )
        return scores.log_probs.sum(), None

    worker.engine.optimizer_zero_grad()
    with worker.engine.train_mode():
        worker.engine.forward_backward_batch(share, look, temperature=1.0)
    worker.engine.optimizer_zero_grad()
    return held


if __name__ == "__main__":
    main()
