"""Fixtures for every test: a small demo folder and its tiny checkpoint, made once a session."""

from __future__ import annotations

import os

# Before any library reads them: no downloads, and no thread pools that fight over the cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray's processes would give way to all others, of which the tests are some.
os.environ.setdefault("RAY_worker_niceness", "0")
# verl looks for its platform when it is first imported, by whichever test comes first.
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("VERL_USE_EXTERNAL_MODULES", "workers.learner.engines.cpu_platform")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import functools
from collections.abc import Callable
from pathlib import Path

import learner_configs
import pytest
from hypothesis import HealthCheck, settings

from videor2_rl.config.sections import ModelConfig, VideoConfig

# A busy machine is no fault of the code.
settings.register_profile("no times", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no times")

DEMO_ARGUMENTS = [
    "--base-clips=6",
    "--sft-clips=4",
    "--grpo-clips=4",
    "--heldout-clips=4",
    "--validation-clips=2",
    "--num-workers=1",
]


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small output of make_demo: clips/, base.json, sft.json, grpo.json, heldout.json, validation.json, model/."""
    from videor2_rl.make_demo import main

    folder = tmp_path_factory.mktemp("demo")
    assert main(["--output", str(folder), *DEMO_ARGUMENTS]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(demo_dir: Path) -> Path:
    """A randomly initialised Qwen2.5-VL with tokenizer and processor."""
    return demo_dir / "model"


@pytest.fixture(scope="session")
def tiny_qwen3_vl_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a Qwen3-VL."""
    from videor2_rl.demo.model import make_model

    folder = tmp_path_factory.mktemp("qwen3_vl")
    make_model(folder, seed=0, family="qwen3_vl")
    return folder


@pytest.fixture(scope="session")
def published_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a published checkpoint without its weights, made when first asked for."""
    from published import make_folder

    return functools.cache(lambda name: make_folder(tmp_path_factory.mktemp("published"), name))


@pytest.fixture
def model_config(tiny_model_dir: Path) -> ModelConfig:
    return learner_configs.model_config(str(tiny_model_dir))


@pytest.fixture
def video_config(tmp_path: Path) -> VideoConfig:
    """What the demo uses, with a cache of the test's own."""
    return VideoConfig(
        rule="player",
        fps=1.0,
        min_frames=4,
        max_frames=16,
        min_pixels=784,
        max_pixels=784,
        size_multiple=14,
        timestamps=False,
        subtitles=False,
        cache_dir=str(tmp_path / "video_cache"),
        num_workers=1,
        cpus_per_worker=1,
        decoder="auto",
        font=None,
        subtitle_encoding=None,
    )
