"""What `grpo_step.py` trains on, for both sides: a checkpoint, clips and rows of one of the two shapes.

The checkpoint is one of `shapes.py` that knows what to write: random layers between embeddings and an output layer
which makes every token's successors likely. So each response is a think block, an answer and no end token: always of
the shape's length, nearly never the same as another one, and of a form that rewards can read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.shapes import PATCH, Shape, make_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

FPS = 2.0
"""Frames a second that both sides take of a clip; what a clip holds is as long as it must be for them."""
CLIP_SIZES = {"W1": (160, 120, 10), "W2": (560, 504, 24)}
"""Width and height in pixels, frames a second."""
LETTERS = ("A", "B")
_SHARPNESS = 2.0
"""Of the output layer: what is no successor is sampled about once in ten million tokens."""
_NOT_THE_END = 6.0
_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}
{%- else -%}{{- '<|vision_start|><|' + part['type'] + '_pad|><|vision_end|>' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def frame_pixels(shape: Shape) -> tuple[int, int]:
    """Height and width of a frame as the model gets it."""
    return shape.grid[1] * PATCH, shape.grid[2] * PATCH


def write_workload(folder: Path, shape: Shape, *, steps: int) -> None:
    """`model/`, `clips/*.mp4` and `rows.json` in the paper's layout: a clip for each row, as in a run's first epoch."""
    from transformers import AutoProcessor

    make_checkpoint(folder / "model", shape)
    processor = AutoProcessor.from_pretrained(folder / "model")
    processor.chat_template = _TEMPLATE
    processor.save_pretrained(folder / "model")
    follows = successors(processor.tokenizer, length=shape.response_tokens)
    teach_successors(folder / "model", follows, end_token=processor.tokenizer.eos_token_id)
    question = question_of(processor.tokenizer, shape)
    (folder / "clips").mkdir()
    rows = []
    for index in range(steps * shape.prompts):
        write_clip(folder / "clips" / f"{index}.mp4", shape, seed=index)
        rows.append(
            {
                "id": f"row-{index}",
                "video": f"clips/{index}.mp4",
                "conversations": [
                    {"from": "human", "value": f"<video>\n{question}"},
                    {"from": "gpt", "value": f"<answer>{LETTERS[index % len(LETTERS)]}</answer>"},
                ],
                "problem_type": "multiple choice",
                "options": ["red", "blue"],
                "temporal_grounding": {
                    "00:00": f"The red square of clip {index} moves to the left.",
                    "00:01": f"The blue circle of clip {index} appears.",
                },
            }
        )
    (folder / "rows.json").write_text(json.dumps(rows))


def question_of(tokenizer: PreTrainedTokenizerBase, shape: Shape) -> str:
    """Words enough to make the prompt as long as the shape's."""
    from jinja2 import Template

    user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which"}]}
    least = Template(_TEMPLATE).render(messages=[user], add_generation_prompt=True)
    # The placeholder becomes one token for each merged patch.
    missing = shape.prompt_tokens - shape.video_tokens + 1 - len(tokenizer(least)["input_ids"])
    return "Which" + " colour" * missing


def successors(tokenizer: PreTrainedTokenizerBase, *, length: int) -> list[tuple[list[int], list[int]]]:
    """Which tokens follow which, in a response of `length` tokens; at most places either of two.

    No token stands at two places, and the first place follows what ends the prompt.
    """
    ids = tokenizer.convert_tokens_to_ids
    tail = [[ids("</think>")], [ids("<answer>")], [ids(letter) for letter in LETTERS], [ids("</answer>")]]
    taken = {token for place in tail for token in place} | {ids("<think>")}
    words = [token for token in range(len(tokenizer)) if token not in taken and is_word(tokenizer.decode([token]))]
    num_words = length - len(tail) - 1
    places = [[ids("<think>")], *(words[2 * i : 2 * i + 2] for i in range(num_words)), *tail]
    assert all(places), f"{len(words)} words are too few for a response of {length} tokens"
    before_all = [tokenizer("\n")["input_ids"][-1]]
    return list(zip([before_all, *places], places, strict=False))


def is_word(text: str) -> bool:
    """Whether a token may stand anywhere in a block."""
    return text.isascii() and text.isprintable() and bool(text.strip()) and not set("<>") & set(text)


def teach_successors(folder: Path, follows: list[tuple[list[int], list[int]]], *, end_token: int) -> None:
    """Give a checkpoint an output layer of its own, under which the given tokens follow each other.

    All other tokens have logits of about 0, the end token one that is never sampled.
    """
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, tie_word_embeddings=False)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    with torch.no_grad():
        # The layers add little to embeddings of this size, so the last hidden state is nearly the token's own.
        embeddings = torch.randn_like(model.model.language_model.embed_tokens.weight)
        head = torch.zeros_like(embeddings)
        for before, after in follows:
            head[after] += _SHARPNESS * embeddings[before].sum(0) / embeddings.shape[1] ** 0.5
        # One dimension says nothing of a token but that it is not the end.
        embeddings[:, 0], head[:, 0] = _NOT_THE_END, 0.0
        head[end_token, 0] = -_NOT_THE_END
        model.model.language_model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight = torch.nn.Parameter(head)
    model.config.text_config.bos_token_id = None
    model.config.text_config.eos_token_id = end_token
    model.generation_config = GenerationConfig(eos_token_id=end_token, pad_token_id=end_token)
    model.save_pretrained(folder)


def write_clip(path: Path, shape: Shape, *, seed: int) -> None:
    """A square that crosses a noisy picture, as H.264; the shape's frames at `FPS`."""
    from videor2_rl.demo.clips import encode

    width, height, rate = CLIP_SIZES[shape.name]
    num_frames = round(2 * shape.grid[0] / FPS * rate)
    encode(path, moving_square(num_frames, height, width, seed=seed), times_s=np.arange(num_frames) / rate)


def moving_square(num_frames: int, height: int, width: int, *, seed: int) -> NDArray[np.uint8]:
    """[F, H, W, 3] uint8 RGB."""
    rng = np.random.default_rng(seed)
    side = height // 4
    blocks = rng.integers(0, 90, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    frames = np.tile(blocks.repeat(8, 0).repeat(8, 1)[:height, :width], (num_frames, 1, 1, 1))
    colour = rng.integers(120, 255, 3, dtype=np.uint8)
    for index, frame in enumerate(frames):
        left = (width - side) * index // num_frames
        frame[height // 2 : height // 2 + side, left : left + side] = colour
    return frames


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of `write_workload`."""
    rows: list[dict[str, Any]] = json.loads((folder / "rows.json").read_text())
    return rows
