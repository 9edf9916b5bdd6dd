"""What `score` reads: rows of stored responses, or a run's rollout log, and the check of every field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rewards.reading import group_contexts
from rewards.text.parsing import options_in
from rewards.types import NO_CONTEXT, Context, Evidence, JudgeReply, Target
from videor2_rl.config.errors import ConfigError
from videor2_rl.dataset import parse_options
from videor2_rl.layouts.reading import read_row
from videor2_rl.layouts.row import RowError
from videor2_rl.run.files import parse_json
from videor2_rl.run.folder import CONFIG

_OWN_LETTER = re.compile(r"\(?([A-Z])[.):]\s*")
_TARGET = ("question", "solution", "options", "problem_type", "temporal_grounding")
_ANSWERED = ("response", "claims", "similarity", "judge")
_NAMED = {"id", *_ANSWERED, *_TARGET}
"""Keys with a meaning; all others are the row's own columns."""


class ScoreRow(NamedTuple):
    """One response and what it is scored against. A named tuple, since files hold many."""

    where: str
    """File and row, for messages."""
    id: str | int
    response: str
    target: Target
    evidence: Evidence
    similarity: Mapping[str, Mapping[str, float]]
    """Claim sentence -> reference sentence -> cosine, where it is known."""
    passed_on: Mapping[str, Any]
    """Fields that the output repeats: of a rollout log its step, sample id and logged reward."""
    context: Context = NO_CONTEXT
    """For terms of one's own: of a row its id and own columns, of a rollout log all that the run knew."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be scored."""

    message: str
    """File, row, key and mend."""


class _FieldError(ValueError):
    """A field that the user has to mend; the message names it."""


def input_files(path: Path) -> list[Path]:
    """The file itself, or the step files of a run's folder (or of its rollouts/) in order.

    Raises:
        ConfigError: there is no such file, or the folder holds no rollout log.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist; give a .json or .jsonl file of responses or a run's folder")
    files = sorted(path.glob("rollouts/step_*.jsonl")) or sorted(path.glob("step_*.jsonl"))
    if not files:
        raise ConfigError(f"{path} holds no rollouts/step_*.jsonl; give a run's folder or a file of responses")
    return files


def run_of(path: Path) -> Path | None:
    """The folder of the run that wrote a rollout log, given as `input_files` takes it; None: no run did."""
    folders = (path, path.parent, path.parent.parent)
    return next((folder for folder in folders if (folder / "rollouts").is_dir() and (folder / CONFIG).is_file()), None)


def count_rows(path: Path) -> int:
    """How many parts `read_rows` gives: lines of a file, of a .json file the rows of its list."""
    if path.suffix == ".json":
        return len(_listed(path))
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def read_rows(path: Path) -> Iterator[list[ScoreRow | BadRow]]:
    """The rows of each line of a file, in order: one, none for a blank line, or a whole group's of a rollout log.

    A .json file is a list of rows, as the training files are.

    Raises:
        ConfigError: a .json file holds no list.
    """
    if path.suffix == ".json":
        for number, row in enumerate(_listed(path), start=1):
            yield list(_rows_in(row, path, number))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield [] if not line.strip() else list(_rows_of(line, path, number))


def _rows_of(line: bytes, path: Path, number: int) -> Iterator[ScoreRow | BadRow]:
    where = f"{path}, row {number}"
    try:
        row = parse_json(line)
    except (ValueError, RecursionError) as error:
        yield BadRow(f"{where}: is not valid JSON ({error}); write the line again")
        return
    yield from _rows_in(row, path, number)


def _listed(path: Path) -> list[Any]:
    try:
        rows = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); write it again") from None
    if not isinstance(rows, list):
        raise ConfigError(f"{path} holds no list of rows; mend it, or name a file of one object a line .jsonl")
    return rows


def _rows_in(row: Any, path: Path, number: int) -> Iterator[ScoreRow | BadRow]:
    where = f"{path}, row {number}"
    if not isinstance(row, dict):
        yield BadRow(f"{where}: is {row!r:.40}, expected an object with the keys id, response and solution")
    elif "responses" in row:
        yield from _logged_rows(row, path, where)
    elif "conversations" in row or "messages" in row:
        yield _training_row(row, path, number)
    else:
        yield score_row(row, where, own_columns={key: value for key, value in row.items() if key not in _NAMED})


def _training_row(row: dict[str, Any], path: Path, number: int) -> ScoreRow | BadRow:
    """A row of a dataset file that has a response too; read as the dataset reads it."""
    where = f"{path}, row {number}"
    try:
        read = read_row({key: value for key, value in row.items() if key not in _ANSWERED})
    except RowError as error:
        return BadRow(f"{where}: {error}")
    fields = {
        **{key: row[key] for key in _ANSWERED if key in row},
        "id": f"{path.stem}-{number - 1}" if read.id is None else read.id,
        "question": read.question,
        "solution": read.solution,
        "options": list(parse_options(read.question)) if read.options is None else list(read.options),
        "problem_type": read.problem_type,
        "temporal_grounding": read.temporal_grounding,
    }
    return score_row(fields, where, own_columns=read.extra)


def _logged_rows(record: dict[str, Any], path: Path, where: str) -> Iterator[ScoreRow | BadRow]:
    """The responses of one group of a rollout log; ids are step/group/place."""
    responses, group_id, step = record["responses"], record.get("group_id"), path.stem
    shared = {key: record.get(key) for key in _TARGET}
    if not isinstance(responses, list) or not all(isinstance(response, dict) for response in responses):
        yield BadRow(f"{where}: responses is no list of objects; give the rollout log as the run wrote it")
        return
    for place, (response, context) in enumerate(zip(responses, _logged_contexts(record, path), strict=True)):
        row = {
            **shared,
            "id": f"{step}/{group_id}/{place}",
            "solution": record.get("target"),
            "response": response.get("text"),
            "judge": response.get("judge"),
        }
        passed_on = {"sample_id": record.get("sample_id"), "logged_reward": response.get("reward")}
        one = score_row(row, f"{where}, response {place}", passed_on=passed_on)
        yield one if isinstance(one, BadRow) else one._replace(context=context)


def _logged_contexts(record: dict[str, Any], path: Path) -> list[Context]:
    """What the run knew of each response of a group."""
    step = path.stem.removeprefix("step_")
    extra = record.get("extra")
    context = Context(
        sample_id=str(record.get("sample_id")),
        extra=extra if isinstance(extra, dict) else {},
        step=int(step) if step.isdigit() else None,
        group_id=record.get("group_id"),
    )
    responses = record["responses"]
    texts = [str(response.get("text")) for response in responses]
    return group_contexts(context, texts, [response.get("finish_reason") for response in responses])


def score_row(
    row: Mapping[str, Any],
    where: str,
    *,
    own_columns: Mapping[str, Any] | None = None,
    passed_on: Mapping[str, Any] | None = None,
) -> ScoreRow | BadRow:
    """One response with what it is scored against, or what is wrong with it.

    Args:
        row: the fields that `python -m videor2_rl.score --help` lists; others are not looked at.
        where: names the row in messages.
        own_columns: for terms of one's own.
        passed_on: fields that the output repeats.
    """
    try:
        return ScoreRow(
            where=where,
            id=_id(row),
            response=_text(row, "response"),
            target=Target(
                question=_optional_text(row, "question") or "",
                solution=_solution(row),
                options=_options(row),
                problem_type=_optional_text(row, "problem_type"),
                temporal_grounding=_grounding(row),
            ),
            evidence=Evidence(_optional_map(row, "claims"), _judge(row)),
            similarity=_similarity(row),
            passed_on=passed_on or {},
            context=Context(str(row["id"]), own_columns or {}),
        )
    except _FieldError as error:
        return BadRow(f"{where}: {error}")


def _id(row: Mapping[str, Any]) -> str | int:
    value = row.get("id")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _FieldError(_found(row, "id", "a text or a whole number"))
    return value


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise _FieldError(_found(row, key, "a text"))
    return value


def _solution(row: Mapping[str, Any]) -> str:
    value = row.get("solution")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return _text(row, "solution")


def _optional_text(row: Mapping[str, Any], key: str) -> str | None:
    return None if row.get(key) is None else _text(row, key)


def _optional_map(row: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    value = row.get(key)
    if value is not None and not isinstance(value, dict):
        raise _FieldError(_found(row, key, "a map"))
    return value


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Option texts from a list of them, with or without their own letters, or from one text that lists them."""
    value = row.get("options")
    if value is None:
        return ()
    if isinstance(value, str):
        found = options_in(value)
        if not found and value.strip():
            raise _FieldError(_found(row, "options", "a list of texts, or a text like A. red B. blue"))
        return found
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _FieldError(_found(row, "options", "a list of texts"))
    marks = [_OWN_LETTER.match(text) for text in value]
    if all(mark and ord(mark[1]) == ord("A") + place for place, mark in enumerate(marks)):
        return tuple(text[mark.end() :] for text, mark in zip(value, marks, strict=True) if mark)
    return tuple(value)


