"""One of two gloo ranks, without Ray: trains the same groups with each backend and writes down what happened.

python train_backend.py RANK PORT MODEL_FOLDER OUTPUT_FOLDER CASE [CASE ...]

A case is a backend, or a backend and what is different: an adapter (`deepspeed_zero3-lora`, `fsdp2-dora`), the dtype
(`fsdp2-bf16`), the optimiser (`deepspeed_zero2-sgd`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from learner_configs import algorithm_config, learner_config, model_config
from packed_prompts import make_groups

STEPS = 10
ADAPTERS = ("lora", "dora")


def main() -> None:
    rank, port, model_folder, output, *cases = sys.argv[1:]
    os.environ.update(RANK=rank, WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from workers.learner.verl_config import learner_env

    os.environ.update(learner_env("cpu"), RAY_LOCAL_WORLD_SIZE="2")
    groups = make_groups(model_folder)
    for case in cases:
        for stage in ("sft", "grpo") if "-" not in case else ("grpo",):
            train(int(rank), model_folder, Path(output), case=case, stage=stage, groups=groups)


def train(rank: int, model_folder: str, output: Path, *, case: str, stage: str, groups: list[Any]) -> None:
    import torch

    from workers.learner.learner import plan

    variant = case.partition("-")[2]
    worker = make_worker(model_folder, case=case)
    worker.start(0)
    at_start = log_probs_of(worker, groups)
    if stage == "grpo":
        groups = [
            replace(group, old_log_probs=values, ref_log_probs=values)
            for group, values in zip(groups, at_start, strict=True)
        ]
    share = plan(groups, num_ranks=2, max_tokens=70)[rank]
    state = output / f"{case}_{stage}_state"
    steps = []
    for step in range(STEPS):
        steps.append(one_step(worker, share, groups, stage=stage))
        if step == STEPS // 2:
            # Written in the background: what the steps after it change must not reach it.
            state.mkdir(exist_ok=True)
            worker.save(str(state))
    weights: dict[str, Any] = weights_of(worker)
    at_end = log_probs_of(worker, groups)
    without_adapter = log_probs_of(worker, groups, use_adapter=False) if variant in ADAPTERS else at_start
    worker.finish_save()
    torch.distributed.barrier()
    worker.load(str(state))
    again = [one_step(worker, share, groups, stage=stage) for _ in range(STEPS // 2 + 1, STEPS)]
    restored: dict[str, Any] = weights_of(worker)
    from_pixels = from_embeddings = encodings = None
    if variant in ADAPTERS:
        from_pixels = two_steps(worker, groups, rank, state=str(state))
        with counted_tower(worker) as passes:
            encoded = with_embeddings(worker, groups, rank)
        encodings = sum(passes)
        from_embeddings = two_steps(worker, encoded, rank, state=str(state))
    if rank == 0:
        log_probs: dict[str, Any] = {
            "at_start": flat(at_start),
            "at_end": flat(at_end),
            "without_adapter": flat(without_adapter),
        }
        log_probs |= {"reuse": {"pixels": from_pixels, "embeddings": from_embeddings, "encodings": encodings}}
        (output / f"{case}_{stage}.json").write_text(json.dumps({"steps": steps, "again": again, **log_probs}))
        np.savez(output / f"{case}_{stage}.npz", **weights)
        np.savez(output / f"{case}_{stage}_restored.npz", **restored)


def weights_of(worker: Any) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy().copy() for name, tensor in worker.engine.full_weights()}


def two_steps(worker: Any, groups: list[Any], rank: int, *, state: str) -> dict[str, Any]:
    """Reference and old log-probs and the update, twice from a checkpoint; how often the tower ran on this rank."""
    from workers.learner.learner import plan

    worker.load(state)
    share = plan(groups, num_ranks=2, max_tokens=70)[rank]
    found: dict[str, Any] = {"log_probs": [], "steps": []}
    with counted_tower(worker) as passes:
        for _ in range(2):
            found["log_probs"] += flat(log_probs_of(worker, groups, use_adapter=False))
            found["log_probs"] += flat(log_probs_of(worker, groups))
            found["steps"].append(one_step(worker, share, groups, stage="grpo"))
    return {**found, "tower_passes": sum(passes)}


@contextmanager
def counted_tower(worker: Any) -> Iterator[list[int]]:
    """A 1 for every forward pass of the vision tower inside."""
    passes: list[int] = []
    tower = next(part for name, part in worker.engine.module.named_modules() if name.endswith("visual"))
    hook = tower.register_forward_hook(lambda *_: passes.append(1))
    yield passes
    hook.remove()


def with_embeddings(worker: Any, groups: list[Any], rank: int) -> list[Any]:
    """The groups with their clips' visual embeddings, each encoded by one of the two ranks."""
    import torch

    from workers.learner.visual_store import encode_shares

    share = encode_shares([group.prompt for group in groups], num_ranks=2)[rank]
    with worker.engine.eval_mode():
        mine = [(handle, worker.engine.encode(None if handle is None else handle.ref)) for handle in share]
    gathered: list[Any] = [None, None]
    torch.distributed.all_gather_object(gathered, {h.clip_key: tensor for h, tensor in mine if h is not None})
    found = gathered[0] | gathered[1]
    return [replace(g, prompt=replace(g.prompt, visual=found[g.prompt.clip_key])) for g in groups]


