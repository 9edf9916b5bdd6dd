"""The managed judge: a real vLLM server on the CPU, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from rewards.judge import JudgePrompt
from videor2_rl.app import compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.judge import ManagedJudge
from videor2_rl.config.runs import GrpoRun
from videor2_rl.judge.client import JudgeClient
from workers.judge_server import JudgeServerActor, log_end, server_arguments, server_env


def managed(model_path: Path, *overrides: str) -> ManagedJudge:
    run = compose_run(
        "grpo",
        GrpoRun,
        [
            *("model.path=m", "data.train_file=t", "data.media_dir=d", "cluster=cpu", "model.dtype=float32"),
            *("judge=managed_cpu", f"judge.model_path={model_path}", "judge.max_model_tokens=1024"),
            *("judge.calls.max_tokens=8", "judge.calls.concurrency=4", "judge.calls.cache_dir=null"),
            *overrides,
        ],
    )
    assert isinstance(run.judge, ManagedJudge)
    return run.judge


def group_is_gone(group: int) -> bool:
    """Whether no process of the group lives, waiting a little."""
    for _ in range(100):
        alive = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout.split()
        if all(state.startswith("Z") for state in alive):
            return True
        time.sleep(0.2)
    return False


def test_the_command_line_holds_no_key_and_binds_to_one_address() -> None:
    judge = managed(Path("m"), "judge.kv_cache_gib=2")
    arguments = server_arguments(judge, device="cpu", host="10.0.0.7", port=81)
    assert arguments[arguments.index("--host") + 1] == "10.0.0.7"
    assert "--enforce-eager" in arguments
    assert arguments[arguments.index("--kv-cache-memory-bytes") + 1] == "2147483648"
    assert "--enforce-eager" not in server_arguments(judge, device="cuda", host="10.0.0.7", port=81)
    assert server_env(judge, device="cpu", api_key="secret")["VLLM_API_KEY"] == "secret"
    assert "secret" not in " ".join(arguments)


def test_an_engine_on_the_cpu_compiles_nothing_and_one_on_a_gpu_is_left_alone() -> None:
    judge = managed(Path("m"))
    assert server_env(judge, device="cpu", api_key="k")["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in server_env(judge, device="cuda", api_key="k")


def test_the_end_of_a_log_names_the_engines_error_where_the_servers_own_end_does_not() -> None:
    engine = "(EngineCore pid=7) ValueError: Available memory on node 0 (0.4/16 GiB) is less than requested"
    server = "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above."
    stack = "\n".join(f"(APIServer pid=6)   File api_server.py, line {number}" for number in range(40))
    end = log_end(f"start\n{engine}\n{stack}\n{server}\n")
    assert end.startswith(f"{engine} ... ") and end.endswith(server) and "\n" not in end
    assert log_end("start\nOSError: no\n  such file\n") == "start OSError: no such file"
    assert log_end("killed\n") == "killed"


@pytest.mark.slow
def test_a_managed_judge_answers_and_leaves_no_process(tiny_model_dir: Path) -> None:
    judge = managed(tiny_model_dir)
    actor = JudgeServerActor(judge, device="cpu", host="127.0.0.1")
    server = actor.start()
    pid = actor.pid()
    assert pid is not None
    try:
        client = JudgeClient(server, judge.calls, concurrency=2)
        client.check()
        [answer] = client.ask([JudgePrompt("answer", "test", "Name a letter.", "Which?", {"type": "object"})])
        client.close()
        assert answer.failure is None and answer.text is not None and answer.text.startswith("{")
    finally:
        actor.stop()
    assert group_is_gone(pid)


@pytest.mark.slow
def test_a_managed_judge_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    actor = JudgeServerActor(managed(tmp_path), device="cpu", host="127.0.0.1")
    with pytest.raises(ConfigError) as error:
        actor.start()
    assert "ended with code" in str(error.value) and str(tmp_path) in str(error.value)
    assert actor.pid() is None


@pytest.mark.slow
def test_the_server_ends_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import json, sys, time\n"
        "from pydantic import TypeAdapter\n"
        "from videor2_rl.config.judge import ManagedJudge\n"
        "from workers.judge_server import JudgeServerActor\n"
        "judge = TypeAdapter(ManagedJudge).validate_json(sys.argv[1])\n"
        "print(JudgeServerActor(judge, device='cpu', host='127.0.0.1')._spawn().pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    values = TypeAdapter(ManagedJudge).dump_json(managed(tmp_path)).decode()
    parent = subprocess.Popen([sys.executable, "-c", program, values], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
        assert group_is_gone(pid)
    finally:
        parent.kill()
        if not group_is_gone(pid):
            os.killpg(pid, signal.SIGKILL)