def _grounding(row: Mapping[str, Any]) -> dict[str, str] | None:
    value = _optional_map(row, "temporal_grounding")
    if value is None:
        return None
    wrong = next((key for key, text in value.items() if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise _FieldError(f"temporal_grounding, {wrong!r}: is {value[wrong]!r:.40}, expected a sentence; mend it")
    return {key: text or "" for key, text in value.items()}


def _judge(row: Mapping[str, Any]) -> dict[str, JudgeReply]:
    """The raw replies; null is a call that failed."""
    value = _optional_map(row, "judge") or {}
    for purpose, text in value.items():
        if text is not None and not isinstance(text, str):
            raise _FieldError(f"judge, {purpose!r}: is {text!r:.40}, expected the judge's raw reply or null; mend it")
    return {
        purpose: JudgeReply(text, "the call failed when it was made" if text is None else None)
        for purpose, text in value.items()
    }


def _similarity(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    value = _optional_map(row, "similarity") or {}
    for claim, cosines in value.items():
        if not isinstance(cosines, dict):
            raise _FieldError(f"similarity, {claim!r:.40}: is {cosines!r:.40}, expected a map reference -> cosine")
        if set(map(type, cosines.values())) == {float}:
            continue  # The usual case, at little cost.
        for reference, cosine in cosines.items():
            if isinstance(cosine, bool) or not isinstance(cosine, (int, float)):
                raise _FieldError(
                    f"similarity, {claim!r:.40} -> {reference!r:.40}: is {cosine!r:.40}, expected a cosine; "
                    "mend it, or leave the pair out to have it computed"
                )
    return value


def _found(row: Mapping[str, Any], key: str, expected: str) -> str:
    if key not in row:
        return f"{key} is missing; give {expected}"
    return f"{key} is {row[key]!r:.40}, expected {expected}; mend it"
