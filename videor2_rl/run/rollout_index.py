"""rollouts/index.sqlite: where each group of the rollout log begins, and what can be asked of all of them.

The run adds a step when it has written its file; a reader brings the index up to date first (`update_index`), which
makes it anew where it is missing. The log stays the truth: whoever deletes the index loses nothing.

    groups      one row a group       step, place (line of the step's file, from 0), group_id, sample_id, ...
    responses   one row a response    step, place, response (from 0), reward, advantage, ...
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import parse_json

logger = logging.getLogger(__name__)

INDEX_FILE = "rollouts/index.sqlite"
_VERSION = 1
"""Raise it with every change of the tables: an index of another version is made anew."""
_FULL = 0.999
"""From here on a score counts as full."""
_READER_WAIT_S = 10.0

METRICS = ("accuracy", "format", "tac", "tar_precision", "tar_recall", "tar_f1", "num_claims")
"""Columns of `responses` that are the response's metrics of the same names."""

_TABLES = f"""
create table if not exists files (step integer primary key, size integer not null, mtime_ns integer not null);
create table if not exists groups (
    step integer not null, place integer not null, group_id integer not null, sample_id text not null,
    video text, question text, problem_type text, kind text not null,
    num_responses integer not null, num_unpaid integer not null, num_truncated integer not null,
    num_right integer not null, num_inconsistent integer not null,
    reward_mean real, reward_min real, reward_max real, all_equal integer not null,
    offset integer not null, length integer not null,
    primary key (step, place)
) without rowid;
create table if not exists responses (
    step integer not null, place integer not null, response integer not null,
    group_id integer not null, sample_id text not null,
    reward real, advantage real, {", ".join(f"{name} real" for name in METRICS)},
    tokens integer not null, finish_reason text not null, policy_version integer not null, failed_terms text not null,
    text text not null,
    primary key (step, place, response)
);
create index if not exists groups_by_id on groups (group_id);
create index if not exists groups_by_sample on groups (sample_id);
pragma user_version = {_VERSION};
"""
_GROUP_COLUMNS, _RESPONSE_COLUMNS = 19, 12 + len(METRICS)


def index_step(file: Path) -> None:
    """Enter a step's file as soon as the run has written it. The run neither waits for a reader nor ends for one: what
    cannot be entered now, a reader enters later."""
    try:
        with closing(_writable(file.parent / Path(INDEX_FILE).name, wait_s=0.0)) as index, index:
            _enter(index, file)
    except (sqlite3.Error, OSError) as error:
        logger.warning("%s is not in the index of rollouts yet (%s)", file.name, error)


def update_index(run_dir: Path, index_file: Path | None = None) -> list[int]:
    """Bring the index in line with the log's files; returns the steps that were entered, in order.

    Args:
        run_dir: the run's folder.
        index_file: where the index lies; None: in the run's folder.

    Raises:
        ConfigError: a file of the log is broken, or the index cannot be written.
    """
    files = {_step_of(file): file for file in sorted((run_dir / "rollouts").glob("step_*.jsonl"))}
    path = index_file or run_dir / INDEX_FILE
    if not files and not path.exists():
        return []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_writable(path, wait_s=_READER_WAIT_S)) as index:
            known = {step: (size, mtime) for step, size, mtime in index.execute("select * from files")}
            gone = [step for step in known if step not in files]
            changed = [step for step, file in files.items() if known.get(step) != _state(file)]
            # One transaction a step: a run that writes one meanwhile waits for a moment only.
            for step in gone:
                with index:
                    _remove(index, step)
            for step in changed:
                with index:
                    _enter(index, files[step])
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"{path} cannot be written ({error}); delete it or free its folder") from None
    return changed


def open_index(path: Path) -> sqlite3.Connection:
    """A connection that can only read; rows come by name."""
    connection = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=_READER_WAIT_S)
    connection.row_factory = sqlite3.Row
    return connection


def read_group(run_dir: Path, index: sqlite3.Connection, *, step: int, group_id: int) -> dict[str, Any] | None:
    """A group's whole record, by one read of its bytes; None where the log has no such group."""
    row = index.execute(
        "select offset, length from groups where step = ? and group_id = ?", (step, group_id)
    ).fetchone()
    if row is None:
        return None
    with (run_dir / "rollouts" / f"step_{step:06d}.jsonl").open("rb") as file:
        file.seek(row[0])
        record: dict[str, Any] = parse_json(file.read(row[1]))
    return record


