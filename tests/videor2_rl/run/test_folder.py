"""One writer a folder; skipped samples are recorded once and too many stop the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.resources import Part
from videor2_rl.run.folder import SkipLedger, sole_writer, write_config
from videor2_rl.types import PromptHandle, SkippedSample


def prompt(name: str) -> PromptHandle:
    return PromptHandle(sample_id=name, clip_key=name, num_tokens=3, ref=None)


def skipped(name: str) -> SkippedSample:
    return SkippedSample(name, f"/clips/{name}.mp4", "empty", "0 bytes")


def test_skipped_samples_are_left_out_and_recorded_once(tmp_path: Path) -> None:
    ledger = SkipLedger(tmp_path, num_samples=10, max_frac=0.5)
    assert [p.sample_id for p in ledger.usable([prompt("a"), skipped("b"), prompt("c")])] == ["a", "c"]
    ledger.usable([skipped("b"), skipped("d")])
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["sample_id"] for row in rows] == ["b", "d"]
    assert rows[0] == {"sample_id": "b", "video": "/clips/b.mp4", "reason": "empty", "detail": "0 bytes"}
    assert ledger.count == 2


def test_a_resumed_run_remembers_what_it_skipped(tmp_path: Path) -> None:
    SkipLedger(tmp_path, num_samples=10, max_frac=0.5).usable([skipped("b")])
    ledger = SkipLedger(tmp_path, num_samples=10, max_frac=0.5)
    ledger.usable([skipped("b")])
    assert ledger.count == 1


def test_a_resumed_run_forgets_what_was_skipped_after_its_checkpoint_and_a_line_cut_off(tmp_path: Path) -> None:
    SkipLedger(tmp_path, num_samples=10, max_frac=0.5).usable([skipped("a"), skipped("b")])
    with (tmp_path / "skipped.jsonl").open("a") as file:
        file.write('{"sample_id": "c", "vid')
    assert SkipLedger(tmp_path, num_samples=10, max_frac=0.5).count == 2
    ledger = SkipLedger(tmp_path, num_samples=10, max_frac=0.5, keep=1)
    ledger.usable([skipped("b"), skipped("c")])
    rows = [json.loads(line)["sample_id"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert rows == ["a", "b", "c"] and ledger.count == 3


def test_more_than_the_allowed_share_stops_the_run_and_names_the_file(tmp_path: Path) -> None:
    ledger = SkipLedger(tmp_path, num_samples=10, max_frac=0.2)
    ledger.usable([skipped("a"), skipped("b")])
    with pytest.raises(ConfigError, match=r"3 of 10 samples.*max_skipped_frac=0\.2.*skipped\.jsonl"):
        ledger.usable([skipped("c")])


def test_a_second_writer_is_refused_and_a_dead_one_forgotten(tmp_path: Path) -> None:
    hold = (
        "from pathlib import Path\nfrom videor2_rl.run.folder import sole_writer\n"
        f"with sole_writer(Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    input()"
    )
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {process.pid} on .* is writing"), sole_writer(tmp_path):
        pass
    process.kill()
    process.wait()
    with sole_writer(tmp_path):
        pass


@pytest.mark.parametrize(("code", "recorded"), [(0, {"git_revision": "abc123-dirty"}), (1, {}), (128, {})])
def test_the_revision_of_the_source_tree_is_recorded_where_git_knows_one(
    code: int, recorded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\necho abc123-dirty\nexit {code}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    write_config(tmp_path, Part("rollout worker", 2, 1, 0, "rollout.num_workers"))
    made_by = yaml.safe_load((tmp_path / "config.yaml").read_text())["made_by"]
    assert {name: value for name, value in made_by.items() if name == "git_revision"} == recorded
    assert made_by["command"] == sys.argv
