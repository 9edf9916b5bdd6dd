"""The index says what the log says, whoever wrote it and when."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from viewed_runs import make_record, with_failure, write_step

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import write_jsonl_atomic
from videor2_rl.run.rollout_index import (
    INDEX_FILE,
    KINDS,
    index_step,
    kind_of_group,
    open_index,
    read_group,
    update_index,
)
from videor2_rl.run.rollout_log import read_rollouts, remove_rollouts_after


def rows(run_dir: Path, table: str) -> list[dict[str, Any]]:
    index = open_index(run_dir / INDEX_FILE)
    found = [dict(row) for row in index.execute(f"select * from {table}")]
    index.close()
    return found


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in (1, 2):
        write_step(tmp_path, step, [make_record(10 * step + n, seed=n, size=3, video="a.mp4") for n in range(2)])
    return tmp_path


def test_every_group_is_read_again_by_its_bytes_alone(run_dir: Path) -> None:
    index = open_index(run_dir / INDEX_FILE)
    for step in (1, 2):
        for record in read_rollouts(run_dir / "rollouts" / f"step_{step:06d}.jsonl"):
            assert read_group(run_dir, index, step=step, group_id=record["group_id"]) == record
    assert read_group(run_dir, index, step=1, group_id=99) is None


def test_the_rows_are_the_log_s_numbers(run_dir: Path) -> None:
    [first, *_] = read_rollouts(run_dir / "rollouts" / "step_000001.jsonl")
    group = rows(run_dir, "groups")[0]
    rewards = [response["reward"] for response in first["responses"]]
    assert group["reward_mean"] == pytest.approx(sum(rewards) / 3)
    assert (group["reward_min"], group["reward_max"]) == (min(rewards), max(rewards))
    for row, response in zip(rows(run_dir, "responses"), first["responses"], strict=False):
        assert (row["text"], row["reward"], row["tokens"]) == (
            response["text"],
            response["reward"],
            len(response["token_ids"]),
        )
        assert row["tar_precision"] == response["metrics"]["tar_precision"]


def test_an_index_made_anew_is_the_one_that_the_run_wrote(run_dir: Path) -> None:
    written = {table: rows(run_dir, table) for table in ("groups", "responses", "files")}
    (run_dir / INDEX_FILE).unlink()
    assert update_index(run_dir) == [1, 2]
    assert {table: rows(run_dir, table) for table in written} == written
    assert update_index(run_dir) == []


def test_a_damaged_or_older_index_is_made_anew(run_dir: Path) -> None:
    (run_dir / INDEX_FILE).write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    assert update_index(run_dir) == [1, 2]
    index = sqlite3.connect(run_dir / INDEX_FILE)
    index.execute("pragma user_version = 99")
    index.close()
    assert update_index(run_dir) == [1, 2]


def test_steps_that_a_run_takes_back_or_does_again_are_followed(run_dir: Path) -> None:
    remove_rollouts_after(run_dir, 1)
    assert update_index(run_dir) == []
    assert {row["step"] for row in rows(run_dir, "groups")} == {1}
    write_step(run_dir, 2, [make_record(77, seed=5, size=2, video="b.mp4")], index=False)
    assert update_index(run_dir) == [2]
    assert [row["group_id"] for row in rows(run_dir, "groups") if row["step"] == 2] == [77]


def test_a_reader_that_holds_the_index_never_stops_the_run(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    hanging = sqlite3.connect(run_dir / INDEX_FILE, isolation_level=None)
    hanging.execute("begin exclusive")
    file = run_dir / "rollouts" / "step_000003.jsonl"
    write_jsonl_atomic(file, [make_record(30, seed=1, size=2, video="a.mp4")])
    index_step(file)
    assert "step_000003.jsonl is not in the index of rollouts yet" in caplog.text
    hanging.execute("rollback")
    hanging.close()
    assert update_index(run_dir) == [3]


def test_a_broken_line_is_named(run_dir: Path) -> None:
    file = run_dir / "rollouts" / "step_000003.jsonl"
    file.write_text('{"group_id": 1, "sample_id": "a", "responses": []}\n{"no": "group"}\n')
    with pytest.raises(ConfigError, match=r"step_000003\.jsonl, line 2 is no group"):
        update_index(run_dir)
    file.write_text('{"group_id": 1, "sample_id": "a", "responses": [{}]}\n')
    with pytest.raises(ConfigError, match=r"step_000003\.jsonl: group 1 is not as a run logs it"):
        update_index(run_dir)


def test_a_run_without_rollouts_gets_no_index(tmp_path: Path) -> None:
    assert update_index(tmp_path) == []
    assert not (tmp_path / INDEX_FILE).exists()


def test_a_failure_is_no_zero(tmp_path: Path) -> None:
    write_step(tmp_path, 1, [with_failure(make_record(1, seed=2, size=3, video="a.mp4"), 0)])
    [group] = rows(tmp_path, "groups")
    assert (group["num_unpaid"], group["kind"]) == (1, KINDS[0])
    assert rows(tmp_path, "responses")[0]["failed_terms"] == "consistency"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 0.0, 1.0, 2.5]), st.sampled_from([0.0, 1.0]), st.sampled_from([None, 0.0, 1.0])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_every_group_is_of_one_kind(outcomes: list[tuple[float | None, float, float | None]]) -> None:
    responses = [{"reward": r, "metrics": {"accuracy": accuracy, "tac": tac}} for r, accuracy, tac in outcomes]
    kind = kind_of_group(responses)
    assert kind in KINDS
    assert (kind == KINDS[0]) == any(reward is None for reward, _, _ in outcomes)
