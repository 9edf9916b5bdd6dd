"""200 kills at random moments of one asynchronous run: nothing is lost, nothing is trained twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import programs
import pytest

from videor2_rl.dataset import SampleOrder

PROGRAM = Path(__file__).parent / "programs" / "kill_points.py"
LIVES = 200


@pytest.mark.slow
def test_a_run_killed_200_times_trains_every_prompt_once_and_no_length_less_often(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(tmp_path / "run"), "3", str(LIVES)]
    done = subprocess.run(command, env=programs.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["killed"].values()) == LIVES and min(found["killed"].values()) >= 5
    assert len(found["killed"]) == 11

    # By an independent count: which samples cannot be used, and which groups were made all right.
    order = SampleOrder(90, seed=0, shuffle=True)
    numbers = range(found["num_prompts"])
    skipped = [n for n in numbers if order.sample(n) in (7, 31, 32, 33)]
    filtered = [n for n in numbers if n % 11 == 5 and n not in skipped]
    expected = [n for n in numbers if n not in {*skipped, *filtered}]
    # What the model learned, by its weights; and what was written about it.
    assert sorted(found["trained"]) == found["trained_by_the_ledger"] == expected
    assert (found["skipped"], found["filtered"]) == (skipped, filtered)

    rng = {(n, place): np.random.default_rng((n, place)).pareto(1.2) for n in expected for place in range(2)}
    issued = Counter(min(200, 1 + int(value * 4)) for value in rng.values())
    assert Counter(found["lengths"]) == issued and max(issued) == 200
