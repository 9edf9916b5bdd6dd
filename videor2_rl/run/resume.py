"""Beginning a run, going on with one, or refusing to: what happens to a folder that a run wrote into before."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun, SftRun
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.folder import check_writable
from videor2_rl.run.storage import writing
from videor2_rl.types import VideoSample

FINISHED = "finished"
"""This file in a run's folder says that its last step is done."""
_OUTPUTS = (
    "checkpoints",
    "metrics.jsonl",
    "rollouts",
    "ledger.jsonl",
    "skipped.jsonl",
    "control.json",
    "pools.json",
    "evaluation",
    "hf",
    "tensorboard",
    "wandb",
    "wandb_run_id",
)
"""What a run leaves beside config.yaml, which is written anew, and the mark, which goes last."""
_EDGE_BYTES = 1 << 16


def check_run_dir(run_dir: Path, *, resume: bool, overwrite: bool | None, num_steps: int | None = None) -> None:
    """Whether a run may begin or go on in a folder, before anything slow is done; nothing in it changes.

    Args:
        resume: a stopped run is gone on with.
        overwrite: what a run left is removed; None: the app has no such option.
        num_steps: as in `start_run`, and 0: not known before the samples are.

    Raises:
        ConfigError: as `start_run`, or the folder cannot be written into, or another live run writes into it.
    """
    with writing("output_dir", run_dir):
        if num_steps != 0 and not overwrite and not (resume and is_longer(run_dir, num_steps)):
            _refuse_taken(run_dir, resume=resume, overwrite=overwrite, num_steps=num_steps)
        check_writable(run_dir)


def start_run(run_dir: Path, *, resume: bool, overwrite: bool | None, num_steps: int | None = None) -> None:
    """Make a run's folder; where it holds a run that cannot be gone on with, `overwrite` removes what that run left.

    Args:
        resume: a stopped run is gone on with.
        overwrite: None: the app has no such option.
        num_steps: of this run: a finished one with fewer is gone on with. None: a run without steps.

    Raises:
        ConfigError: without `overwrite`, the folder holds a finished run, or a stopped one while `resume` is off.
    """
    if is_finished(run_dir) and resume and is_longer(run_dir, num_steps):
        # What was exported is not this run's result. The mark goes last, as below.
        _remove(run_dir / "hf")
        _remove(run_dir / FINISHED)
    elif is_finished(run_dir) or (not resume and (run_dir / "metrics.jsonl").exists()):
        if not overwrite:
            _refuse_taken(run_dir, resume=resume, overwrite=overwrite, num_steps=num_steps)
        for name in _OUTPUTS:
            _remove(run_dir / name)
        # Last: as long as it is there, a run killed in here is not taken for one to go on with.
        _remove(run_dir / FINISHED)
    run_dir.mkdir(parents=True, exist_ok=True)


def is_finished(run_dir: Path) -> bool:
    """Whether the folder holds a run whose last step is done."""
    return (run_dir / FINISHED).exists()


def is_longer(run_dir: Path, num_steps: int | None) -> bool:
    """Whether there are steps left after the newest checkpoint of a finished run."""
    newest = Checkpoints(run_dir, keep=1).newest()
    return num_steps is not None and newest is not None and newest.step < num_steps


def _refuse_taken(run_dir: Path, *, resume: bool, overwrite: bool | None, num_steps: int | None) -> None:
    if is_finished(run_dir):
        state, mends = "finished", ["give more steps"] if num_steps else []
    elif not resume and (run_dir / "metrics.jsonl").exists():
        state, mends = "stopped", ["go on with checkpoint.resume=true"]
    else:
        return
    mends.append("give another output_dir")
    if overwrite is not None:
        mends.append("or begin anew with checkpoint.overwrite=true")
    raise ConfigError(f"output_dir: {run_dir} holds a {state} run; {', '.join(mends)}")


def remove_refused(run_dir: Path) -> None:
    """Take away a folder that this process made, where the run was refused before it came to anything."""
    metrics = run_dir / "metrics.jsonl"
    has_begun = metrics.exists() and metrics.stat().st_size > 0
    if not has_begun and not any((run_dir / name).exists() for name in ("checkpoints", "skipped.jsonl", "rollouts")):
        shutil.rmtree(run_dir)


def origin_of(run: GrpoRun | SftRun, samples: Sequence[VideoSample]) -> dict[str, Any]:
    """What a run must share with the one it goes on from: else its samples, or its frozen weights, would be others.

    The order of the samples is a pure function of these values and the step (`SampleOrder`), and so are group ids and
    the seed of every response (`sample_seed`): nothing else is needed to go on with the same sequence.
    """
    if isinstance(run, GrpoRun):
        batch = {"algorithm.prompts_per_step": run.algorithm.prompts_per_step}
    else:
        batch = {"sft.batch_size": run.sft.batch_size}
    ids = "\n".join(sample.sample_id for sample in samples)
    return {
        "seed": run.seed,
        "data.shuffle": run.data.shuffle,
        **batch,
        "data.train_file": f"{len(samples)} rows (crc32 of their ids {zlib.crc32(ids.encode()):08x})",
        "learner.optimizer": f"{run.learner.optimizer.module}.{run.learner.optimizer.name}",
        "model.path": _weights_mark(Path(run.model.path).expanduser()),
    }


def _weights_mark(model: Path) -> str:
    """Tells one model folder from another without reading all of it: sizes and edges of the weight files."""
    files = sorted([*model.glob("*.safetensors"), *model.glob("*.bin")])
    size = crc32 = 0
    for path in files:
        length = path.stat().st_size
        size += length
        with path.open("rb") as file:
            crc32 = zlib.crc32(file.read(_EDGE_BYTES), crc32)
            file.seek(max(0, length - _EDGE_BYTES))
            crc32 = zlib.crc32(file.read(), crc32)
    return f"weights of {size} bytes (crc32 of their edges {crc32:08x})"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
