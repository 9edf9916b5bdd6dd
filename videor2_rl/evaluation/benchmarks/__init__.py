"""Published benchmarks, one small file each: annotation layout -> question, clip, true answer.

A new one: a file with `BENCHMARK`, whose `question` reads a published row (-> `common.Question`), its line below, and a
fixture row in tests/videor2_rl/evaluation/benchmarks/.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from videor2_rl.evaluation.benchmarks import (
    longvideobench,
    minerva,
    mlvu,
    mmvu,
    mvbench,
    scivideobench,
    tempcompass,
    video_mmmu,
    videomathqa,
    videomme,
    vsibench,
)
from videor2_rl.evaluation.benchmarks.common import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        module.BENCHMARK.name: module.BENCHMARK
        for module in (
            mvbench,
            videomme,
            tempcompass,
            mlvu,
            longvideobench,
            videomathqa,
            video_mmmu,
            mmvu,
            vsibench,
            minerva,
            scivideobench,
        )
    }
)
"""By name: the five generic ones, then the six that ask for reasoning."""
