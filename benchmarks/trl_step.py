"""The step of `learner_step.py` in TRL's GRPO trainer: reads a line, does a step, prints its CPU seconds.

Runs in an environment with trl. Prompts and responses are the same; TRL takes no video, so each clip goes in as one
image of as many temporal patches, which is the same patches, the same number of tokens and the same work in the tower.
Each micro-batch is one group. Generation is left out: the responses are given.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import GROUP_SIZE, SHAPES, Shape, make_prompts
from videor2_rl.model.prompt import normalize_patches


def main() -> None:
    """Serve steps until the input ends."""
    folder, shape = Path(sys.argv[1]), SHAPES[sys.argv[2]]
    torch.set_num_threads(1)
    trainer = make_trainer(folder)
    batches = make_batches(folder, shape, image_token=trainer.model.config.image_token_id)
    for _ in sys.stdin:
        started = time.process_time()
        old_s = step(trainer, batches)
        print("CPU", time.process_time() - started, old_s, flush=True)


def make_trainer(folder: Path) -> Any:
    """Float32, SDPA, AdamW, a KL term; everything else as TRL has it."""
    from datasets import Dataset
    from transformers import AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        beta=0.04,
        num_generations=GROUP_SIZE,
        per_device_train_batch_size=GROUP_SIZE,
        temperature=0.9,
        learning_rate=1e-6,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
    )
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "x"}] * GROUP_SIZE),
        processing_class=AutoProcessor.from_pretrained(folder),
    )
    trainer.model.model.visual.requires_grad_(False)
    trainer.create_optimizer()
    return trainer


def make_batches(folder: Path, shape: Shape, *, image_token: int) -> list[dict[str, Any]]:
    """One batch per group, as TRL's own preparation lays it out."""
    from transformers import AutoConfig, AutoProcessor

    video_token = AutoConfig.from_pretrained(folder).video_token_id
    video = AutoProcessor.from_pretrained(folder).video_processor
    batches = []
    for prompt, responses in zip(*make_prompts(folder, shape), strict=True):
        ids = torch.tensor(prompt.token_ids).expand(GROUP_SIZE, -1).clone()
        ids[ids == video_token] = image_token
        completions = torch.stack([torch.tensor(response) for response in responses])
        pixels = normalize_patches(torch.tensor(prompt.patches), mean=video.image_mean, std=video.image_std)
        batches.append(
            {
                "prompt_ids": ids,
                "prompt_mask": torch.ones_like(ids),
                "completion_ids": completions,
                "completion_mask": torch.ones_like(completions),
                "advantages": torch.linspace(-1.5, 1.5, GROUP_SIZE),
                "pixel_values": pixels.repeat(GROUP_SIZE, 1),
                "image_grid_thw": torch.tensor(prompt.video_grid_thw).repeat(GROUP_SIZE, 1),
                "num_images": [1] * GROUP_SIZE,
                "mm_token_type_ids": torch.cat(
                    [(ids == image_token).int(), torch.zeros_like(completions).int()], dim=1
                ),
                "num_items_in_batch": torch.tensor(shape.prompts * GROUP_SIZE * shape.response_tokens),
            }
        )
    return batches


def step(trainer: Any, batches: list[dict[str, Any]]) -> float:
    """Reference, old log-probs, loss and gradients, optimiser; returns the CPU seconds of the old log-probs."""
    vision = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")

    def log_probs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        inputs = {name: batch[name] for name in vision}
        with torch.no_grad():
            values, _, _ = trainer._get_per_token_logps_and_entropies(
                model, ids, torch.ones_like(ids), batch["completion_ids"].shape[1], **inputs
            )
        return values

    ready = [{**batch, "ref_per_token_logps": log_probs(trainer.ref_model, batch)} for batch in batches]
    before_old = time.process_time()
    ready = [{**batch, "old_per_token_logps": log_probs(trainer.model, batch)} for batch in ready]
    old_s = time.process_time() - before_old
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = len(batches)
    for batch in ready:
        trainer._compute_loss(trainer.model, batch).backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return old_s


if __name__ == "__main__":
    main()
