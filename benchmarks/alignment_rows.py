"""Claims read a second by the rules, and responses a second through the reward with the sentence encoder.

    python -m benchmarks.alignment_rows

The rows of benchmarks.score_rows: think texts of six sentences, four of them timestamped claims. The encoder works on
1,000 responses: all their sentences in one call as a reward worker does it, one call for each response as the paper's
code does it, and again with every sentence in the cache. CPU time on one core, medians of three runs.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.score_rows import clear_caches, rows
from rewards.compose import score_response, sentences_to_encode
from rewards.text.claims import read_claims
from rewards.text.parsing import read_blocks
from rewards.types import Target
from videor2_rl.app import compose_run
from videor2_rl.config.runs import ScoreRun
from videor2_rl.scoring.similarity import SentenceEncoder

NUM_ENCODED = 1_000
REPEATS = 3


def main() -> None:
    made = list(rows(random.Random(0), with_claims=False))
    texts = [row["response"] for row in made]
    thinks = [read_blocks(text, answer_block="last").think or "" for text in texts]

    def parse() -> None:
        clear_caches()
        for think in thinks:
            read_claims(think)

    print(f"{'claims read by rules':28} {len(thinks) / cpu_s(parse):6.0f} responses/s")

    reward = compose_run("score", ScoreRun, []).reward
    targets = [Target(row["question"], row["solution"], (), None, row["temporal_grounding"]) for row in made]
    sample = list(zip(texts, targets, strict=True))[:NUM_ENCODED]

    def score(encoders: Iterator[SentenceEncoder], *, batched: bool) -> None:
        encoder = next(encoders)
        if batched:
            encoder.encode(sentences_to_encode([text for text, _ in sample], [target for _, target in sample], reward))
        for text, target in sample:
            score_response(text, target, reward, similarity=encoder.similarity)

    full = loaded_encoder()
    score(iter([full]), batched=True)
    for name, batched, encoders in (
        ("one encoder call for all", True, [loaded_encoder() for _ in range(REPEATS)]),
        ("one for each response", False, [loaded_encoder() for _ in range(REPEATS)]),
        ("every sentence cached", True, [full] * REPEATS),
    ):
        seconds = cpu_s(partial(score, iter(encoders), batched=batched))
        print(f"{name:28} {len(sample) / seconds:6.0f} responses/s")


def loaded_encoder() -> SentenceEncoder:
    """With its model, and nothing but one sentence in the cache."""
    encoder = SentenceEncoder()
    encoder.encode(["The model is loaded before the clock starts."])
    return encoder


def cpu_s(work: Callable[[], object]) -> float:
    """Median CPU seconds of some runs."""
    measured = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        measured.append(time.process_time() - start)
    return statistics.median(measured)


if __name__ == "__main__":
    main()
