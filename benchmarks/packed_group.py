"""CPU time of a packed group against its responses as separate sequences, forward and backward.

    python -m benchmarks.packed_group

Prints both medians and their ratio. The shape is a long video prompt with short responses; the model is a Qwen2.5-VL's
language model (hidden 256, 6 layers) in float32 on one thread, so the ratio is of work and not of scheduling. Vision is
left out on both sides: packed groups encode the clip once, separate sequences once per response.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from videor2_rl.model.packed_attention import PACKED_GROUPS, PackedLayout, Segment, register_packed_attention

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 400


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompt-tokens", type=int, default=1500)
    parser.add_argument("--response-tokens", type=int, default=100)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    register_packed_attention()
    model = make_model()
    prompt = torch.randint(VOCABULARY, (args.prompt_tokens,))
    responses = torch.randint(VOCABULARY, (args.group_size, args.response_tokens))

    difference = float((separate(model, prompt, responses) - packed(model, prompt, responses)).detach().abs().max())
    print(f"P = {args.prompt_tokens}, R = {args.response_tokens}, G = {args.group_size}")
    print(f"largest log-prob difference: {difference:.1e}")
    # Taken in turns, so that other load on the machine meets both alike.
    pairs = [
        (cpu_seconds(model, separate, prompt, responses), cpu_seconds(model, packed, prompt, responses))
        for _ in range(args.repeats)
    ]
    separate_s, packed_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"separate sequences: {separate_s:.2f} CPU-s, packed group: {packed_s:.2f} CPU-s, medians of {args.repeats}")
    print(f"ratio: {ratio:.2f}")


def make_model() -> Any:
    """A random Qwen2.5-VL; its vision tower is as small as can be and not used."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "layer_types": ["full_attention"] * 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
    }
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 256}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def separate(model: Any, prompt: Tensor, responses: Tensor) -> Tensor:
    """[G, R] log-probs, the responses as a batch of ordinary sequences: transformers' SDPA, logits where needed."""
    model.set_attn_implementation("sdpa")
    group_size = len(responses)
    ids = torch.cat([prompt.expand(group_size, -1), responses], dim=1)
    positions = torch.arange(ids.shape[1]).expand(3, group_size, -1)
    predict = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    logits = model(input_ids=ids, position_ids=positions, logits_to_keep=predict, use_cache=False).logits
    return log_probs_of(logits, responses)


def packed(model: Any, prompt: Tensor, responses: Tensor) -> Tensor:
    """[G, R] log-probs, the prompt once."""
    model.set_attn_implementation({"text_config": PACKED_GROUPS})
    group_size, length = responses.shape
    start = len(prompt)
    starts = start + length * torch.arange(group_size)[:, None]
    predict = torch.cat([torch.full_like(starts, start - 1), starts + torch.arange(length - 1)], dim=1)
    steps = torch.arange(start, start + length)
    logits = model(
        input_ids=torch.cat([prompt, responses.flatten()])[None],
        position_ids=torch.cat([torch.arange(start), steps.repeat(group_size)]).expand(3, 1, -1),
        logits_to_keep=predict.flatten(),
        packed_layout=PackedLayout.of([Segment(0, start, (length,) * group_size)]),
        use_cache=False,
    ).logits[0]
    return log_probs_of(logits, responses)


def log_probs_of(logits: Tensor, responses: Tensor) -> Tensor:
    """[G, R], of logits with G x R rows in all."""
    return -F.cross_entropy(logits.flatten(0, -2), responses.flatten(), reduction="none").view_as(responses)


def cpu_seconds(model: Any, log_probs: Callable[..., Tensor], prompt: Tensor, responses: Tensor) -> float:
    """CPU time of one forward and backward pass."""
    model.zero_grad()
    start = time.process_time()
    log_probs(model, prompt, responses).sum().backward()
    return time.process_time() - start


if __name__ == "__main__":
    main()
