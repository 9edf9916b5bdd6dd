"""A whole Ray node is lost: its work is done by what is left, and its replacement waits for room."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import programs
import pytest

PROGRAM = Path(__file__).parent / "programs" / "lost_node.py"


@pytest.mark.slow
@pytest.mark.ray
def test_the_work_of_a_lost_node_is_done_by_the_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=programs.environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "nodes_before": 2,
        "numbers": [0, 1, 2, 3, 4, 5],
        "nodes_after": 1,
        "replacements": 1,
        "states": ["serving", "starting"],
    }
