"""Judge calls against a server that takes 200 ms for each: seconds beside the ideal of calls / concurrency x latency.

    python -m benchmarks.judge_calls [--calls 1000] [--concurrency 64] [--latency-s 0.2] [--cached]

The server is a process of its own; --cached asks everything a second time, from the cache on disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from benchmarks.stub_judge import stub_judge
from rewards.judge import JudgePrompt, consistency_prompt
from videor2_rl.app import compose_run
from videor2_rl.config.judge import OpenAIJudge
from videor2_rl.config.runs import ScoreRun
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.connection import JudgeServer

_THINK = "At 00:05 a red square appears. At 00:09 it moves to the left. So the answer is B. " * 10


def _prompts(count: int) -> list[JudgePrompt]:
    return [consistency_prompt(f"{i}. {_THINK}", "B", question="Which?", options=("red", "blue")) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency-s", type=float, default=0.2)
    parser.add_argument("--cached", action="store_true")
    arguments = parser.parse_args()
    with stub_judge(latency_s=arguments.latency_s) as base_url, tempfile.TemporaryDirectory() as folder:
        judge = compose_run(
            "score",
            ScoreRun,
            ["judge=openai", f"judge.base_url={base_url}", "judge.model=m", f"judge.calls.cache_dir={folder}"],
        ).judge
        assert isinstance(judge, OpenAIJudge)
        access = JudgeServer(base_url, "m", None, mend="", is_own=True)
        client = JudgeClient(access, judge.calls, concurrency=arguments.concurrency)
        client.check()  # loads the library
        ideal_s = arguments.calls / arguments.concurrency * arguments.latency_s
        for name in ("asked", "cached") if arguments.cached else ("asked",):
            started, cpu = time.perf_counter(), time.process_time()
            answers = client.ask(_prompts(arguments.calls))
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
            assert all(answer.text for answer in answers)
            print(
                f"{name}: {arguments.calls} calls, concurrency {arguments.concurrency}, latency "
                f"{arguments.latency_s:g} s: {seconds:.2f} s (ideal {ideal_s:.2f} s), {cpu_s:.2f} s of CPU"
            )


if __name__ == "__main__":
    main()
