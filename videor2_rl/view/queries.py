"""What can be asked of a run's rollouts: filters, sorted pages of groups, and SQL that can only read."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from videor2_rl.config.errors import ConfigError

MAX_SECONDS = 5.0
"""Of one query; a longer one is ended with a sentence."""
_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


@dataclass(frozen=True)
class Filter:
    """Groups that somebody looks for."""

    name: str
    label: str
    about: str
    where: str
    """A condition on the columns of `groups`."""


_ANY = "exists (select 1 from responses r where r.step = groups.step and r.place = groups.place and {})"

FILTERS = (
    Filter("all_equal", "All equal", "Every response earned the same: no signal.", "all_equal"),
    Filter("truncated", "Truncated", "A response was cut at the token limit.", "num_truncated > 0"),
    Filter(
        "inconsistent",
        "Right answer, inconsistent",
        "The answer is right, and the reasoning does not conclude it.",
        "num_inconsistent > 0",
    ),
    Filter(
        "uncited",
        "High reward, no time cited",
        "A response among the best paid of the run (from 75 % of the most) names no time.",
        _ANY.format("r.num_claims = 0 and r.reward >= 0.75 * (select max(reward_max) from groups)"),
    ),
    Filter("failed", "No reward: failure", "A term failed, so the response has no reward.", "num_unpaid > 0"),
    Filter(
        "split",
        "Right and wrong",
        "Some answers are right and some are wrong.",
        "0 < num_right and num_right < num_responses",
    ),
    Filter(
        "late",
        "Claims at a wrong time",
        "At least one response has claims, and less than half of them match.",
        _ANY.format("r.num_claims > 0 and r.tar_precision < 0.5"),
    ),
)
SORTS = {
    "newest": "-groups.step",
    "oldest": "groups.step",
    "reward_high": "-coalesce(reward_mean, -1e9)",
    "reward_low": "coalesce(reward_mean, 1e9)",
    "spread": "-coalesce(reward_max - reward_min, -1)",
}


@dataclass(frozen=True)
class GroupQuery:
    """Which groups, in which order."""

    filters: tuple[str, ...] = ()
    """Names of `FILTERS`; all of them have to hold."""
    text: str = ""
    """In a response, the question or the sample's id."""
    sample: str = ""
    """A sample's id, whole."""
    first_step: int | None = None
    last_step: int | None = None
    reward_min: float | None = None
    reward_max: float | None = None
    """Of the group's mean."""
    where: str = ""
    """A further condition in SQL."""
    sort: str = "newest"


def group_page(
    index: sqlite3.Connection, query: GroupQuery, *, after: Sequence[Any] | None = None, limit: int = 50
) -> dict[str, Any]:
    """A page of groups, each with its responses' rewards, and where the next page begins.

    Args:
        after: `next` of the page before.

    Raises:
        ConfigError: an unknown filter or order, or a condition that SQLite does not take.
    """
    if query.sort not in SORTS:
        raise ConfigError(f"sort: there is no order {query.sort!r}; use one of {', '.join(SORTS)}")
    condition, values = _condition(query)
    key = SORTS[query.sort]
    with reading(index, what="where"):
        total = index.execute(f"select count(*) from groups where {condition}", values).fetchone()[0]
        if after is not None:
            condition, values = f"({condition}) and ({key}, groups.step, groups.place) > (?, ?, ?)", [*values, *after]
        sql = f"select *, {key} as sort_key from groups where {condition} order by sort_key, step, place limit ?"
        rows = [dict(row) for row in index.execute(sql, [*values, limit])]
        for row in rows:
            found = index.execute(
                "select reward, advantage, accuracy, tac, tar_precision, num_claims, tokens, finish_reason "
                "from responses where step = ? and place = ? order by response",
                (row["step"], row["place"]),
            )
            row["responses"] = [dict(response) for response in found]
    last = rows[-1] if len(rows) == limit else None
    return {
        "rows": [{name: row[name] for name in row if name not in ("offset", "length", "sort_key")} for row in rows],
        "total": total,
        "next": None if last is None else [last["sort_key"], last["step"], last["place"]],
    }