def one_step(worker: Any, share: list[Any], groups: list[Any], *, stage: str) -> dict[str, float]:
    """This rank's loss; gradient norm and learning rate, equal on all ranks."""
    lengths = [len(ids) for group in groups for ids in group.response_ids]
    if stage == "sft":
        sums, shared = worker.sft_step(share, sum(lengths), 2)
    else:
        sums, shared = worker.update(share, update_spec(batch_tokens=sum(lengths), batch_responses=len(lengths)))
    return {"loss": sums.sums["loss"], **shared}


def make_worker(model_folder: str, *, case: str, num_ranks: int = 2) -> Any:
    from videor2_rl.config.sections import LoraConfig, OptimizerConfig
    from workers.learner.rank import LearnerWorker
    from workers.learner.verl_config import learner_worker_config

    backend, *variants = case.split("-")
    adapter = next((variant for variant in variants if variant in ADAPTERS), "")
    is_sgd, is_bfloat16 = "sgd" in variants, "bf16" in variants
    options = {"momentum": 0.9} if is_sgd else {}
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(rank=8 if adapter else 0, alpha=16, dropout=0.0, targets=targets, dora=adapter == "dora")
    learner = learner_config(
        backend=backend,
        num_ranks=num_ranks,
        learning_rate=0.03 if is_sgd else 1e-4,
        merger_learning_rate=None if is_sgd or adapter else 5e-5,
        lr_schedule="cosine",
        min_lr_frac=0.1,
        weight_decay=0.01,
        optimizer=OptimizerConfig(module="torch.optim", name="SGD" if is_sgd else "AdamW", options=options),
        max_tokens_per_micro_batch=70,
    )
    model = model_config(
        model_folder,
        dtype="bfloat16" if is_bfloat16 else "float32",
        freeze_merger=bool(adapter),
        lora=lora,
    )
    return LearnerWorker(learner_worker_config(learner, model, total_steps=STEPS))


def update_spec(*, batch_tokens: int, batch_responses: int, num_ranks: int = 2) -> Any:
    from workers.learner.verl_config import UpdateSpec

    algorithm = algorithm_config(num_steps=STEPS)
    return UpdateSpec(algorithm, 1.0, batch_tokens, batch_responses, num_ranks=num_ranks, max_response_tokens=None)


def log_probs_of(worker: Any, groups: list[Any], **options: Any) -> list[tuple[np.ndarray, ...]]:
    """Of each group's responses; both ranks compute all groups, so that both know them."""
    from workers.learner.learner import plan

    found = worker.log_probs(plan(groups, num_ranks=1, max_tokens=10_000)[0], 1.0, **options)
    return [values.at_temperature for values in found]


def flat(values: list[tuple[np.ndarray, ...]]) -> list[float]:
    return [float(value) for group in values for response in group for value in response]


if __name__ == "__main__":
    main()
