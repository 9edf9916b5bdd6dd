"""One step of TRL's GRPO trainer with this project's reward, on the CPU; prints as JSON what TRL logged.

    python trl_step.py FOLDER BLOCK

Runs in an environment with trl. BLOCK is the example of docs/integrations.md, run as it stands there; the policy is a
tiny language model that says what stands in SAID, one text after the other.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from videor2_rl.demo.model import make_tokenizer
from videor2_rl.integrations.trl import video_r2_rewards

RIGHT = "<think>At 00:02 a red square appears. The first is red (A).</think><answer>A</answer>"
SAID = (RIGHT, RIGHT.replace("<answer>A", "<answer>C"), RIGHT.replace("00:02", "00:08"), "red")
QUESTION = "Which colour appears first? A. red B. green C. blue D. yellow"
ROW = {
    "prompt": [{"role": "user", "content": QUESTION}],
    "solution": "<answer>A</answer>",
    "temporal_grounding": {"00:02": "A red square appears."},
    "difficulty": 0.5,
}
# Arrow gives both rows both keys.
OTHER_ROW = {**ROW, "temporal_grounding": {"00:04": "A blue circle appears."}}


class Scripted(Qwen2ForCausalLM):
    """Generates the texts of SAID; everything else is the model's own."""

    tokenizer: Any

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        answers = [self.tokenizer(SAID[row % len(SAID)])["input_ids"] for row in range(len(input_ids))]
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        width = max(map(len, answers)) + 1
        padded = [[*ids, end, *[pad] * (width - len(ids) - 1)] for ids in answers]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)


def main() -> None:
    folder, block = Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8")
    os.chdir(folder)
    torch.manual_seed(0)
    (folder / "own.py").write_text(
        "def rated(reading):\n"
        "    if reading.response == 'red':\n"
        "        raise RuntimeError('not this one')\n"
        "    return reading.context.extra['difficulty']\n"
    )
    print(json.dumps({"block": as_in_the_document(block, folder), "terms": term_by_term(folder)}))


def make_model(folder: Path) -> Scripted:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    tokenizer.padding_side = "left"
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Scripted(config)
    model.tokenizer = tokenizer
    tokenizer.save_pretrained(folder / "model")
    model.config._name_or_path = str(folder / "model")
    return model


def rows() -> Dataset:
    return Dataset.from_list([ROW, OTHER_ROW])


def config_in(folder: Path, **changes: Any) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(folder / "run"),
        num_generations=len(SAID),
        per_device_train_batch_size=len(SAID),
        max_steps=1,
        max_completion_length=64,
        use_cpu=True,
        bf16=False,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        **changes,
    )


def as_in_the_document(block: str, folder: Path) -> dict[str, float]:
    names: dict[str, Any] = {"model": make_model(folder), "rows": rows(), "config": config_in(folder)}
    exec(compile(block, "docs/integrations.md", "exec"), names)
    return logged(names["trainer"])


def term_by_term(folder: Path) -> dict[str, float]:
    """Each term by a function of its own, with one of the user's that fails on a response."""
    own = [f"+reward.extra.rated.function={folder}/own.py:rated", "+reward.extra.rated.weight=2.0"]
    rewards = video_r2_rewards("video_r2", own)
    trainer = GRPOTrainer(
        model=make_model(folder),
        reward_funcs=rewards.terms,
        args=config_in(folder, reward_weights=rewards.weights),
        train_dataset=rows(),
    )
    trainer.train()
    return logged(trainer)


def logged(trainer: Any) -> dict[str, float]:
    merged: dict[str, float] = {}
    for entry in trainer.state.log_history:
        merged |= {name: value for name, value in entry.items() if isinstance(value, int | float)}
    return merged


if __name__ == "__main__":
    main()
