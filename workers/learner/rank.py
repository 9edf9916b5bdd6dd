"""One rank of the learner or of the reference: a verl training worker that takes packed groups.

Runs inside Ray; `workers.learner.learner` and `workers.learner.reference` are the driver's side.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
from verl.single_controller.base.decorator import register
from verl.utils.device import get_device_id, get_device_name
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker

from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.errors import ConfigError
from videor2_rl.model.packing import MicroBatch, PackedBatch
from videor2_rl.model.token_scores import TokenScores
from videor2_rl.model.weights import expected_weights
from videor2_rl.run.files import FileSum
from videor2_rl.run.shards import StoredTensors
from videor2_rl.training.gap import exceeds
from videor2_rl.types import LogProbs, PromptHandle, TokenValues, TrainGroup
from workers.learner import losses
from workers.learner.engines.fsdp import PackedFSDPEngine
from workers.learner.engines.state import RankState, random_state, restore_random_state
from workers.learner.export import check_free, write_model
from workers.learner.losses import LossSums
from workers.learner.verl_config import UpdateSpec, actor_config
from workers.learner.visual_store import EncodedClip
from workers.memory import process_memory
from workers.weights.group import GroupAddress
from workers.weights.plan import Bucket, Gathered
from workers.weights.sender import WeightSender

if TYPE_CHECKING:
    from verl.utils.flops_counter import FlopsCounter


def _one_share_each(worker_group: Any, shares: list[Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Dispatch the first argument's elements to the ranks, one each, and everything else to all of them."""
    size = worker_group.world_size
    return (shares, *([arg] * size for arg in args)), {name: [value] * size for name, value in kwargs.items()}


