"""A checkpoint whose weights are not the model's is refused, by name; every layout that transformers loads passes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from videor2_rl.config.errors import ConfigError
from videor2_rl.model.folder import check_checkpoint
from videor2_rl.model.weights import StoredWeights, check_weights, expected_weights
from videor2_rl.run.files import apply_umask

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def checkpoint(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(tiny_model_dir, tmp_path / "checkpoint")


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_weights(str(folder), key="model.path")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_checkpoints_own_weights_are_whole(tiny_model_dir: Path, tiny_qwen3_vl_dir: Path) -> None:
    for folder in (tiny_model_dir, tiny_qwen3_vl_dir):
        check_weights(str(folder), key="model.path")
        assert len(expected_weights(str(folder)).shapes) == len(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    "respelt",
    [
        # Published Qwen2.5-VL checkpoints, as transformers 4.49 wrote them.
        lambda name: name.replace("model.visual.", "visual.").replace("model.language_model.", "model."),
        # As state_dict() names them.
        lambda name: (
            name
            if name.startswith(("model.visual.", "model.language_model.", "lm_head"))
            else name.replace("visual.", "model.visual.", 1)
            if name.startswith("visual.")
            else name.replace("model.", "model.language_model.", 1)
        ),
    ],
)
def test_names_that_transformers_renames_while_loading_pass(respelt: Callable[[str], str], checkpoint: Path) -> None:
    rewrite(checkpoint, lambda tensors: {respelt(name): tensor for name, tensor in tensors.items()})
    check_weights(str(checkpoint), key="model.path")
    from transformers import AutoModelForImageTextToText

    _, loading = AutoModelForImageTextToText.from_pretrained(checkpoint, output_loading_info=True)
    assert not loading["missing_keys"]


@pytest.mark.parametrize(
    ("prefix", "mend"),
    [
        ("base_model.model.", "merge its adapter"),
        ("_orig_mod.", "compiled model"),
        ("module.", "save its .module"),
        ("policy.", "fetch that again"),
    ],
)
def test_weights_under_other_names_are_named_with_the_mend(prefix: str, mend: str, checkpoint: Path) -> None:
    rewrite(checkpoint, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    said = refusal(checkpoint)
    count = len(expected_weights(str(checkpoint)).shapes)
    assert f"lacks {count} of the model's {count} weights, first model.language_model.embed_tokens.weight" in said
    assert f"its files hold {count} under other names, first {prefix}" in said and mend in said


def test_one_weight_that_is_not_there_is_named(checkpoint: Path) -> None:
    left_out = sorted(load_file(checkpoint / "model.safetensors"))[5]
    rewrite(checkpoint, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != left_out})
    said = refusal(checkpoint)
    assert "lacks 1 of the model's" in said and left_out.rpartition("layers.")[2] in said


def test_a_weight_of_another_shape_is_named(checkpoint: Path) -> None:
    def cut(tensors: Tensors) -> Tensors:
        name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
        return {**tensors, name: tensors[name][:-2].clone()}

    rewrite(checkpoint, cut)
    said = refusal(checkpoint)
    assert "1 weights" in said and "embed_tokens.weight" in said and "of one model" in said


def test_more_weights_than_the_model_needs_pass(checkpoint: Path) -> None:
    rewrite(checkpoint, lambda tensors: {**tensors, "value_head.weight": torch.zeros(1, 4)})
    check_weights(str(checkpoint), key="model.path")
    assert "value_head.weight" in load_file(checkpoint / "model.safetensors")


def shard(folder: Path) -> list[Path]:
    """The weights in two files with an index."""
    file = folder / "model.safetensors"
    tensors = sorted(load_file(file).items())
    file.unlink()
    parts = [dict(tensors[::2]), dict(tensors[1::2])]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name, metadata={"format": "pt"})
    weight_map = {weight: name for name, part in zip(names, parts, strict=True) for weight in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [folder / name for name in names]


def test_shards_are_read_together_and_each_fault_of_one_is_named(checkpoint: Path) -> None:
    first, second = shard(checkpoint)
    check_weights(str(checkpoint), key="model.path")
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    assert f"{second} is cut off, {len(whole) // 2} of {len(whole)} bytes" in refusal(checkpoint)
    second.write_bytes(whole[:4])
    assert f"{second} is no safetensors file" in refusal(checkpoint)
    second.write_bytes(b"<html>not found</html>" * 10)
    assert f"{second} is no safetensors file" in refusal(checkpoint)
    second.write_bytes(b"")
    assert f"{second} is no safetensors file" in refusal(checkpoint)
    second.unlink()
    assert f"lacks 1 of the 2 files of weights that model.safetensors.index.json names, first {second.name}" in refusal(
        checkpoint
    )
    assert first.exists()


def test_weights_in_torchs_own_format_are_read(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    file = checkpoint / "pytorch_model.bin"
    torch.save(tensors, file)
    check_weights(str(checkpoint), key="model.path")
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, file)
    assert "save its .module" in refusal(checkpoint)
    file.write_bytes(file.read_bytes()[:1000])
    assert f"{file} cannot be read" in refusal(checkpoint)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_are_read_one_by_one_under_the_models_names(suffix: str, checkpoint: Path) -> None:
    from transformers import AutoModelForImageTextToText

    tensors = load_file(checkpoint / "model.safetensors")
    published = {
        n.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensors[n] for n in tensors
    }
    rewrite(checkpoint, lambda _: published)
    loaded = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    if suffix == "bin":
        (checkpoint / "model.safetensors").unlink()
        torch.save(published, checkpoint / "pytorch_model.bin")
    stored = StoredWeights(str(checkpoint))
    for name, parameter in loaded.named_parameters():
        assert torch.equal(stored.read(name).float(), parameter)
    with pytest.raises(KeyError):
        stored.read("value_head.weight")


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n"


def test_what_a_clone_without_git_lfs_leaves_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_text(POINTER)
    assert f"{checkpoint}/model.safetensors is a Git LFS pointer" in refusal(checkpoint)
    for name in ("tokenizer.json", "config.json", "processor_config.json"):
        folder = checkpoint.with_name(f"lfs-{name}")
        shutil.copytree(checkpoint, folder)
        (folder / name).write_text(POINTER)
        with pytest.raises(ConfigError, match=f"{name} is a Git LFS pointer"):
            check_checkpoint(str(folder), key="model.path")


def test_no_weights_and_an_adapter_alone_are_told_apart(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "holds no weights" in refusal(checkpoint)
    (checkpoint / "adapter_config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, checkpoint / "adapter_model.safetensors")
    assert "holds a PEFT adapter alone; merge it" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", '{"version": "1.0", "mod', "tokenizer.json is not valid JSON"),
        ("tokenizer.json", "", "tokenizer.json is not valid JSON"),
        ("chat_template.jinja", "", "holds no chat template"),
        ("config.json", "[]", "config.json holds no JSON object"),
        ("processor_config.json", "nonsense", "processor_config.json is not valid JSON"),
    ],
)
def test_a_torn_or_empty_file_is_named(name: str, content: str, said: str, checkpoint: Path) -> None:
    (checkpoint / name).write_text(content)
    with pytest.raises(ConfigError, match=said):
        check_checkpoint(str(checkpoint), key="model.path")


def test_files_get_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    for umask, rights in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        save_file({"a": torch.zeros(1)}, file)
        before = os.umask(umask)
        try:
            apply_umask(file)
        finally:
            os.umask(before)
        assert stat.S_IMODE(file.stat().st_mode) == rights


def test_a_made_model_can_be_read_by_others(tiny_model_dir: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tiny_model_dir / "model.safetensors").stat().st_mode) == 0o666 & ~umask
