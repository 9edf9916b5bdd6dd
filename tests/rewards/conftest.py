"""The default reward configuration, and a similarity that needs no encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import settings
from numpy.typing import NDArray
from omegaconf import OmegaConf
from pydantic import Discriminator, TypeAdapter

from rewards.types import RewardConfig, Similarity, Target, VideoR2Config

# A busy machine is no fault of the code.
settings.register_profile("rewards", deadline=None)
settings.load_profile("rewards")

CONF = Path(__file__).parents[2] / "conf"
CORPORA = Path(__file__).with_name("corpora")


def compose_reward(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose(overrides=["+judge=rules", f"+reward={name}", *overrides])
    adapter = TypeAdapter(Annotated[RewardConfig, Discriminator("rule")])
    return adapter.validate_python(OmegaConf.to_container(tree.reward, resolve=True))


@pytest.fixture(scope="session")
def reward_config() -> Callable[..., Any]:
    """(name, *overrides) -> the composed configuration."""
    return compose_reward


@pytest.fixture(scope="session")
def config() -> VideoR2Config:
    return compose_reward("video_r2")


@pytest.fixture(scope="session")
def by_words() -> Similarity:
    """Cosine of bags of words."""

    def similarity(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        vocabulary = {word: i for i, word in enumerate({w for text in [*claims, *references] for w in _words(text)})}

        def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
            counts = np.zeros((len(texts), len(vocabulary)), dtype=np.float32)
            for row, text in enumerate(texts):
                for word in _words(text):
                    counts[row, vocabulary[word]] += 1
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)

        return vectors(claims) @ vectors(references).T

    return similarity


def _words(text: str) -> list[str]:
    return text.lower().strip(".").split()


@pytest.fixture(scope="session")
def toy_target() -> Target:
    return Target(
        question="Which colour appears first? A. red B. green C. blue D. yellow",
        solution="<think>At 00:02 a red square appears. The first is red (A).</think>\n<answer>A</answer>",
        temporal_grounding={
            "00:02": "A red square appears.",
            "00:08": "A yellow circle appears.",
            "00:12": "A blue triangle appears.",
        },
    )


class Row(NamedTuple):
    """A line of a corpus."""

    half: str
    """tuning: the rules were written with these in sight; held-out: they were not."""
    about: str
    """The heading that the line stands under."""
    cells: tuple[str, ...]
    """Its parts between ` | `, with `\\n` read as a line break."""


@pytest.fixture(scope="session")
def read_corpus() -> Callable[[str], list[Row]]:
    """Name -> the rows of `corpora/<name>.txt`: headings `[half] about`, comments `# `."""

    def read(name: str) -> list[Row]:
        rows: list[Row] = []
        half = about = ""
        for line in (CORPORA / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            if line.startswith(("[tuning] ", "[held-out] ")):
                half, about = line[1:].split("] ", 1)
            elif line.strip() and not line.startswith("# "):
                rows.append(Row(half, about, tuple(cell.replace("\\n", "\n") for cell in line.split(" | "))))
        return rows

    return read
