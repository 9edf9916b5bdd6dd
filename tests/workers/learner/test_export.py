"""A checkpoint's model, without the ranks that wrote it: the weights that were stored, adapters merged or apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import LoraConfig
from videor2_rl.export import export, main
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum, file_sum
from videor2_rl.run.shards import Fragment, rank_file, write_fragments
from workers.learner.engines.fsdp import freeze
from workers.learner.engines.lora import add_adapters

NO_LORA = LoraConfig(rank=0, alpha=1, dropout=0.0, targets=(), dora=False)
LORA = LoraConfig(rank=2, alpha=8, dropout=0.0, targets=("q_proj", "down_proj"), dora=False)


class TwoRanks:
    """Writes tensors as two ranks do: each its half of every flattened parameter."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.files: dict[str, FileSum] = {}

    def save(self, path: Path) -> None:
        for rank in range(2):
            fragments = {}
            for name, tensor in self.tensors.items():
                flat = tensor.detach().flatten()
                bounds = (0, flat.numel() // 3, flat.numel())
                fragments[f"weight/{name}"] = Fragment(bounds[rank], flat[bounds[rank] : bounds[rank + 1]].clone())
            file = rank_file(path, ".safetensors", rank=rank, num_ranks=2)
            write_fragments(file, fragments)
            self.files[file.name] = file_sum(file)

    def finish_save(self) -> dict[str, FileSum]:
        return self.files


def network(model: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)


def leave_a_run(run_dir: Path, model: Path, tensors: Mapping[str, Tensor], *, lora: LoraConfig, step: int = 3) -> None:
    checkpoints = Checkpoints(run_dir, keep=2)
    checkpoints.begin(step, {}, TwoRanks(tensors))
    checkpoints.complete()
    section = {"path": str(model), "dtype": "float32", "lora": {**vars(lora), "targets": list(lora.targets)}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"model": section}))


def changed(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Other values for what trains, as training leaves them."""
    torch.manual_seed(0)
    return {name: tensor.detach() + 0.1 * torch.randn_like(tensor) for name, tensor in parameters.items()}


def test_trained_weights_are_the_checkpoints_and_the_others_the_models(tiny_model_dir: Path, tmp_path: Path) -> None:
    plain = network(tiny_model_dir)
    trained = {n: p for n, p in plain.named_parameters() if n.startswith("model.language_model.")}
    stored = changed(trained)
    leave_a_run(tmp_path / "run", tiny_model_dir, stored, lora=NO_LORA)
    said = export(tmp_path / "run", tmp_path / "out", model=None, as_adapter=False)
    assert said == f"wrote {tmp_path / 'out'}: the model after step 3 of {tmp_path / 'run'}"
    found = network(tmp_path / "out")
    expected = {**dict(plain.named_parameters()), **stored}
    for name, tensor in found.named_parameters():
        assert torch.equal(tensor, expected[name]), name
    # A processor and a tokenizer come along.
    from transformers import AutoProcessor

    AutoProcessor.from_pretrained(tmp_path / "out")


def test_an_adapter_is_merged_or_written_as_peft_reads_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    plain = network(tiny_model_dir)
    freeze(plain, vision_tower=True, merger=True, language_model=False)
    adapted = add_adapters(plain, LORA)
    stored = changed({name: p for name, p in adapted.named_parameters() if p.requires_grad})
    assert stored and all(".lora_" in name for name in stored)
    leave_a_run(tmp_path / "run", tiny_model_dir, stored, lora=LORA)
    assert main([str(tmp_path / "run" / "checkpoints" / "step_000003"), str(tmp_path / "merged")]) == 0
    assert main([str(tmp_path / "run"), str(tmp_path / "adapter"), "--adapter"]) == 0

    by_peft = PeftModel.from_pretrained(network(tiny_model_dir), str(tmp_path / "adapter"))
    loaded = dict(by_peft.named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())
    expected = dict(by_peft.merge_and_unload().named_parameters())
    found = dict(network(tmp_path / "merged").named_parameters())
    assert found.keys() == expected.keys()
    assert max(float((found[name] - expected[name]).detach().abs().max()) for name in found) < 1e-6
    # The merging did something.
    start = dict(network(tiny_model_dir).named_parameters())
    assert any(not torch.equal(found[name], start[name]) for name in found)


def test_what_cannot_be_exported_is_one_sentence(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {"model.language_model.norm.weight": torch.ones(3)}
    leave_a_run(tmp_path / "run", tiny_model_dir, stored, lora=NO_LORA)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    cases = {
        "holds model.language_model.norm.weight, and": [str(tmp_path / "run"), str(tmp_path / "out")],
        "export without --adapter": [str(tmp_path / "run"), str(tmp_path / "out"), "--adapter"],
        "holds no whole checkpoint": [str(tmp_path / "empty"), str(tmp_path / "out")],
        "is no whole checkpoint": [str(tmp_path), str(tmp_path / "out")],
        "give the model that the run began with as --model": [str(tmp_path / "run"), "out", "--model", str(tmp_path)],
    }
    for sentence, arguments in cases.items():
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.startswith("error: ") and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_adapter_beside_other_trained_weights_is_not_split_off(tiny_model_dir: Path, tmp_path: Path) -> None:
    adapted = add_adapters(network(tiny_model_dir), LORA)
    trained = {n: p for n, p in adapted.named_parameters() if ".lora_" in n or ".visual.merger." in n}
    leave_a_run(tmp_path / "run", tiny_model_dir, changed(trained), lora=LORA)
    with pytest.raises(ConfigError, match=r"trains \d+ weights besides the adapter"):
        export(tmp_path / "run", tmp_path / "out", model=None, as_adapter=True)
    export(tmp_path / "run", tmp_path / "out", model=None, as_adapter=False)
    name = "model.visual.merger.mlp.0.bias"
    merger = dict(network(tmp_path / "out").named_parameters())[name]
    assert torch.equal(merger, changed(trained)[f"base_model.model.{name}"])