def _same_for_all(worker_group: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    size = worker_group.world_size
    return tuple([arg] * size for arg in args), {name: [value] * size for name, value in kwargs.items()}


def _references(worker_group: Any, output: list[Any]) -> list[Any]:
    return output


SHARES = {"dispatch_fn": _one_share_each, "collect_fn": _references}
EVERY_RANK = {"dispatch_fn": _same_for_all, "collect_fn": _references}


def threads_beside_a_gpu(num_cpus: int, *, num_gpus: float) -> int:
    """A GPU's share of its node's CPUs: loading, casting, and with `learner.cpu_offload` the optimiser run on them."""
    return max(1, num_cpus // max(1, int(num_gpus)))


def node_gpus() -> float:
    """GPUs of the Ray node that this process is on, whoever holds them."""
    here = ray.get_runtime_context().get_node_id()
    return next(node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeID"] == here)


class LearnerWorker(TrainingWorker):
    """A rank; methods that take micro-batches must be called on all ranks with equally many."""

    engine: PackedFSDPEngine
    _saving: Future[dict[str, FileSum]]

    def __init__(self, config: TrainingWorkerConfig) -> None:
        if get_device_name() == "cpu":
            from workers.learner.engines.cpu_platform import init_cpu_process_group, keep_freed_memory

            keep_freed_memory()
            if not torch.distributed.is_initialized():
                init_cpu_process_group()
        else:
            # Ray gives a process as many threads as it counts CPUs for it, which on a GPU is one.
            torch.set_num_threads(threads_beside_a_gpu(len(os.sched_getaffinity(0)), num_gpus=node_gpus()))
        super().__init__(config=config)
        self._token_values: list[TokenValues] = []

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def start(self, seed: int) -> None:
        """Load the checkpoint, shard it, build the optimiser."""
        torch.manual_seed(seed)
        self.engine.initialize()
        self._sender = WeightSender(dtype=self.engine.compute_dtype, device=torch.device(get_device_id()))

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def memory(self) -> dict[str, float]:
        """Of this rank's process, in MiB by kind."""
        return process_memory()

    @register(dispatch_mode=SHARES, blocking=False)
    def encode(self, share: list[PromptHandle | None]) -> list[EncodedClip | None]:
        """Put the visual embeddings of the prompts' clips into the object store; None takes part and yields None."""
        with self.engine.eval_mode():
            encoded = [self.engine.encode(None if handle is None else ray.get(handle.ref)) for handle in share]
        return [
            None if handle is None else EncodedClip(handle.clip_key, ray.put(embeddings), embeddings.nbytes)
            for handle, embeddings in zip(share, encoded, strict=True)
        ]

    @register(dispatch_mode=SHARES, blocking=False)
    def log_probs(self, share: list[MicroBatch], temperature: float, use_adapter: bool = True) -> list[LogProbs]:
        """Log-probs of every group in the share that counts, in order; without the LoRA adapter, of the start."""

        def collect(scores: TokenScores, batch: PackedBatch, micro_batch: MicroBatch) -> tuple[None, list[LogProbs]]:
            return None, _by_group(scores, batch=batch, micro_batch=micro_batch)

        adapter = nullcontext() if use_adapter else self.engine.without_adapter()
        with self.engine.eval_mode(), adapter:
            results = self.engine.forward_backward_batch(
                _resolved(share), collect, temperature=temperature, forward_only=True
            )
        counted = zip(share, results, strict=True)
        return [log_probs for micro_batch, result in counted if micro_batch.counts for log_probs in result]

    @register(dispatch_mode=SHARES, blocking=False)
    def update(self, share: list[MicroBatch], spec: UpdateSpec) -> tuple[LossSums, dict[str, Any]]:
        """One policy optimiser step; this rank's sums, and what is equal on all ranks.

        Where the groups have no old log-probs, the gap to those of the rollouts, on all ranks together, is among the
        latter; beyond its limits there is no step, and nothing else.
        """
        loss_function = partial(losses.policy_loss, spec=spec, config=actor_config(spec))
        is_first_pass = share[0].groups[0].old_log_probs is None
        limits = spec.algorithm if is_first_pass else None
        sums, common, results = self._step(share, loss_function, temperature=spec.temperature, limits=limits)
        counted = [(batch, found["tokens"]) for batch, found in zip(share, results, strict=True) if batch.counts]
        self._token_values += [one for batch, tokens in counted for one in losses.token_values(batch, tokens)]
        return sums, common

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def take_token_values(self) -> list[TokenValues]:
        """What the updates since the last call of this found for the tokens of this rank's responses."""
        taken, self._token_values = self._token_values, []
        return taken

    @register(dispatch_mode=SHARES, blocking=False)
    def sft_step(self, share: list[MicroBatch], batch_tokens: int, num_ranks: int) -> tuple[LossSums, dict[str, float]]:
        """One supervised optimiser step; returns as `update`."""
        loss_function = partial(losses.sft_loss, batch_tokens=batch_tokens, num_ranks=num_ranks)
        return self._step(share, loss_function, temperature=1.0)[:2]

    @register(dispatch_mode=SHARES, blocking=False)
    def sft_loss(self, share: list[MicroBatch], batch_tokens: int, num_ranks: int) -> LossSums:
        """The supervised loss without gradients."""
        loss_function = partial(losses.sft_loss, batch_tokens=batch_tokens, num_ranks=num_ranks)
        with self.engine.eval_mode():
            results = self.engine.forward_backward_batch(
                _resolved(share), loss_function, temperature=1.0, forward_only=True
            )
        return losses.to_sums(results)

    def _step(
        self, share: list[MicroBatch], loss_function: Any, *, temperature: float, limits: AlgorithmConfig | None = None
    ) -> tuple[LossSums, dict[str, Any], list[dict[str, Any]]]:
        """Sums, what is equal on all ranks, and what the loss function found in each micro-batch."""
        learning_rate = self.engine.lr_scheduler.get_last_lr()[0]
        started = time.perf_counter()
        with self.engine.train_mode():
            self.engine.optimizer_zero_grad()
            results = self.engine.forward_backward_batch(_resolved(share), loss_function, temperature=temperature)
            gap = None if limits is None else losses.gap_on_all_ranks(results)
            if limits is not None and exceeds(gap, limits):
                self.engine.optimizer_zero_grad()
                return losses.to_sums(results), {"gap": gap}, results
            grad_norm = self.engine.optimizer_step()
        lengths = [group.num_tokens for batch in share for group in batch.groups]
        # verl's table has one figure for every CPU.
        counter = None if get_device_name() == "cpu" else self.flops_counter
        rate = utilisation(counter, lengths, time.perf_counter() - started)
        self.engine.lr_scheduler_step()
        # verl leaves the weights as they are when the gradient is not finite.
        skipped = float(not np.isfinite(grad_norm))
        common = {"grad_norm": grad_norm, "lr": learning_rate, "skipped_update": skipped, **rate}
        return losses.to_sums(results), common if limits is None else {**common, "gap": gap}, results

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def gather_bucket(self, index: int, bucket: Bucket, keeps_base: bool, only_changes: bool) -> Gathered | None:
        """Gather some of the weights in the model's dtype; rank 0 holds them, and says what it would send."""
        tensors = self.engine.full_weights(only=frozenset(bucket.names))
        if self.rank == 0:
            return self._sender.fill(index, bucket, tensors, keeps_base=keeps_base, only_changes=only_changes)
        for _ in tensors:
            pass
        return None

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def send_bucket(self) -> None:
        """Rank 0 sends to the group what was gathered last; other ranks do nothing, here and below."""
        if self.rank == 0:
            self._sender.send()

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def store_bucket(self) -> Any:
        """Put what was gathered last into the object store."""
        return ray.put(self._sender.stored()) if self.rank == 0 else None

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def drop_bucket(self) -> None:
        """Let go of what was gathered last."""
        if self.rank == 0:
            self._sender.drop()

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def open_group(self, deadline_s: float) -> tuple[str, int] | None:
        """Open a meeting place for the group that carries weights: its host and port."""
        if self.rank != 0:
            return None
        host = ray.util.get_node_ip_address().strip("[]")
        return host, self._sender.open(host, deadline_s=deadline_s)

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def join_group(self, address: GroupAddress) -> None:
        """Meet the engines there."""
        if self.rank == 0:
            self._sender.join(address)

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def export(self, path: str) -> None:
        """Write an ordinary Hugging Face folder, complete or not at all.

        Raises:
            ConfigError: `path` exists and is not an empty folder.
        """
        if self.rank != 0:
            self._gather_only()
            return
        target = Path(path)
        try:
            check_free(target)
        except ConfigError:
            # The other ranks wait in the gather; let them finish before this rank fails.
            self._gather_only()
            raise
        tied = expected_weights(self.model_config.path).tied
        weights = {name: tensor.to("cpu", copy=True) for name, tensor in self.engine.full_weights() if name not in tied}
        write_model(Path(self.model_config.path), target, weights)

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def save(self, path: str) -> None:
        """Copy this rank's state to host memory and begin to write it into the folder; `finish_save` waits for it."""
        state = RankState(
            fragments=self.engine.state(),
            lr_scheduler=self.engine.lr_scheduler.state_dict(),
            random=random_state(),
        )
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving = thread.submit(state.write, Path(path), rank=self.rank, num_ranks=self.world_size)
        thread.shutdown(wait=False)

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def finish_save(self) -> dict[str, FileSum]:
        """Wait until what `save` began is on the disk; this rank's files. Raises what writing raised."""
        return self._saving.result()

    @register(dispatch_mode=EVERY_RANK, blocking=False)
    def load(self, path: str) -> None:
        """Restore what `save` wrote; the next step is the one that would have followed.

        Written by as many ranks, it is restored to the last bit. Otherwise ranks share the old ones' random states
        (only LoRA's dropout uses them), and sums over ranks are rounded differently.

        Raises:
            ConfigError: the checkpoint is of other trained parameters than this run's.
        """
        state = RankState.read(Path(path), rank=self.rank)
        self.engine.restore(StoredTensors(Path(path)))
        self.engine.lr_scheduler.load_state_dict(dict(state.lr_scheduler))
        groups = self.engine.lr_scheduler.optimizer.param_groups
        for group, learning_rate in zip(groups, self.engine.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = learning_rate
        restore_random_state(state.random)

    def _gather_only(self) -> None:
        for _ in self.engine.full_weights():
            pass


def _resolved(share: Sequence[MicroBatch]) -> list[MicroBatch]:
    """The micro-batches with prompts and embeddings in place of references, all fetched at once."""
    handles = [group.prompt for batch in share for group in batch.groups]
    refs = {ref for handle in handles for ref in (handle.ref, handle.visual) if isinstance(ref, ray.ObjectRef)}
    found = dict(zip(refs, ray.get(list(refs)), strict=True)) if refs else {}

    def value(ref: Any) -> Any:
        return found[ref] if isinstance(ref, ray.ObjectRef) else ref

    def resolved(group: TrainGroup) -> TrainGroup:
        handle = group.prompt
        return replace(group, prompt=replace(handle, ref=value(handle.ref), visual=value(handle.visual)))

    return [replace(batch, groups=tuple(map(resolved, batch.groups))) for batch in share]


def utilisation(counter: FlopsCounter | None, lengths: Sequence[int], seconds: float) -> dict[str, float]:
    """`mfu`: model FLOP/s of a training step over what the device can do; nothing where verl does not know the device.

    Args:
        lengths: tokens of this rank's packed sequences.
    """
    if counter is None:
        return {}
    reached, possible = counter.estimate_flops(list(lengths), seconds)
    return {"mfu": reached / possible} if np.isfinite(possible) and reached > 0 else {}


def _by_group(scores: TokenScores, *, batch: PackedBatch, micro_batch: MicroBatch) -> list[LogProbs]:
    """One LogProbs per group."""
    responses = zip(
        (values.cpu().numpy() for values in scores.log_probs.split(list(batch.response_lengths))),
        (values.cpu().numpy() for values in scores.raw_log_probs.split(list(batch.response_lengths))),
        strict=True,
    )
    results = []
    for group in micro_batch.groups:
        pairs = [next(responses) for _ in group.response_ids]
        # Copies: views would send the whole micro-batch with every response.
        results.append(
            LogProbs(
                group_id=group.group_id,
                at_temperature=tuple(np.array(scaled) for scaled, _ in pairs),
                raw=tuple(np.array(plain) for _, plain in pairs),
            )
        )
    return results
