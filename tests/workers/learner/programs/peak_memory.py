"""One rank without Ray: the peak memory of two SFT steps above what the process held before it loaded the model.

python peak_memory.py PORT WARM_UP_FOLDER MODEL_FOLDER NUM_TOKENS,RESPONSE_TOKENS,CHECKPOINTING ...

Libraries that load with the first step are loaded by the warm-up's.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

import numpy as np
from learner_configs import learner_config, model_config
from packed_prompts import a_prompt


def main() -> None:
    port, warm_up, folder, *cases = sys.argv[1:]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from workers.learner.verl_config import learner_env

    os.environ.update(learner_env("cpu"), RAY_LOCAL_WORLD_SIZE="1")
    peak_bytes(warm_up, num_tokens=100, response_tokens=20, gradient_checkpointing=False)
    for case in cases:
        num_tokens, response_tokens, checkpointing = case.split(",")
        peak = peak_bytes(
            folder,
            num_tokens=int(num_tokens),
            response_tokens=int(response_tokens),
            gradient_checkpointing=checkpointing == "True",
        )
        print("PEAK", peak)


def peak_bytes(folder: str, *, num_tokens: int, response_tokens: int, gradient_checkpointing: bool) -> int:
    from transformers import AutoConfig

    from videor2_rl.model.packing import MicroBatch
    from videor2_rl.types import PromptHandle, TrainGroup
    from workers.learner.rank import LearnerWorker
    from workers.learner.verl_config import learner_worker_config

    learner = learner_config(learning_rate=1e-4, gradient_checkpointing=gradient_checkpointing)
    worker = LearnerWorker(learner_worker_config(learner, model_config(folder), total_steps=10))
    # Unlike in a run, freed blocks of 128 KiB or more go back to the system at once, so that none is counted twice.
    libc = ctypes.CDLL(None)
    for option, value in ((-1, 1 << 17), (-2, 0), (-3, 1 << 17)):
        libc.mallopt(option, value)
    video_token = AutoConfig.from_pretrained(folder).video_token_id
    # One pair of frames is four tokens, three of text stand before it.
    text = num_tokens - response_tokens - 7
    prompt = a_prompt(np.random.default_rng(1), video_token=video_token, frames=1, text=text)
    ids = np.random.default_rng(0).integers(20, 300, response_tokens)
    group = TrainGroup(0, PromptHandle("s", "c", len(prompt.token_ids), prompt), (ids,))
    gc.collect()
    # Writing 5 sets the peak to what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kib()
    worker.start(0)
    for _ in range(2):
        worker.sft_step([MicroBatch((group,))], response_tokens, 1)
    return (peak_kib() - before) * 1024


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


if __name__ == "__main__":
    main()
