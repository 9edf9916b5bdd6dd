"""The files that the paper's scripts leave behind, in their places and under their names.

tac/<benchmark>/<log's name>/{per_sample,summary}.json    (tac/mvbench/{...} for all of MVBench)
tac/all_summaries.json                                    what the runner collects
tac/summary.json                                          what summarize_tac.py derives
vas/per_sample_<benchmark>.jsonl, vas/summary.json
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videor2_rl.evaluation.official import tac, vas
from videor2_rl.evaluation.official.cases import CASES, Case
from videor2_rl.run.files import write_json_atomic, write_jsonl_atomic


@dataclass(frozen=True)
class OfficialLog:
    """One log as the paper's scripts have read it; the sequences correspond row by row."""

    path: Path
    stem: str
    benchmark: str
    rows: Sequence[Mapping[str, Any]]
    cases: Sequence[Case]
    lenses: Sequence[tac.Lenses]
    vas: Sequence[vas.Score | None]


def write_tac(folder: Path, logs: Sequence[OfficialLog], *, mixer: tac.Mixer = tac.PAPER_MIXER) -> dict[str, Any]:
    """Write tac/; returns the content of tac/summary.json, and under `summaries` that of each run's by its folder."""
    runs: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    datasets: dict[str, Any] = {}
    for name, group in _runs(logs).items():
        benchmark = group[0].benchmark
        cases = [case for log in group for case in log.cases]
        lenses = [lens for log in group for lens in log.lenses]
        records = [tac.sample_record(benchmark, case, lens) for case, lens in zip(cases, lenses, strict=True)]
        summary = tac.summarise(benchmark, cases, lenses)
        path = folder / "tac" / name / "summary.json"
        write_json_atomic(path.with_name("per_sample.json"), _finite(records))
        write_json_atomic(path, summary)
        source = {"input": [str(log.path) for log in group], "output_dir": str(path.parent), "returncode": 0}
        runs.append({"benchmark": benchmark, **source})
        summaries.append({"benchmark": benchmark, "summary_path": str(path), "summary": summary})
        # Of runs of one dataset the script takes the latest.
        datasets[dataset_name(path.parent.name)] = {
            **tac.dataset_statistics(summary, mixer=mixer),
            "source_path": str(path.resolve()),
            "mtime": path.stat().st_mtime,
        }
    write_json_atomic(folder / "tac" / "all_summaries.json", {"runs": runs, "summaries": summaries})
    datasets = {name: datasets[name] for name in sorted(datasets, key=str.lower)}
    aggregated = {"overall": tac.overall(datasets, mixer=mixer), "datasets": datasets}
    write_json_atomic(folder / "tac" / "summary.json", aggregated)
    return {
        **aggregated,
        "summaries": {name: entry["summary"] for name, entry in zip(_runs(logs), summaries, strict=True)},
    }


def _runs(logs: Sequence[OfficialLog]) -> dict[str, list[OfficialLog]]:
    """Folder below tac/ -> its logs, in the order in which the scripts run: MVBench last, as one.

    A log whose name came up before in another sub-folder is passed over, and of MVBench's those count that are named
    as lmms-eval names them, where there are any.
    """
    runs: dict[str, list[OfficialLog]] = {}
    for benchmark in CASES:
        for log in logs:
            if log.benchmark == benchmark != "mvbench":
                runs.setdefault(f"{benchmark}/{log.stem}", [log])
    shards = [log for log in logs if log.benchmark == "mvbench"]
    named = [log for log in shards if re.match(r"mvbench_think.*samples_mvbench", log.path.name.lower())]
    if shards:
        runs["mvbench"] = named or shards
    return runs


def dataset_name(run_folder: str) -> str:
    """`mlvu_dev_think_samples_mlvu_dev_think` -> `mlvu_dev`, as summarize_tac.py names datasets."""
    logged = re.search(r"samples_([^/]+?)(?:_think)?$", run_folder)
    if logged:
        return logged[1].removesuffix("_think")
    thinking = re.match(r"(.*?)_think", run_folder)
    return thinking[1] if thinking else run_folder


def write_vas(folder: Path, logs: Sequence[OfficialLog]) -> dict[str, Any]:
    """Write vas/ for the rows that were judged; returns the content of vas/summary.json."""
    groups: dict[str, list[tuple[Mapping[str, Any], vas.Score]]] = {}
    first_paths: dict[str, Path] = {}
    for log in logs:
        benchmark = vas.benchmark_of(log.path.name)
        first_paths.setdefault(benchmark, log.path)
        judged = [(row, score) for row, score in zip(log.rows, log.vas, strict=True) if score is not None]
        groups.setdefault(benchmark, []).extend(judged)
    for benchmark, entries in groups.items():
        records = [
            {
                **row,
                "__bench": benchmark,
                # Of several files the first stands for all.
                "__file": str(first_paths[benchmark]),
                "__uid": vas.sample_id(row),
                "__attention_to_video_score": score.score,
                "__attention_to_video_rationale": score.rationale,
                "__llm_raw_response": score.raw,
            }
            for row, score in entries
        ]
        if records:
            write_jsonl_atomic(folder / "vas" / f"per_sample_{benchmark}.jsonl", _finite(records))
    summary = vas.summarise({name: [score.score for _, score in entries] for name, entries in groups.items()})
    write_json_atomic(folder / "vas" / "summary.json", summary)
    return summary


def _finite(value: Any) -> Any:
    """The same with NaN and infinity as text, since JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
