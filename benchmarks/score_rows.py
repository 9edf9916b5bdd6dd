"""Rows a second that `videor2_rl.score` reads, scores and writes on one core, without encoder and judge.

    python -m benchmarks.score_rows

500 questions with 8 responses each, all texts different, four timestamped claims a response, similarities given. Either
claims and a judge's reply are given too, or our rules read both. CPU time, the best of five runs, each with empty
caches.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videor2_rl.app import compose_run
from videor2_rl.config.runs import ScoreRun
from videor2_rl.score import score_files

QUESTION = "What happens first in the clip?\nA. a car enters\nB. a dog leaves\nC. a man turns\nD. nothing moves"
COLOURS = ("red", "blue", "green", "yellow", "black", "white")
THINGS = ("square", "circle", "triangle", "car", "dog", "man", "woman", "bus")
ACTIONS = ("appears", "moves", "leaves", "enters", "turns", "stops", "falls")
REPEATS = 5


def rows(rng: random.Random, *, with_claims: bool) -> Iterator[dict[str, Any]]:
    for question in range(500):
        times = sorted(rng.sample(range(58), 4))
        references = {f"00:{second:02}": f"{event(rng)}." for second in times}
        solution = f"<answer>{rng.choice('ABCD')}</answer>"
        for place in range(8):
            claims = {
                f"00:{second + rng.randint(0, 2):02}": text if rng.random() < 0.6 else f"{event(rng)}."
                for second, text in zip(times, references.values(), strict=True)
            }
            side = rng.choice(("left", "right"))
            told = " ".join(
                f"At {key} {text[0].lower()}{text[1:-1]} near the {side} side." for key, text in claims.items()
            )
            answer = rng.choice("ABCD")
            sentences = [text if with_claims else f"{text[:-1]} near the {side} side." for text in claims.values()]
            yield {
                "id": f"{question}-{place}",
                "response": f"<think>I watch. {told} So the answer is {answer}.</think><answer>{answer}</answer>",
                "question": QUESTION,
                "solution": solution,
                "temporal_grounding": references,
                "similarity": {text: dict.fromkeys(references.values(), 0.8) for text in sentences},
                **({"claims": claims, "judge": {"consistency": "TRUE"}} if with_claims else {}),
            }


def event(rng: random.Random) -> str:
    return f"A {rng.choice(COLOURS)} {rng.choice(THINGS)} {rng.choice(ACTIONS)}"


def seconds(source: Path, run: ScoreRun) -> float:
    """CPU seconds of one run."""
    clear_caches()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        start = time.process_time()
        faults = score_files([source], source.with_suffix(".out"), run)
        assert not faults, faults[0]
        return time.process_time() - start


def clear_caches() -> None:
    """Forget whatever `rewards` remembers of texts."""
    for wrapper in gc.get_objects():
        if isinstance(wrapper, functools._lru_cache_wrapper) and wrapper.__module__.startswith("rewards"):
            wrapper.cache_clear()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for with_claims in (True, False):
            source = Path(folder) / "rows.jsonl"
            lines = [json.dumps(row) for row in rows(random.Random(0), with_claims=with_claims)]
            source.write_text("\n".join(lines))
            for reward in ("video_r2", "video_r2_official"):
                run = compose_run("score", ScoreRun, [f"reward={reward}"])
                best = min(seconds(source, run) for _ in range(REPEATS))
                given = "claims given" if with_claims else "read by rules"
                print(f"{reward:18} {given:14} {len(lines) / best:6.0f} rows/s")


if __name__ == "__main__":
    main()
