"""Memory of a process and of those that it started, and the most of several."""

from __future__ import annotations

import subprocess
import sys

from workers.memory import most, process_memory


def test_a_process_counts_those_that_it_started() -> None:
    alone = process_memory()["rss"]
    block = 64
    hold = f"block = bytearray({block} << 20); block[:] = b'x' * len(block); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        both = process_memory()["rss"]
        child.stdin.close()
    assert both - alone > block / 2
    assert both - process_memory()["rss"] > block / 2


def test_of_several_processes_the_largest_counts_kind_by_kind() -> None:
    assert most([{"rss": 3.0, "gpu": 1.0}, {"rss": 2.0, "gpu": 5.0}, {"rss": 1.0}]) == {"rss": 3.0, "gpu": 5.0}
    assert most([]) == {}
