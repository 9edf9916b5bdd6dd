"""The doctor's model of a rank's memory against what a rank really took."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import programs
import pytest

from videor2_rl.app import compose_run
from videor2_rl.config.sections import GrpoRun
from videor2_rl.doctor.sizing import learner_rank_bytes, model_shape

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "programs" / "peak_memory.py"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of 1 million parameters, and one of 30 million with the same tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from videor2_rl.demo.model import make_model

    small, large = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    for folder in (small, large):
        make_model(folder, seed=0)
    config = AutoConfig.from_pretrained(large)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.vocab_size = 512, 1536, 8000
    text.num_hidden_layers, text.layer_types = 8, ["full_attention"] * 8
    text.num_attention_heads, text.num_key_value_heads = 16, 8
    config.vision_config.out_hidden_size = 512
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(large)
    return small, large


def test_predicted_peaks_are_within_a_fifth_of_measured_ones(models: tuple[Path, Path]) -> None:
    small, large = models
    cases = [(800, 100, False), (800, 100, True)]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = [str(port), str(small), str(large), *(",".join(map(str, case)) for case in cases)]
    command = [sys.executable, str(PROGRAM), *arguments]
    done = subprocess.run(command, env=programs.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PEAK")]

    overrides = ["experiment=demo", f"model.path={large}", "model.freeze_vision_tower=true", "model.freeze_merger=true"]
    run = compose_run("grpo", GrpoRun, overrides)
    shape = model_shape(run.model)
    for (tokens, response_tokens, checkpointing), peak in zip(cases, measured, strict=True):
        learner = replace(run.learner, gradient_checkpointing=checkpointing)
        predicted = learner_rank_bytes(shape, run.model, learner, tokens=tokens, response_tokens=response_tokens)
        print(f"\n{tokens} tokens, checkpointing {checkpointing}: {predicted / 2**20:.0f} of {peak / 2**20:.0f} MiB")
        assert predicted == pytest.approx(peak, rel=0.2)
