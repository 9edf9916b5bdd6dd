"""What tells a worker that stands still from one that others keep from the processors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers.rollout.heart import waited_s


def spent_s(process: psutil.Process) -> tuple[float, float]:
    """Seconds on a processor, and in wait for one."""
    times = process.cpu_times()
    return times.user + times.system, waited_s(Path(f"/proc/{process.pid}/task/{process.pid}"))


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not say how long threads wait")
def test_who_shares_a_processor_waits_and_who_is_stopped_does_not() -> None:
    core = min(os.sched_getaffinity(0))
    busy = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    both = [subprocess.Popen(busy) for _ in range(2)]
    try:
        process = psutil.Process(both[0].pid)
        while min(spent_s(process)) < 0.2:
            time.sleep(0.05)
        both[0].send_signal(signal.SIGSTOP)
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        stopped = spent_s(process)
        time.sleep(0.3)
        assert spent_s(process) == stopped
    finally:
        for one in both:
            one.kill()
            one.wait()


def test_a_thread_that_is_gone_has_not_waited(tmp_path: Path) -> None:
    assert waited_s(tmp_path) == 0.0
