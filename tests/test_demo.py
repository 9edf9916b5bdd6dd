"""The main job in small, by the commands that a user types: SFT, GRPO, kill and resume, ablations, a submitted job.

One small data set and one SFT checkpoint serve all tests: long enough in training that its rollouts earn different
rewards, so that GRPO has something to do.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from documents import OURS, ROOT

from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.rollout_index import INDEX_FILE, open_index, update_index
from videor2_rl.run.tracking import read_metrics
from videor2_rl.training.ledger import check_ledger

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SFT_STEPS = 60
TIMINGS = ("timing_s/", "perf/")
"""Metrics that two equal runs need not share."""


@pytest.fixture(scope="module")
def short_temp() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets live in it."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from videor2_rl.make_demo import main

    folder = tmp_path_factory.mktemp("data")
    sizes = ["--base-clips=120", "--sft-clips=8", "--grpo-clips=24", "--heldout-clips=12", "--validation-clips=4"]
    assert main(["--output", str(folder), *sizes]) == 0
    return folder


def app(name: str, *overrides: str, data: Path, temp: Path) -> list[str]:
    common = [f"data.media_dir={data}", f"video.cache_dir={data}/cache", f"cluster.temp_dir={temp}"]
    return [sys.executable, "-m", f"videor2_rl.{name}", *overrides, *common]


def run(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **kwargs)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    return result


@pytest.fixture(scope="module")
def sft_run(data: Path, short_temp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft") / "run"
    overrides = ["experiment=demo_base", f"model.path={data}/model", f"output_dir={folder}"]
    sizes = [f"sft.num_steps={SFT_STEPS}", "sft.validate_every=30", "learner.warmup_steps=5"]
    sizes += ["logging.trackers=[tensorboard]"]
    run(app("sft", *overrides, *sizes, data=data, temp=short_temp))
    return folder


def grpo(sft: Path, output: Path, *overrides: str, data: Path, temp: Path) -> list[str]:
    sizes = ["algorithm.num_steps=3", "algorithm.prompts_per_step=4", "algorithm.group_size=4"]
    # Quoted: a sweep's folders are named by overrides.
    fixed = ["experiment=demo", f"model.path={sft}/hf", f"output_dir='{output}'", "checkpoint.every_steps=1"]
    return app("grpo", *fixed, *sizes, "algorithm.kl_coefficient=0.01", *overrides, data=data, temp=temp)


@pytest.fixture(scope="module")
def ablations(sft_run: Path, data: Path, short_temp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder: the paper's reward, and the one without its temporal term."""
    folder = tmp_path_factory.mktemp("grpo")
    command = grpo(sft_run, folder, "logging.trackers=[wandb,tensorboard]", data=data, temp=short_temp)
    sweep = ["-m", "reward=video_r2,no_tar"]
    run([*command[:3], *sweep, *command[3:]], env={**os.environ, "WANDB_MODE": "offline"})
    return folder


@pytest.fixture(scope="module")
def grpo_run(ablations: Path) -> Path:
    [folder] = ablations.glob("*reward=video_r2*")
    return folder


def test_sft_lowers_training_and_validation_loss_and_exports_a_checkpoint(sft_run: Path) -> None:
    rows = read_metrics(sft_run)
    assert [row["step"] for row in rows] == list(range(1, SFT_STEPS + 1))
    assert rows[-1]["sft/loss"] < 0.5 * rows[0]["sft/loss"]
    validation = [row["sft/validation_loss"] for row in rows if "sft/validation_loss" in row]
    assert len(validation) == 2 and validation[1] < validation[0]
    assert rows[-1]["data/decodes_per_clip"] == 1.0
    from transformers import AutoModelForImageTextToText, AutoProcessor

    AutoProcessor.from_pretrained(sft_run / "hf")
    AutoModelForImageTextToText.from_pretrained(sft_run / "hf")


