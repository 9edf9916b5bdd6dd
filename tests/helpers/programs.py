"""Programs that tests start as processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    """This process's, in which programs find the helpers too."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def run_ranks(program: Path, *arguments: str, num_ranks: int, logs: Path, timeout_s: float = 800) -> list[str]:
    """Start `program RANK PORT ARGUMENTS` once for each rank and wait for all; what each of them said, warnings too.

    Args:
        logs: a folder.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    files = [logs / f"rank_{rank}_of_{num_ranks}.log" for rank in range(num_ranks)]
    ranks = []
    for rank, file in enumerate(files):
        with file.open("w") as log:
            command = [sys.executable, str(program), str(rank), port, *arguments]
            ranks.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment()))
    try:
        codes = [process.wait(timeout=timeout_s) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    said = [file.read_text() for file in files]
    assert codes == [0] * num_ranks, said[0][-3000:]
    return said