def counts_of_filters(index: sqlite3.Connection, *, first_step: int = 0) -> dict[str, int]:
    """How many groups from a step on each filter finds, and `""`: how many there are."""
    columns = ", ".join(f"sum({one.where})" for one in FILTERS)
    with reading(index, what="filters"):
        row = index.execute(f"select count(*), {columns} from groups where step >= ?", (first_step,)).fetchone()
    return {name: int(value or 0) for name, value in zip(("", *(one.name for one in FILTERS)), row, strict=True)}


def neighbours(index: sqlite3.Connection, *, step: int, group_id: int) -> dict[str, Any]:
    """The groups before and after one, in the order in which they were trained; None at the ends."""
    row = index.execute("select place from groups where step = ? and group_id = ?", (step, group_id)).fetchone()
    sides = {"previous": ("<", "desc"), "next": (">", "asc")}
    found = {
        name: index.execute(
            f"select step, group_id from groups where (step, place) {sign} (?, ?) "
            f"order by step {order}, place {order} limit 1",
            (step, row["place"]),
        ).fetchone()
        for name, (sign, order) in sides.items()
    }
    return {name: None if side is None else dict(side) for name, side in found.items()}


def with_metrics(index: sqlite3.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Let SQL see metrics.jsonl as the table `metrics` (step, name, value); it lives as long as the connection."""
    index.execute("create temp table metrics (step integer, name text, value real)")
    index.executemany(
        "insert into metrics values (?, ?, ?)",
        ((row["step"], name, value) for row in rows for name, value in row.items() if name != "step"),
    )
    index.commit()


def select(index: sqlite3.Connection, sql: str, *, what: str) -> Iterator[dict[str, Any]]:
    """The rows of a statement that only reads.

    Raises:
        ConfigError: SQLite does not take it, or it would do more than read.
    """
    with reading(index, what=what):
        for row in index.execute(sql):
            yield dict(row)


@contextmanager
def reading(index: sqlite3.Connection, *, what: str) -> Iterator[None]:
    """Around statements that a user wrote: nothing but reading, and not for ever.

    Raises:
        ConfigError: with SQLite's words.
    """
    ends = time.monotonic() + MAX_SECONDS
    index.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
    index.set_progress_handler(lambda: int(time.monotonic() > ends), 10_000)
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning) as error:
        reason = f"it took more than {MAX_SECONDS:g} s" if "interrupted" in str(error) else str(error)
        tables = "; ".join(f"{table}: {', '.join(columns_of(index, table))}" for table in ("groups", "responses"))
        raise ConfigError(f"{what}: {reason}; columns are {tables}") from None
    finally:
        index.set_authorizer(None)
        index.set_progress_handler(None, 0)


def columns_of(index: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table."""
    index.set_authorizer(None)
    return [description[0] for description in index.execute(f"select * from {table} limit 0").description]


def _condition(query: GroupQuery) -> tuple[str, list[Any]]:
    known = {one.name: one.where for one in FILTERS}
    parts: list[str] = []
    values: list[Any] = []
    for name in query.filters:
        if name not in known:
            raise ConfigError(f"filter: there is no filter {name!r}; use one of {', '.join(known)}")
        parts.append(known[name])
    for column, sign, value in (
        ("step", ">=", query.first_step),
        ("step", "<=", query.last_step),
        ("reward_mean", ">=", query.reward_min),
        ("reward_mean", "<=", query.reward_max),
        ("sample_id", "=", query.sample or None),
    ):
        if value is not None:
            parts.append(f"groups.{column} {sign} ?")
            values.append(value)
    if query.text:
        pattern = "%" + query.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        like = "like ? escape '\\'"
        parts.append(f"(question {like} or groups.sample_id {like} or {_ANY.format(f'r.text {like}')})")
        values += [pattern] * 3
    if query.where:
        parts.append(query.where)
    return " and ".join(f"({part})" for part in parts) or "1", values
