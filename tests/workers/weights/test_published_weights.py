"""vLLM's own model classes on the meta device take every tensor that a learner sends of a published checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from videor2_rl.model.prompt import PromptBuilder
from videor2_rl.model.weights import expected_weights
from videor2_rl.types import Clip, Prompt, VideoSample
from workers.rollout.engine import engine_input

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vllm_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Builds vLLM's model of a published checkpoint without weights or engine."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model

    rendezvous = f"file://{tmp_path_factory.mktemp('rendezvous') / 'file'}"
    built: dict[str, Any] = {}

    def build(name: str) -> Any:
        if name not in built:
            arguments: dict[str, Any] = {"limit_mm_per_prompt": {"video": 1, "image": 0}, "skip_mm_profiling": True}
            config = EngineArgs(
                str(published.FOLDER / name),
                skip_tokenizer_init=True,
                max_model_len=1024,
                enforce_eager=True,
                **arguments,
            ).create_engine_config()
            with set_current_vllm_config(config):
                if not torch.distributed.is_initialized():
                    parallel_state.init_distributed_environment(1, 0, rendezvous, 0, backend="gloo")
                    parallel_state.initialize_model_parallel()
                with torch.device("meta"):
                    built[name] = initialize_model(config)
        return built[name]

    yield build
    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()


class Written(TorchDispatchMode):
    """Counts the elements copied into each tensor's memory; on the meta device only shapes are copied."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.copy_.default:
            self.elements[memory(args[0])] += args[0].numel()
        return function(*args, **(kwargs or {}))


def memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def incomplete(model: Any, tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """Parameters of vLLM's that loading leaves short or writes twice: elements written, elements there are.

    vLLM's own answer, the set of parameters touched, holds a merged one that got a single of its parts.
    """
    with Written() as written:
        model.load_weights(tensors.items())
    return {
        name: (written.elements[memory(parameter)], parameter.numel())
        for name, parameter in model.named_parameters()
        if written.elements[memory(parameter)] != parameter.numel()
    }


def sent(name: str) -> dict[str, torch.Tensor]:
    """What the learner sends of a checkpoint where everything trains, without values."""
    shapes = expected_weights(str(published.FOLDER / name)).shapes
    return {tensor: torch.empty(shape, dtype=torch.bfloat16, device="meta") for tensor, shape in shapes.items()}


@pytest.mark.parametrize("name", published.NAMES)
def test_what_is_sent_fills_every_parameter_exactly_once(name: str, vllm_model: Callable[[str], Any]) -> None:
    model = vllm_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == published.TOTALS[name]
    assert incomplete(model, sent(name)) == {}


RENAMED = (
    "model.visual.blocks.1.attn.qkv.weight",
    "model.visual.patch_embed.proj.weight",
    "model.language_model.embed_tokens.weight",
    "model.language_model.norm.weight",
    "model.language_model.layers.1.input_layernorm.weight",
    "model.language_model.layers.1.self_attn.k_proj.weight",
    "model.language_model.layers.1.mlp.down_proj.weight",
)


@pytest.mark.parametrize("name", published.NAMES)
def test_a_renamed_tensor_is_noticed(name: str, vllm_model: Callable[[str], Any]) -> None:
    """So the test above would fail with another release's names; vLLM itself passes over some of them in silence."""
    model, tensors = vllm_model(name), sent(name)
    last_of_merger = next(key for key in tensors if key.startswith("model.visual.merger.") and key.endswith(".bias"))
    for renamed in (*RENAMED, last_of_merger):
        assert renamed in tensors
        changed = {key.replace(renamed, f"{renamed}_"): tensor for key, tensor in tensors.items()}
        try:
            assert incomplete(model, changed), renamed
        except (KeyError, ValueError) as error:
            assert renamed.rsplit(".", 1)[1] in str(error)


@pytest.mark.parametrize("name", published.NAMES)
def test_a_missing_part_of_a_merged_parameter_is_noticed(name: str, vllm_model: Callable[[str], Any]) -> None:
    model, tensors = vllm_model(name), sent(name)
    missing = tensors.pop("model.language_model.layers.1.mlp.up_proj.weight").numel()
    merged = "language_model.model.layers.1.mlp.gate_up_proj.weight"
    assert incomplete(model, tensors) == {merged: (missing, 2 * missing)}


# --- positions ------------------------------------------------------------------------------------------------------

CLIPS = ((4, 2.0, 280, 504), (32, 2.0, 280, 504), (32, 0.53, 364, 364), (128, 1.0, 140, 84))
"""Frames, frames per second, height and width in pixels."""


FAMILIES = {
    "Qwen2.5-VL-7B-Instruct": "verl.models.transformers.qwen2_vl",
    "Qwen3-VL-8B-Instruct": "verl.models.transformers.qwen3_vl",
}


def a_prompt(builder: PromptBuilder, *, frames: int, fps: float, height: int, width: int) -> Prompt:
    multiple = builder.family.size_multiple
    height, width = height // multiple * multiple, width // multiple * multiple
    clip = Clip("c", np.zeros((frames, 3, height, width), np.uint8), np.arange(frames) / fps, fps)
    return builder.build(VideoSample("s", "/clip.mp4", "Who?", "<answer>A</answer>"), clip)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_positions_are_vllms_and_verls(
    name: str,
    clip: tuple[int, float, int, int],
    published_folder: Callable[[str], Path],
    vllm_model: Callable[[str], Any],
) -> None:
    from vllm.multimodal.inputs import MultiModalFeatureSpec

    builder = PromptBuilder(published.paper_run(published_folder(name)).model)
    frames, fps, height, width = clip
    prompt = a_prompt(builder, frames=frames, fps=fps, height=height, width=width)
    whole = engine_input(prompt, video=torch.from_numpy(prompt.patches), is_encoded=False, family=builder.family)
    feature = MultiModalFeatureSpec(whole["mm_kwargs"]["video"][0], "video", "c", whole["mm_placeholders"]["video"][0])
    vllms, _ = vllm_model(name).get_mrope_input_positions(whole["prompt_token_ids"], [feature])
    assert np.array_equal(prompt.position_ids, vllms.numpy())
    verls = import_module(FAMILIES[name]).get_rope_index(
        builder.processor,
        torch.from_numpy(prompt.token_ids),
        video_grid_thw=torch.from_numpy(prompt.video_grid_thw),
        second_per_grid_ts=torch.tensor([prompt.second_per_grid_s]),
    )
    assert np.array_equal(prompt.position_ids, verls.numpy())