def _writable(path: Path, *, wait_s: float) -> sqlite3.Connection:
    """The index with its tables, made anew where they are of another version or no index at all."""
    index = sqlite3.connect(path, timeout=wait_s)
    try:
        version = index.execute("pragma user_version").fetchone()[0]
    except sqlite3.OperationalError:
        index.close()
        raise
    except sqlite3.DatabaseError:
        index.close()
        path.unlink()
        return _writable(path, wait_s=wait_s)
    if version not in (0, _VERSION):
        index.close()
        path.unlink()
        return _writable(path, wait_s=wait_s)
    if version == 0:
        index.executescript(f"begin immediate; {_TABLES} commit;")
    return index


def _enter(index: sqlite3.Connection, file: Path) -> None:
    """Replace a step's rows; within the caller's transaction."""
    step, state = _step_of(file), _state(file)
    _remove(index, step)
    groups, responses = [], []
    for place, (offset, length, record) in enumerate(_records(file)):
        name = (record["group_id"], str(record["sample_id"]))
        try:
            groups.append((step, place, *name, *_group_row(record), offset, length))
            responses += [
                (step, place, number, *name, *_response_row(response))
                for number, response in enumerate(record["responses"])
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{file}: group {name[0]} is not as a run logs it ({error}); remove its line") from None
    index.executemany(f"insert into groups values ({_marks(_GROUP_COLUMNS)})", groups)
    index.executemany(f"insert into responses values ({_marks(_RESPONSE_COLUMNS)})", responses)
    index.execute("insert into files values (?, ?, ?)", (step, *state))


def _remove(index: sqlite3.Connection, step: int) -> None:
    for table in ("files", "groups", "responses"):
        index.execute(f"delete from {table} where step = ?", (step,))


def _records(file: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Offset and length in bytes of each line, and the record on it.

    Raises:
        ConfigError: a line is no record of a group.
    """
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    record = parse_json(line)
                    is_group = isinstance(record, dict) and {"group_id", "sample_id", "responses"} <= record.keys()
                except (ValueError, RecursionError):
                    is_group = False
                if not is_group:
                    raise ConfigError(f"{file}, line {number} is no group of a rollout log; remove the line")
                yield offset, len(line), record
            offset += len(line)


def _group_row(record: Mapping[str, Any]) -> tuple[Any, ...]:
    responses = record["responses"]
    rewards = [response["reward"] for response in responses if response["reward"] is not None]
    return (
        record.get("video"),
        record.get("question"),
        record.get("problem_type"),
        kind_of_group(responses),
        len(responses),
        len(responses) - len(rewards),
        sum(response["finish_reason"] == "length" for response in responses),
        sum(is_full(response["metrics"]["accuracy"]) for response in responses),
        sum(_is_inconsistent(response) for response in responses),
        sum(rewards) / len(rewards) if rewards else None,
        min(rewards, default=None),
        max(rewards, default=None),
        int(len(rewards) > 0 and max(rewards) - min(rewards) <= 1e-9),
    )


def _response_row(response: Mapping[str, Any]) -> tuple[Any, ...]:
    failed = [name for name, verdict in response["terms"].items() if verdict["verdict"] == "failure"]
    return (
        response["reward"],
        response["advantage"],
        *(response["metrics"].get(name) for name in METRICS),
        len(response["token_ids"]),
        response["finish_reason"],
        response["policy_version"],
        ",".join(failed),
        response["text"],
    )


KINDS = (
    "Judging failed",
    "Right and wrong in one group: it teaches",
    "Gate closed: a reasoning does not conclude its answer",
    "All wrong",
    "All right, unequal rewards",
    "Equal rewards: no signal",
)
"""Of training groups, rare ones that matter first."""


def kind_of_group(responses: Sequence[Mapping[str, Any]]) -> str:
    """The first of `KINDS` that a training group is of."""
    failed, split, gate, wrong, unequal, equal = KINDS
    rewards = [response["reward"] for response in responses]
    if any(reward is None for reward in rewards):
        return failed
    right = [is_full(response["metrics"]["accuracy"]) for response in responses]
    if any(right) and not all(right):
        return split
    if any(_has_closed_gate(response) for response in responses):
        return gate
    if not any(right):
        return wrong
    return unequal if max(rewards) - min(rewards) > 1e-9 else equal


def is_full(score: float | None) -> bool:
    """Whether a score counts as full."""
    return score is not None and score >= _FULL


def _has_closed_gate(response: Mapping[str, Any]) -> bool:
    return response["metrics"]["tac"] is not None and not is_full(response["metrics"]["tac"])


def _is_inconsistent(response: Mapping[str, Any]) -> bool:
    return is_full(response["metrics"]["accuracy"]) and _has_closed_gate(response)


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step_"))


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.resolve()))


def _marks(count: int) -> str:
    return ", ".join("?" * count)