def test_trackers_get_what_metrics_jsonl_has(sft_run: Path, grpo_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for folder, metric in ((sft_run, "sft/loss"), (grpo_run, "reward/mean")):
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        logged = [(event.step, event.value) for event in events.Scalars(metric)]
        assert logged == [(row["step"], pytest.approx(row[metric])) for row in read_metrics(folder)]
    assert len(list((grpo_run / "wandb").glob("offline-run-*"))) == 1


def test_grpo_trains_from_the_policy_it_samples_from(grpo_run: Path) -> None:
    rows = read_metrics(grpo_run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["actor/policy_version"] for row in rows] == [1, 2, 3]
    # Before the first update the policy is the reference, and at every step vLLM holds what the learner holds.
    assert abs(rows[0]["actor/kl"]) < 1e-8
    assert rows[-1]["actor/kl"] > 1e-8
    for row in rows:
        assert row["rollout/log_prob_gap_max"] < 1e-4
        assert abs(row["actor/ratio_mean"] - 1) < 1e-5
    assert any(row["reward/std"] > 0 and row["actor/grad_norm"] > 0 for row in rows)


def test_the_rollout_log_has_each_token_s_gap_and_entropy(grpo_run: Path) -> None:
    """They make the metrics of the step."""
    for row in read_metrics(grpo_run):
        lines = (grpo_run / "rollouts" / f"step_{row['step']:06d}.jsonl").open()
        responses = [one for line in lines for one in json.loads(line)["responses"] if one["advantage"] is not None]
        entropy = np.concatenate([one["entropy"] for one in responses])
        gaps = np.concatenate([np.subtract(one["learner_log_probs"], one["log_probs"]) for one in responses])
        assert len(entropy) == row["actor/tokens"]
        assert entropy.mean() == pytest.approx(row["actor/entropy"], abs=1e-4)
        assert np.abs(gaps).max() == pytest.approx(row["rollout/log_prob_gap_max"], abs=1e-6)


def test_each_clip_of_a_grpo_run_is_decoded_once(grpo_run: Path) -> None:
    assert [row["data/decodes_per_clip"] for row in read_metrics(grpo_run)] == [1.0, 1.0, 1.0]


def test_a_grpo_run_leaves_its_folder_complete(grpo_run: Path) -> None:
    names = {path.name for path in grpo_run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "ledger.jsonl", "rollouts", "checkpoints", "hf", "finished"} <= names
    [first, *others] = [json.loads(line) for line in (grpo_run / "rollouts" / "step_000001.jsonl").open()]
    assert len(others) == 3 and len(first["responses"]) == 4
    assert len(first["frame_times_s"]) == 16
    assert len(first["responses"][0]["token_ids"]) == len(first["responses"][0]["log_probs"])


def test_a_grpo_run_indexes_its_rollouts_as_it_goes(grpo_run: Path) -> None:
    assert update_index(grpo_run) == []
    index = open_index(grpo_run / INDEX_FILE)
    assert index.execute("select count(*), max(step) from groups").fetchone()[:] == (12, 3)
    index.close()


def test_a_step_computed_again_is_the_logged_one_down_to_its_loss(grpo_run: Path) -> None:
    found = run([sys.executable, "-m", "videor2_rl.replay", str(grpo_run), "--step", "3", "--loss"])
    assert "verdicts, rewards and advantages are those of the log" in found.stdout
    assert "the update is the logged one" in found.stdout


def test_a_finished_run_is_not_overwritten(sft_run: Path, grpo_run: Path, data: Path, short_temp: Path) -> None:
    command = grpo(sft_run, grpo_run, data=data, temp=short_temp)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.strip().startswith("error: output_dir:") and "finished run" in result.stderr


def test_a_run_killed_at_a_random_moment_ends_with_the_same_metrics(
    sft_run: Path, grpo_run: Path, data: Path, short_temp: Path, tmp_path: Path
) -> None:
    command = grpo(sft_run, tmp_path / "run", data=data, temp=short_temp)
    # Its own session: nothing that the test runner needs is in the group that is killed.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    step = random.choice([1, 2])
    deadline = time.monotonic() + 500
    while len(read_metrics(tmp_path / "run")) < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "finished").exists()
    _wait_for_engines_to_end(process.pid)
    run(command)
    whole, resumed = read_metrics(grpo_run), read_metrics(tmp_path / "run")
    assert [row["step"] for row in resumed] == [1, 2, 3]
    for expected, found in zip(whole, resumed, strict=True):
        names = [name for name in expected if not name.startswith(TIMINGS) and "log_prob_gap" not in name]
        assert names
        for name in names:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), f"step {expected['step']}: {name}"
    for name in ("step_000001.jsonl", "step_000002.jsonl", "step_000003.jsonl"):
        texts = [
            [[r["text"] for r in json.loads(line)["responses"]] for line in (folder / "rollouts" / name).open()]
            for folder in (grpo_run, tmp_path / "run")
        ]
        assert texts[0] == texts[1]


