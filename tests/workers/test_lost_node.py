"""Object stores that are full, and a whole Ray node that is lost: nothing of the work is."""

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
def test_what_overflows_the_object_store_is_whole_and_others_do_the_work_of_a_lost_node(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=programs.environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        # Twelve objects of 30 MiB and one of 130 MiB in two stores of 100 MiB: what does not fit is on the disk.
        "stored_whole": 13,
        "nodes_before": 2,
        "numbers": [0, 1, 2, 3, 4, 5],
        "nodes_after": 1,
        "replacements": 1,
        "states": ["serving", "starting"],
    }
