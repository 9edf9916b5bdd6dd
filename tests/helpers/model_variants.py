"""Checkpoints that differ from the demo's tiny one in what a test is about, with its tokenizer and video processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def make_variant(folder: Path, *, tied: bool = True, dtype: str = "float32", **text: Any) -> None:
    """Write a checkpoint of random weights.

    Args:
        tied: the head shares the embeddings' weights.
        dtype: of the weights in the file.
        text: of the language model's configuration, e.g. hidden_size.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from videor2_rl.demo.model import make_model

    make_model(folder, seed=0)
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    for name, value in text.items():
        setattr(config.text_config, name, value)
    config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    config.vision_config.out_hidden_size = config.text_config.hidden_size
    torch.manual_seed(0)
    network = AutoModelForImageTextToText.from_config(config)
    network.to(getattr(torch, dtype)).save_pretrained(folder)
