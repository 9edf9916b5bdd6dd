"""One rank without Ray: the most bytes that two SFT steps held, of one micro-batch and of two, weights included.

python peak_memory.py RANK PORT MODEL_FOLDER,NUM_TOKENS,RESPONSE_TOKENS,CHECKPOINTING ...
"""

from __future__ import annotations

import os
import sys

import numpy as np
from learner_configs import learner_config, model_config
from live_storage import LiveStorage
from packed_prompts import a_prompt


def main() -> None:
    rank, port, *cases = sys.argv[1:]
    os.environ.update(RANK=rank, WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from workers.learner.verl_config import learner_env

    os.environ.update(learner_env("cpu"), RAY_LOCAL_WORLD_SIZE="1")
    for case in cases:
        folder, num_tokens, response_tokens, checkpointing = case.split(",")
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
    video_token = AutoConfig.from_pretrained(folder).video_token_id
    # One pair of frames is four tokens, three of text stand before it.
    text = num_tokens - response_tokens - 7
    prompt = a_prompt(np.random.default_rng(1), video_token=video_token, frames=1, text=text)
    ids = np.random.default_rng(0).integers(20, 300, response_tokens)
    group = TrainGroup(0, PromptHandle("s", "c", len(prompt.token_ids), prompt), (ids,))
    worker.start(0)
    shards = [parameter.to_local() for parameter in worker.engine.module.parameters()]
    with LiveStorage(before=shards) as live:
        # The second step runs beside the optimiser's state, its second micro-batch beside the gradients of its first.
        for num_micro_batches in (1, 2):
            worker.sft_step([MicroBatch((group,))] * num_micro_batches, num_micro_batches * response_tokens, 1)
    return live.peak + sum(shard.untyped_storage().nbytes() for shard in shards)


if __name__ == "__main__":
    main()
