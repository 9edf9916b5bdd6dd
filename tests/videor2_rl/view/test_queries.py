"""Filters, pages and SQL against what the log says, counted another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.rollout_index import INDEX_FILE, open_index
from videor2_rl.run.rollout_log import read_rollouts
from videor2_rl.view import queries
from videor2_rl.view.queries import (
    FILTERS,
    SORTS,
    GroupQuery,
    counts_of_filters,
    group_page,
    neighbours,
    select,
    with_metrics,
)

Records = list[tuple[int, dict[str, Any]]]


@pytest.fixture
def index(viewed: Path) -> Iterator[Any]:
    connection = open_index(viewed / INDEX_FILE)
    yield connection
    connection.close()


@pytest.fixture
def records(viewed: Path) -> Records:
    files = sorted((viewed / "rollouts").glob("step_*.jsonl"))
    return [(int(file.stem[5:]), record) for file in files for record in read_rollouts(file)]


def by_hand(record: dict[str, Any], most: float) -> dict[str, bool]:
    responses = record["responses"]
    rewards = [one["reward"] for one in responses if one["reward"] is not None]
    metrics = [one["metrics"] for one in responses]
    right = [one["accuracy"] == 1.0 for one in metrics]
    judged = [one for one in metrics if one["tar_precision"] is not None and one["num_claims"]]
    silent = [one["reward"] or 0 for one in responses if one["metrics"]["num_claims"] == 0]
    return {
        "all_equal": len(set(rewards)) == 1,
        "truncated": any(one["finish_reason"] == "length" for one in responses),
        "inconsistent": any(one["accuracy"] == 1.0 and one["tac"] is not None and one["tac"] < 1 for one in metrics),
        "uncited": any(reward >= 0.75 * most for reward in silent),
        "failed": len(rewards) < len(responses),
        "split": any(right) and not all(right),
        "late": any(one["tar_precision"] < 0.5 for one in judged),
    }


def test_each_filter_finds_what_the_log_says(index: Any, records: Records) -> None:
    most = max(one["reward"] for _, record in records for one in record["responses"] if one["reward"] is not None)
    counts = counts_of_filters(index)
    assert counts.pop("") == len(records)
    assert set(counts) == {one.name for one in FILTERS}
    for name in counts:
        expected = {(step, record["group_id"]) for step, record in records if by_hand(record, most)[name]}
        found = group_page(index, GroupQuery(filters=(name,)), limit=200)["rows"]
        assert {(row["step"], row["group_id"]) for row in found} == expected, name
        assert counts[name] == len(expected), name
    assert counts["failed"] == 3 and counts["split"] > 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(sort=st.sampled_from(sorted(SORTS)), limit=st.integers(1, 7))
def test_pages_together_are_all_groups_once_and_in_order(index: Any, records: Records, sort: str, limit: int) -> None:
    found, after = [], None
    while True:
        page = group_page(index, GroupQuery(sort=sort), after=after, limit=limit)
        found += page["rows"]
        if (after := page["next"]) is None:
            break
    assert sorted((row["step"], row["group_id"]) for row in found) == sorted((s, r["group_id"]) for s, r in records)
    key: dict[str, Callable[[dict[str, Any]], float]] = {
        "newest": lambda row: -row["step"],
        "oldest": lambda row: row["step"],
        "reward_high": lambda row: -row["reward_mean"],
        "reward_low": lambda row: row["reward_mean"],
        "spread": lambda row: row["reward_min"] - row["reward_max"],
    }
    values = [key[sort](row) for row in found]
    assert values == sorted(values)


def test_text_is_looked_for_as_it_is_written(index: Any) -> None:
    assert group_page(index, GroupQuery(text="<script>"))["total"] == 1
    assert group_page(index, GroupQuery(text="%"))["total"] == 0
    assert group_page(index, GroupQuery(text="_"))["total"] == 0
    assert group_page(index, GroupQuery(text="clip-00041"))["total"] == 1


def test_bounds_of_steps_and_rewards_and_a_sample_narrow(index: Any) -> None:
    assert group_page(index, GroupQuery(first_step=2, last_step=3))["total"] == 8
    everything = group_page(index, GroupQuery(), limit=200)["rows"]
    high = [row for row in everything if row["reward_mean"] >= 2]
    assert group_page(index, GroupQuery(reward_min=2))["total"] == len(high)
    assert group_page(index, GroupQuery(sample=everything[0]["sample_id"]))["total"] == 1


def test_neighbours_lead_through_all_groups(index: Any, records: Records) -> None:
    step, group_id = records[0][0], records[0][1]["group_id"]
    way = [(step, group_id)]
    while (following := neighbours(index, step=step, group_id=group_id)["next"]) is not None:
        step, group_id = following["step"], following["group_id"]
        way.append((step, group_id))
    assert way == [(s, r["group_id"]) for s, r in records]
    assert neighbours(index, step=way[0][0], group_id=way[0][1])["previous"] is None


@pytest.mark.parametrize(
    "sql",
    [
        "delete from groups",
        "drop table groups",
        "attach database 'x.sqlite' as x",
        "pragma user_version = 3",
        "insert into files values (9, 9, 9)",
        "select load_extension('x')",
        "select 1; select 2",
    ],
)
def test_sql_can_only_read(index: Any, sql: str) -> None:
    with pytest.raises(ConfigError, match=r"^--sql: .*columns are groups: step"):
        list(select(index, sql, what="--sql"))


def test_a_condition_cannot_leave_its_brackets_to_write(index: Any) -> None:
    with pytest.raises(ConfigError, match="where: "):
        group_page(index, GroupQuery(where="1); delete from groups; --"))
    assert group_page(index, GroupQuery())["total"] == 15


def test_a_query_without_end_is_ended(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_SECONDS", 0.2)
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select count(*) from n"
    with pytest.raises(ConfigError, match=r"it took more than 0\.2 s"):
        list(select(index, endless, what="--sql"))


def test_metrics_are_a_table_too(index: Any) -> None:
    with_metrics(index, [{"step": 1, "actor/kl": 0.5}, {"step": 2, "actor/kl": None}])
    found = list(select(index, "select * from metrics where name = 'actor/kl' order by step", what="--sql"))
    assert found == [{"step": 1, "name": "actor/kl", "value": 0.5}, {"step": 2, "name": "actor/kl", "value": None}]


def test_an_unknown_filter_or_order_is_named(index: Any) -> None:
    with pytest.raises(ConfigError, match="no filter 'nosuch'; use one of all_equal"):
        group_page(index, GroupQuery(filters=("nosuch",)))
    with pytest.raises(ConfigError, match="no order 'nosuch'; use one of newest"):
        group_page(index, GroupQuery(sort="nosuch"))