def _wait_for_engines_to_end(session: int) -> None:
    """vLLM's engine is no child of Ray's: it must notice by itself that the run was killed."""
    deadline = time.monotonic() + 60
    while left := [
        p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("VLLM") and _session(p.pid) == session
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_its_last_whole_step_and_says_how_to_go_on(
    number: signal.Signals, data: Path, short_temp: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    if number == signal.SIGINT:
        fixed = ["experiment=demo_base", f"model.path={data}/model", f"output_dir={folder}", "sft.num_steps=5000"]
        command = app("sft", *fixed, "checkpoint.every_steps=1000", data=data, temp=short_temp)
    else:
        fixed = ["experiment=smoke", f"model.path={data}/model", f"output_dir={folder}", "algorithm.num_steps=5000"]
        # With groups on their way that no step has taken yet.
        fixed += ["data.make_demo=null", "checkpoint.every_steps=1000", "algorithm.max_staleness=2"]
        command = app("grpo", *fixed, data=data, temp=short_temp)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts its background jobs, this test among them perhaps, with Ctrl-C ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 500
    while len(read_metrics(folder)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    if number == signal.SIGINT:
        # As a terminal does it: to every process in the foreground.
        os.killpg(process.pid, number)
    else:
        # As a job's supervisor does it: to the process that it started.
        process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    steps = [row["step"] for row in read_metrics(folder)]
    newest = Checkpoints(folder, keep=1).newest()
    assert newest is not None and newest.step == steps[-1]
    said = errors[errors.index(number.name) :].strip().splitlines()
    assert len(said) == 2, errors
    assert f"output_dir={folder} goes on after step {steps[-1]}" in said[1]


def test_ablations_write_a_folder_each(ablations: Path) -> None:
    assert sum(path.is_dir() for path in ablations.iterdir()) == 2
    names = ("no_tar", "video_r2")
    [no_tar], [full] = ([read_metrics(path)[0] for path in ablations.glob(f"*reward={name}*")] for name in names)
    # The same weights and seed give the same rollouts; what is paid for them differs by the temporal term alone.
    assert no_tar["reward/accuracy"] == full["reward/accuracy"]
    assert no_tar["reward/mean"] + full["reward/temporal_alignment"] == pytest.approx(full["reward/mean"], abs=1e-5)


def test_evaluation_of_two_checkpoints_by_the_same_workers(
    sft_run: Path, data: Path, short_temp: Path, tmp_path: Path
) -> None:
    checkpoints = f"[base:{data}/model,sft:{sft_run}/hf]"
    overrides = ["experiment=demo_evaluate", f"output_dir={tmp_path}", f"model.path={sft_run}/hf"]
    run(app("evaluate", *overrides, f"evaluation.checkpoints={checkpoints}", data=data, temp=short_temp))
    summary = {
        (stage, mode): json.loads((tmp_path / "evaluation" / stage / mode / "summary.json").read_text())
        for stage in ("base", "sft")
        for mode in ("sampled", "greedy")
    }
    assert all(value["num_samples"] == 12 for value in summary.values())
    # Random weights never write the format; the trained ones, pushed into the same engine, mostly do.
    assert summary["base", "sampled"]["metrics"]["format"]["mean"] == 0
    assert summary["sft", "greedy"]["metrics"]["format"]["mean"] > 0.5


def test_the_driver_receives_little_more_than_the_responses(grpo_run: Path) -> None:
    """No pixel or token id of a prompt, whose ids alone would be a quarter more (tests/workers/test_video.py: to the
    byte)."""
    for row in read_metrics(grpo_run):
        groups = [json.loads(line) for line in (grpo_run / "rollouts" / f"step_{row['step']:06d}.jsonl").open()]
        tokens = sum(len(response["token_ids"]) for group in groups for response in group["responses"])
        # Each with ids and log-probs by several policies, and its text; 41 to 45 bytes were measured.
        assert 0 < row["perf/driver_received_bytes"] < 50 * tokens


def test_a_job_submitted_to_a_cluster(short_temp: Path, tmp_path: Path) -> None:
    # Without a token on both sides, and with this environment's python first for the job.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    ray = str(Path(sys.executable).with_name("ray"))
    # The agent's own port too: jobs go through it, and another cluster of this machine may hold the default.
    port, dashboard, agent = random.sample(range(20000, 30000), 3)
    # As many as the smallest machine has: the run must not wait for more.
    head = [ray, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    head += [f"--dashboard-agent-listen-port={agent}"]
    head += [f"--temp-dir={short_temp / 'head'}", "--object-store-memory=300000000", "--include-dashboard=true"]
    cluster = subprocess.Popen(
        head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        submit = [ray, "job", "submit", f"--address=http://127.0.0.1:{dashboard}", "--working-dir=.", "--"]
        job = ["python", "-m", "videor2_rl.grpo", "experiment=smoke", f"output_dir={tmp_path / 'smoke'}"]
        job += [f"data.media_dir={tmp_path / 'data'}", f"video.cache_dir={tmp_path / 'cache'}"]
        # With rollouts ahead of the learner.
        job += ["algorithm.max_staleness=1", "algorithm.num_steps=4"]
        _when_up(dashboard, cluster)
        run([*submit, *job], cwd=Path(__file__).parents[1], env=environment)
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(timeout=60)
    rows = read_metrics(tmp_path / "smoke")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["rollout/staleness_max"] <= 1 for row in rows] == [True] * 4
    assert check_ledger(tmp_path / "smoke", num_prompts=8).startswith("ledger: 8 prompts, 8 trained; 0 lost, 0 twice")
    assert (tmp_path / "smoke" / "finished").exists()


def _when_up(port: int, cluster: subprocess.Popen[bytes]) -> None:
    """Wait until the dashboard takes jobs."""
    from urllib.error import URLError
    from urllib.request import urlopen

    deadline = time.monotonic() + 120
    while True:
        assert cluster.poll() is None and time.monotonic() < deadline
        try:
            urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5).close()
            return
        except URLError:
            time.sleep(0.5)


def test_the_small_commands_of_the_readme_run_as_they_are_written(
    data: Path, sft_run: Path, grpo_run: Path, tmp_path: Path
) -> None:
    """One after the other in a folder where the demo was run: data, SFT and GRPO are those of the tests above."""
    outputs = tmp_path / "outputs"
    shutil.copytree(grpo_run, outputs / "demo" / "grpo")
    (outputs / "demo" / "sft").symlink_to(sft_run)
    (outputs / "demo_data").symlink_to(data)
    names = ("score", "preview", "convert", "export", "doctor", "report outputs/demo")
    written = {one.text for one in OURS if one.where.startswith("README.md")}
    small = sorted(text for text in written if any(f"videor2_rl.{name}" in text for name in names))
    assert len(small) == len(names)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for text in small:
        run(["sh", "-c", text], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path})
    for left in ("preview.html", "rows.parquet", "scores.jsonl", "exported/model.safetensors"):
        assert (tmp_path / left).exists(), left


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rollout.num_worker=2", "did you mean rollout.num_workers?"),
        ("model.path=/nowhere", "model.path: there is no folder /nowhere"),
        ("data.train_file=/nowhere.json", "/nowhere.json"),
        ("algorithm.group_size=1", "algorithm.group_size: found 1"),
    ],
)
def test_a_mistake_ends_with_one_sentence_before_any_engine_starts(
    override: str, sentence: str, data: Path, short_temp: Path, tmp_path: Path
) -> None:
    fixed = ["experiment=demo", f"model.path={data}/model", f"output_dir={tmp_path}/run"]
    result = subprocess.run(
        app("grpo", *fixed, override, data=data, temp=short_temp), capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_smoke_experiment_is_a_complete_configuration() -> None:
    assert compose_run("grpo", GrpoRun, ["experiment=smoke"]).data.make_demo is not None
