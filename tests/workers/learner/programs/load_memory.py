"""One of two gloo ranks, without Ray: the most memory of its own that loading a checkpoint took.

python load_memory.py RANK PORT WARM_UP_FOLDER MODEL_FOLDER CASE

Cases are those of `train_backend.py`; what the libraries take is taken by the warm-up's model. Pages of a mapped file
are the system's, which drops them as it likes, and do not count.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train_backend import make_worker


def main() -> None:
    rank, port, warm_up, folder, case = sys.argv[1:]
    os.environ.update(RANK=rank, WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from workers.learner.verl_config import learner_env

    os.environ.update(learner_env("cpu"), RAY_LOCAL_WORLD_SIZE="2")
    warm = make_worker(warm_up, case=case)
    give_back_freed_memory()
    warm.start(0)
    worker = make_worker(folder, case=case)
    give_back_freed_memory()
    gc.collect()
    before = anonymous_bytes()
    with watched() as seen:
        worker.start(0)
    print("PEAK", max(seen) - before)


def give_back_freed_memory() -> None:
    """Unlike in a run, freed blocks of 128 KiB or more go back to the system at once, so that none is counted twice."""
    libc = ctypes.CDLL(None)
    for option, value in ((-1, 1 << 17), (-2, 0), (-3, 1 << 17)):
        libc.mallopt(option, value)


@contextmanager
def watched() -> Iterator[list[int]]:
    """What the process holds, looked at every millisecond."""
    seen = [anonymous_bytes()]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            seen.append(anonymous_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    done.set()
    thread.join()


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) * 1024


if __name__ == "__main__":
    main()
