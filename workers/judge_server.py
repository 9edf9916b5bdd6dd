"""The managed judge: a vLLM OpenAI server on the run's own resources, ended with the run.

`JudgeServerActor` reserves the resources and looks after the server, a process of its own (`python -m
workers.judge_server`), since an HTTP server does not belong into an actor.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import runpy
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import JudgeConfig, ManagedJudge, OpenAIJudge, RulesJudge
from videor2_rl.judge.access import JudgeAccess, named_server
from videor2_rl.judge.connection import JudgeServer

logger = logging.getLogger(__name__)

MODEL_NAME = "judge"
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_POLL_S = 0.5
_LOG_TAIL_CHARS = 500
_ERROR = re.compile(r"\b\w*(?:Error|Exception): ")


@contextmanager
def judge_access(judge: JudgeConfig, *, device: Literal["cpu", "cuda"]) -> Iterator[JudgeAccess | None]:
    """The run's judge; a managed one is started on the connected cluster and ended with the block.

    Raises:
        ConfigError: the managed server does not start.
    """
    if isinstance(judge, RulesJudge):
        yield None
        return
    if isinstance(judge, OpenAIJudge):
        yield JudgeAccess(named_server(judge), judge.calls)
        return
    import ray

    from workers.fetch import fetch

    logger.info("starting the judge; its engine takes a minute")
    actor: Any = (
        ray.remote(JudgeServerActor)
        .options(num_cpus=judge.num_cpus, num_gpus=judge.num_gpus, max_concurrency=2)
        .remote(judge, device=device)
    )
    try:
        server: JudgeServer = fetch(actor.start.remote(), deadline_s=judge.start_deadline_s + 60, what="the judge")
        yield JudgeAccess(server, judge.calls)
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # where the actor is gone, its server has ended itself
            ray.get(actor.stop.remote(), timeout=30)
        ray.kill(actor, no_restart=True)


class JudgeServerActor:
    """Starts the server, starts it again when it ends, and ends it (Ray actor; an ordinary object in tests)."""

    def __init__(self, judge: ManagedJudge, *, device: Literal["cpu", "cuda"], host: str | None = None) -> None:
        """
        Args:
            host: address to listen at; None: this node's.
        """
        self._judge = judge
        self._device = device
        self._host = host or _node_address()
        self._port = _free_port(self._host)
        self._api_key = secrets.token_urlsafe(24)
        self._log = Path(tempfile.mkdtemp(prefix="videor2_judge_")) / "server.log"
        self._is_wanted = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: threading.Thread | None = None

    def start(self) -> JudgeServer:
        """Start the server and wait until it serves.

        Raises:
            ConfigError: it ended or took too long; the end of its log is in the sentence.
        """
        self._is_wanted.set()
        self._process = self._spawn()
        self._wait_until_healthy()
        self._watch = threading.Thread(target=self._restart_when_it_ends, daemon=True)
        self._watch.start()
        mend = f"read {self._log} on {socket.gethostname()}, and give judge.model_path more room or another model"
        return JudgeServer(f"{self._root}/v1", MODEL_NAME, self._api_key, mend=mend, is_own=True)

    def pid(self) -> int | None:
        """Of the server, None where there is none."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End the server and everything that it started."""
        self._is_wanted.clear()
        if self._process is None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        if self._watch is not None:
            self._watch.join()
        self._process = None

    @property
    def _root(self) -> str:
        return f"http://{self._host}:{self._port}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "workers.judge_server",
                    str(os.getpid()),
                    *server_arguments(self._judge, device=self._device, host=self._host, port=self._port),
                ],
                stdout=log,
                stderr=log,
                # Its own group, so that its engine processes end with it.
                start_new_session=True,
                env=os.environ | server_env(self._judge, device=self._device, api_key=self._api_key),
            )

    def _wait_until_healthy(self) -> None:
        due = time.monotonic() + self._judge.start_deadline_s
        assert self._process is not None
        while not self._is_healthy():
            code = self._process.poll()
            if code is None and time.monotonic() < due:
                time.sleep(_POLL_S)
                continue
            what = f"ended with code {code}" if code is not None else "did not answer in time"
            tail = log_end(self._log.read_text(errors="replace"))
            self.stop()
            raise ConfigError(
                f"judge=managed: the server of {self._judge.model_path} {what} within judge.start_deadline_s="
                f"{self._judge.start_deadline_s:g}; its log {self._log} ends with: {tail}"
            )

    def _is_healthy(self) -> bool:
        # Not through a proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self._root}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _restart_when_it_ends(self) -> None:
        """Calls are held by their clients until the new one serves."""
        for _ in range(self._judge.max_restarts + 1):
            assert self._process is not None
            self._process.wait()
            if not self._is_wanted.is_set():
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what it may have left behind
            self._process = self._spawn()


def log_end(log: str) -> str:
    """The end of a server's log on one line, behind the error of its engine, which vLLM's own end does not repeat."""
    end = " ".join(log[-_LOG_TAIL_CHARS:].split())
    causes = [line for line in log.splitlines() if _ERROR.search(line) and "See root cause above" not in line]
    cause = " ".join(causes[-1].split())[:_LOG_TAIL_CHARS] if causes else ""
    return end if cause in end else f"{cause} ... {end}"


def server_arguments(judge: ManagedJudge, *, device: Literal["cpu", "cuda"], host: str, port: int) -> list[str]:
    """The command line of vLLM's server."""
    arguments = {
        "model": judge.model_path,
        "served-model-name": MODEL_NAME,
        "host": host,
        "port": str(port),
        "dtype": judge.dtype,
        "tensor-parallel-size": str(judge.tensor_parallel_size),
        "max-model-len": str(judge.max_model_tokens),
        "max-num-seqs": str(judge.calls.concurrency),
        "gpu-memory-utilization": str(judge.gpu_memory_utilization),
        # The judge reads text; without this, memory is kept for pictures.
        "limit-mm-per-prompt": json.dumps({"image": 0, "video": 0}),
        "seed": "0",
    }
    flags = ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
    if device == "cpu":
        arguments["kv-cache-memory-bytes"] = str(judge.kv_cache_gib << 30)
        flags.append("--enforce-eager")
        if judge.tensor_parallel_size == 1:
            arguments["distributed-executor-backend"] = "uni"
    return [part for name, value in arguments.items() for part in (f"--{name}", value)] + flags


def server_env(judge: ManagedJudge, *, device: Literal["cpu", "cuda"], api_key: str) -> dict[str, str]:
    """Environment of the server's process."""
    # The key is no argument, since every user of the node can read those.
    env = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "VLLM_API_KEY": api_key}
    if device == "cpu":
        env |= {
            "OMP_NUM_THREADS": "1",
            # As for the rollout engines: a C++ compiler at every start, minutes of it on a busy machine.
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if judge.tensor_parallel_size == 1 else "1",
        }
    return env


def _node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _end_with_parent(parent: int) -> None:
    """End this process group when the process that started it has gone, killed or not."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run vLLM's server in this process, for as long as the process that started it lives: `PARENT ARGUMENTS...`"""
    # Not os.getppid(): the parent may have gone by now.
    threading.Thread(target=_end_with_parent, args=(int(sys.argv.pop(1)),), daemon=True).start()
    runpy.run_module(_SERVER_MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
