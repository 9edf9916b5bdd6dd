"""Programs that tests start as processes of their own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path


def environment() -> dict[str, str]:
    """This process's, in which programs find the helpers too."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


@functools.cache
def ranks_context() -> ForkServerContext:
    """Starts processes that hold what a learner rank imports, which takes longer than most of what they then do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "transformers.models.qwen2_5_vl", "workers.learner.rank"])
    return context


def run_ranks(program: Path, *arguments: str, num_ranks: int, logs: Path, timeout_s: float = 800) -> list[str]:
    """Start `program RANK PORT ARGUMENTS` once for each rank and wait for all; what each of them said, warnings too.

    Args:
        logs: a folder.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    files = [logs / f"rank_{rank}_of_{num_ranks}.log" for rank in range(num_ranks)]
    ranks = [
        ranks_context().Process(target=_run, args=(program, [str(rank), port, *arguments], file))
        for rank, file in enumerate(files)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(timeout_s)
        codes = [process.exitcode for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    said = [file.read_text() for file in files]
    assert codes == [0] * num_ranks, said[0][-3000:]
    return said


def _run(program: Path, arguments: list[str], log: Path) -> None:
    import torch

    said = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(said, stream)
    # PyTorch makes a forked process's thread pool anew, which several threads at once must not (kill_and_resume.py).
    torch.set_num_threads(1)
    sys.argv = [str(program), *arguments]
    sys.path.insert(0, str(program.parent))
    runpy.run_path(str(program), run_name="__main__")
