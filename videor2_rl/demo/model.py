"""A tiny Qwen2.5-VL or Qwen3-VL with tokenizer and processor, randomly initialised, in ordinary Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.demo.events import corpus
from videor2_rl.model.family import FamilyName
from videor2_rl.run.files import apply_umask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH_SIZE = 7
MERGE_SIZE = 2
_SPLIT = r"</?\w+>| ?\d\d:\d\d| [A-D]\.| \([A-D]\)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}<>]+|\s+|."
"""Times, tags and options are one token each; the Qwen2 tokenizer class would split times into digits."""
_INITIALIZER_RANGE = 0.07
"""With the usual 0.02 a model this small does not learn to tell the time within the demo's budget."""
_HIDDEN, _NUM_HEADS, _NUM_LAYERS = 128, 4, 4
_VISION_CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": _HIDDEN,
    "patch_size": PATCH_SIZE,
    "spatial_merge_size": MERGE_SIZE,
    "temporal_patch_size": 2,
    "initializer_range": _INITIALIZER_RANGE,
}
_STAMPS = [f"<{tenths / 10:.1f} seconds>" for tenths in range(0, 200, 5)]
"""What a Qwen3-VL reads before each pair of frames."""
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def make_model(folder: Path, *, seed: int, family: FamilyName = "qwen2_5_vl") -> None:
    """Write weights, config, tokenizer and processor to `folder`; the same seed gives the same bytes."""
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    tokenizer = make_tokenizer(family)
    config = _qwen3_vl_config(tokenizer) if family == "qwen3_vl" else _qwen2_5_vl_config(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    _make_processor(tokenizer, family).save_pretrained(folder)
    apply_umask(*folder.glob("*.safetensors"))


def _make_processor(tokenizer: PreTrainedTokenizerFast, family: FamilyName) -> Any:
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    processor, video_processor = (
        (Qwen3VLProcessor, Qwen3VLVideoProcessor)
        if family == "qwen3_vl"
        else (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor)
    )
    side = PATCH_SIZE * MERGE_SIZE * 2
    geometry: dict[str, Any] = {
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": side**2, "longest_edge": 64 * side**2},
    }
    return processor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        video_processor=video_processor(**geometry),
        tokenizer=tokenizer,
        chat_template=_CHAT_TEMPLATE,
    )


def make_tokenizer(family: FamilyName = "qwen2_5_vl") -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 400 tokens: every word of the demo is one token, and any other text still encodes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus() + (_STAMPS if family == "qwen3_vl" else []), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
    )


def _qwen2_5_vl_config(tokenizer: PreTrainedTokenizerFast) -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            **_text_config(tokenizer),
            "layer_types": ["full_attention"] * _NUM_LAYERS,
            # mrope_section: time, height, width; sums to half the head size (32 / 2).
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            **_VISION_CONFIG,
            "depth": 1,
            "fullatt_block_indexes": [0],
            "window_size": 8 * PATCH_SIZE,
            # As in the published checkpoints; the class default is 4.
            "tokens_per_second": 2,
        },
        initializer_range=_INITIALIZER_RANGE,
        **_top_config(tokenizer),
    )


def _qwen3_vl_config(tokenizer: PreTrainedTokenizerFast) -> Any:
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config={
            **_text_config(tokenizer),
            "head_dim": _HIDDEN // _NUM_HEADS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            **_VISION_CONFIG,
            "depth": 3,
            # After these blocks features go straight into the first layers of the language model.
            "deepstack_visual_indexes": [0, 1],
            # A learned grid of 6 x 6, interpolated to the frame's.
            "num_position_embeddings": 36,
        },
        **_top_config(tokenizer),
    )


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": _HIDDEN,
        "intermediate_size": 3 * _HIDDEN,
        "num_hidden_layers": _NUM_LAYERS,
        "num_attention_heads": _NUM_HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "initializer_range": _INITIALIZER_RANGE,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _top_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    token_id = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
