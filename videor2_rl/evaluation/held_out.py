"""What an evaluation asks: the rows of data.validation_file, or those of a benchmark in a local folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun
from videor2_rl.dataset import load_samples
from videor2_rl.evaluation.benchmarks import BENCHMARKS
from videor2_rl.evaluation.benchmarks.common import Item, load_items
from videor2_rl.evaluation.benchmarks.scoring import score_response
from videor2_rl.evaluation.logs import BENCHMARK_KEY
from videor2_rl.evaluation.summary import SampleResult
from videor2_rl.types import VideoSample

SYNTHETIC = "synthetic"
"""The held-out clips of videor2_rl.make_demo as a benchmark, which runs everywhere."""
SYNTHETIC_FILE = "heldout.json"


@dataclass(frozen=True)
class HeldOut:
    """The questions of an evaluation."""

    benchmark: str | None
    """None: the rows of a dataset file."""
    samples: tuple[VideoSample, ...]
    items: Mapping[str, Item]
    """Sample id -> published row; empty for a dataset file and the synthetic clips."""

    def scored(self, result: SampleResult) -> SampleResult:
        """The result with the benchmark's own accuracy; as it is where the reward's accuracy is meant."""
        item = self.items.get(result.sample_id)
        if item is None:
            return result
        answer, accuracy = score_response(result.response, item.question)
        return replace(result, answer=None if answer is None else str(answer), accuracy=accuracy)

    def log_fields(self, result: SampleResult) -> dict[str, Any]:
        """What makes a row of samples.jsonl one of lmms-eval's for this benchmark: its `doc` and score dict."""
        item = self.items.get(result.sample_id)
        if item is None or self.benchmark is None:
            return {}
        benchmark = BENCHMARKS[self.benchmark]
        logged = benchmark.logged(item.doc, result.answer or "", item.question.truth)
        # lmms-eval's filtered response is the whole one, and other readers look for the blocks in it.
        return {
            "doc": dict(item.doc),
            "filtered_resps": [result.response],
            BENCHMARK_KEY: self.benchmark,
            benchmark.score_key: logged,
        }

    @property
    def digest(self) -> str:
        """sha256 over ids, questions and answers."""
        rows = [[sample.sample_id, sample.question, sample.solution] for sample in self.samples]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def held_out(run: EvaluateRun) -> HeldOut:
    """The first `evaluation.num_samples` questions.

    Raises:
        ConfigError: file, folder or a row is missing or malformed; one sentence with the mend.
    """
    name, limit = run.evaluation.benchmark, run.evaluation.num_samples
    if name is None:
        if run.data.validation_file is None:
            raise ConfigError(
                "data.validation_file is required for evaluation; give it as data.validation_file=FILE, or a benchmark "
                "as evaluation.benchmark=NAME evaluation.benchmark_dir=DIR"
            )
        return HeldOut(None, tuple(load_samples(run.data.validation_file, data=run.data)[:limit]), {})
    folder = benchmark_dir(run)
    if name == SYNTHETIC:
        if not (folder / SYNTHETIC_FILE).is_file():
            raise ConfigError(
                f"evaluation.benchmark_dir: {folder} holds no {SYNTHETIC_FILE}; make it with "
                f"python -m videor2_rl.make_demo --output {folder}"
            )
        data = replace(run.data, media_dir=str(folder))
        return HeldOut(name, tuple(load_samples(str(folder / SYNTHETIC_FILE), data=data)[:limit]), {})
    items = load_items(BENCHMARKS[name], folder, limit=limit)
    return HeldOut(name, tuple(item.sample for item in items), {item.sample.sample_id: item for item in items})


def benchmark_dir(run: EvaluateRun) -> Path:
    """The benchmark's folder.

    Raises:
        ConfigError: it does not exist.
    """
    folder = Path(run.evaluation.benchmark_dir or "").expanduser()
    if run.evaluation.benchmark_dir is not None and folder.is_dir():
        return folder
    known = BENCHMARKS.get(run.evaluation.benchmark or "")
    fetch = (
        f"fetch {known.source} and give the folder that has {known.layout}"
        if known
        else "make it with python -m videor2_rl.make_demo --output DIR"
    )
    raise ConfigError(f"evaluation.benchmark_dir: there is no folder {run.evaluation.benchmark_dir}; {fetch}")
