"""Published checkpoints without their weights: config.json, sizes counted by hand from it, tokenizer and processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from videor2_rl.app import compose_run
from videor2_rl.config.runs import SftRun

FOLDER = Path(__file__).parents[1] / "published"
TOTALS = {
    "Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen2.5-VL-32B-Instruct": 33_452_718_336,
    "Qwen3-VL-8B-Instruct": 8_767_123_696,
}
"""Parameters, a shared embedding once: half of each checkpoint's bytes in bfloat16 as the Hub shows them."""
NAMES = tuple(TOTALS)
QWEN2_5_VL = NAMES[:3]
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""With ids from 151,643 on in both families' tokenizer_config.json; ordinary added tokens follow them."""
FIRST_SPECIAL_ID = 151_643
_ORDINARY_TOKENS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- for part in message['content'] -%}
{%- if part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def read_config(name: str) -> dict[str, Any]:
    """config.json as published."""
    return json.loads((FOLDER / name / "config.json").read_text())


def text_config(name: str) -> dict[str, Any]:
    """The language model's numbers; Qwen2.5-VL publishes them at the top."""
    config = read_config(name)
    return config.get("text_config", config)


def paper_run(folder: Path, *, lora_rank: int = 64) -> SftRun:
    """The paper's SFT of the checkpoint, with its adapters, tower and merger frozen; 0: of the weights themselves."""
    family = json.loads((folder / "config.json").read_text())["model_type"]
    overrides = ["experiment=video_r2_7b_sft", f"model={family}_lora", f"model.lora.rank={lora_rank}"]
    overrides += ["learner.backend=fsdp2"]
    files = [f"model.path={folder}", "data.train_file=rows.json", "data.media_dir=clips"]
    return compose_run("sft", SftRun, overrides + files)


def build(name: str) -> Any:
    """The model as transformers builds it, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(FOLDER / name))
    network.tie_weights()
    return network


def parameters_by_part(name: str) -> dict[str, int]:
    """Of vision tower, merger and language model, counted from the published numbers alone."""
    config = read_config(name)
    text = text_config(name)
    language = layer_parameters(text) * text["num_hidden_layers"] + text["hidden_size"]
    language += text["vocab_size"] * text["hidden_size"] * (1 if config["tie_word_embeddings"] else 2)
    count = _vision_parts_qwen3 if config["model_type"] == "qwen3_vl" else _vision_parts_qwen2_5
    return {"language_model": language, **count(config["vision_config"])}


def layer_parameters(text: dict[str, Any]) -> int:
    """Of one decoder layer: linear layers, two norms, and biases (Qwen2.5) or norms (Qwen3) of queries and keys."""
    weights = sum(rows * columns for rows, columns in linear_shapes(text).values())
    queries, keys = (linear_shapes(text)[key][0] for key in ("self_attn.q_proj", "self_attn.k_proj"))
    beside = 2 * text["head_dim"] if "head_dim" in text else queries + 2 * keys
    return weights + beside + 2 * text["hidden_size"]


def linear_shapes(text: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a decoder layer's linear layers."""
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    head = text.get("head_dim", hidden // text["num_attention_heads"])
    queries, keys = head * text["num_attention_heads"], head * text["num_key_value_heads"]
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def _vision_parts_qwen2_5(vision: dict[str, Any]) -> dict[str, int]:
    """RMS norms, a gated MLP with biases, no position table (arXiv:2502.13923: 32 blocks, patches of 2 x 14 x 14)."""
    width, inner, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    block = _linear(width, 3 * width) + _linear(width, width) + 2 * width
    block += 2 * _linear(width, inner) + _linear(inner, width)
    merger = width + _linear(4 * width, 4 * width) + _linear(4 * width, out)
    return {"vision_tower": 32 * block + 3 * 2 * 14 * 14 * width, "merger": merger}


def _vision_parts_qwen3(vision: dict[str, Any]) -> dict[str, int]:
    """Layer norms, a plain MLP, a position table, and a merger more for each DeepStack level (arXiv:2511.21631)."""
    width, inner, out = vision["hidden_size"], vision["intermediate_size"], vision["out_hidden_size"]
    block = _linear(width, 3 * width) + _linear(width, width) + 4 * width
    block += _linear(width, inner) + _linear(inner, width)
    tower = vision["depth"] * block + _linear(3 * 2 * 16 * 16, width) + vision["num_position_embeddings"] * width
    projection = _linear(4 * width, 4 * width) + _linear(4 * width, out)
    # DeepStack's mergers normalise after four patches have become one row, the last one before.
    mergers = 2 * width + projection + len(vision["deepstack_visual_indexes"]) * (8 * width + projection)
    return {"vision_tower": tower, "merger": mergers}


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def make_folder(folder: Path, name: str) -> Path:
    """`folder` with config.json, a tokenizer with the published ids of added tokens, and the published processor.

    Text is one token a byte: the vocabulary of 151,643 pieces is not needed to place pictures in it.
    """
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    shutil.copy(FOLDER / name / "config.json", folder)
    if name in QWEN2_5_VL:
        # preprocessor_config.json of all three; mean and std are the classes' own.
        geometry: dict[str, Any] = {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}
        classes: Any = (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor)
    else:
        # video_preprocessor_config.json.
        geometry = {"patch_size": 16, "size": {"shortest_edge": 4096, "longest_edge": 25_165_824}}
        geometry |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
        classes = (Qwen3VLProcessor, Qwen3VLVideoProcessor)
    geometry |= {"merge_size": 2, "temporal_patch_size": 2}
    classes[0](
        image_processor=Qwen2VLImageProcessor(**geometry),
        video_processor=classes[1](**geometry),
        tokenizer=_tokenizer(),
        chat_template=_CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    # In place of the published pieces, which no text reaches without their merges.
    vocabulary |= {f"piece {i}": i for i in range(len(vocabulary), FIRST_SPECIAL_ID)}
    added = (*SPECIAL_TOKENS, *_ORDINARY_TOKENS)
    vocabulary |= {token: FIRST_SPECIAL_ID + i for i, token in enumerate(added)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in _ORDINARY_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
    )
