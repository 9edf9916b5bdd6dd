"""The one place where Hydra's tree becomes dataclasses.

Unknown keys, wrong types and impossible combinations fail here with one sentence, before anything starts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from videor2_rl.config.checks import check
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import ChatRun, EvaluateRun, GrpoRun, LogsRun, ScoreRun, SftRun

RunT = TypeVar("RunT", GrpoRun, SftRun, EvaluateRun, ScoreRun, LogsRun, ChatRun)
_UNION_MEMBERS = ("video_r2", "video_r2_official", "rules", "openai", "managed")
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def load(run_type: type[RunT], tree: dict[str, Any]) -> RunT:
    """Convert a resolved Hydra tree into `run_type`.

    Raises:
        ConfigError: an unknown key, a wrong type, a missing value or an impossible combination.
    """
    from pydantic import TypeAdapter, ValidationError

    tree = _with_absolute_functions(tree)
    check_values(run_type, tree)
    try:
        run = TypeAdapter(run_type).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = _dotted(first)
        raise ConfigError(f"configuration: {key}: {_explain(key, first, tree)}") from None
    check(run)
    return run


def check_values(run_type: type[RunT], tree: Any) -> None:
    """Every required value of a Hydra tree, resolved or not, is there.

    Raises:
        ConfigError: names all that are missing.
    """
    missing = list(_missing_keys(tree))
    if run_type is EvaluateRun and tree["evaluation"]["benchmark"] is None:
        # A benchmark's folder stands for both.
        missing += [f"data.{key}" for key in ("validation_file", "media_dir") if _has_none(tree, key)]
    if missing:
        names = f"{', '.join(missing[:-1])} and {missing[-1]} are" if missing[1:] else f"{missing[0]} is"
        values = " ".join(f"{key}=VALUE" for key in missing)
        raise ConfigError(
            f"configuration: {names} required and {'have' if missing[1:] else 'has'} no value; "
            f"give {'them' if missing[1:] else 'it'} as {values}"
        )


def unknown_keys(run_type: type[RunT], tree: dict[str, Any]) -> list[str]:
    """Dotted keys of a tree, resolved or not, that `run_type` has no place for."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(run_type).validate_python(tree)
    except ValidationError as error:
        return [_dotted(each) for each in error.errors() if each["type"] in _UNKNOWN]
    return []


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """The known dotted key that was most likely meant, one of the same section first."""
    keys = list(known)
    section, _, name = wrong.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    begun = [each for each in siblings if min(len(name), len(each)) > 2 and name[: len(each)] == each[: len(name)]]
    close = difflib.get_close_matches(name, begun, n=1, cutoff=0.0) or difflib.get_close_matches(name, siblings, n=1)
    if close:
        return siblings[close[0]]
    elsewhere = [key for key in keys if key.rpartition(".")[2] == name]
    return next(iter(difflib.get_close_matches(wrong, elsewhere, n=1, cutoff=0.0)), None) or next(
        iter(difflib.get_close_matches(wrong, keys, n=1)), None
    )


def dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a tree, sections included."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted_keys(value, f"{prefix}{key}.")


def _dotted(error: Any) -> str:
    # Of a union pydantic names the member too, which is no key of the user's.
    return ".".join(str(part) for part in error["loc"] if part not in _UNION_MEMBERS)


def _has_none(tree: Any, key: str) -> bool:
    """Of an evaluation's data: neither a value nor a reference to one."""
    value = tree["data"][key]
    return value is None or (value == "${evaluation.benchmark_dir}" and tree["evaluation"]["benchmark_dir"] is None)


def _with_absolute_functions(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with every `reward.extra.NAME.function=file.py:function` as an absolute path.

    Workers have other current folders, and a run's config.yaml is read from anywhere.
    """
    reward = tree.get("reward")
    extra = reward.get("extra") if isinstance(reward, Mapping) else None
    if not isinstance(reward, Mapping) or not isinstance(extra, Mapping):
        return tree

    def absolute(term: Any) -> Any:
        function = term.get("function") if isinstance(term, Mapping) else None
        if not isinstance(function, str) or ":" not in function:
            return term
        file, _, name = function.rpartition(":")
        return {**term, "function": f"{Path(file).expanduser().absolute()}:{name}"}

    return {**tree, "reward": {**reward, "extra": {name: absolute(term) for name, term in extra.items()}}}


def _missing_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys that still hold Hydra's mark of a required value."""
    for key, value in node.items():
        if value == "???":
            yield f"{prefix}{key}"
        elif isinstance(value, dict):
            yield from _missing_keys(value, f"{prefix}{key}.")


def _explain(key: str, error: Any, tree: dict[str, Any]) -> str:
    """One pydantic error in words, with the value found and the mend."""
    kind = error["type"]
    if kind in _UNKNOWN:
        close = nearest(key, (other for other in dotted_keys(tree) if not other.startswith(key)))
        return f"no such key; {f'did you mean {close}?' if close else 'take it out or mend its spelling'}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"is required and has no value; give it as {key}=VALUE"
    if kind == "string_type" and error["input"] is None:
        return f"is required and has no value; give it as {key}=VALUE"
    if kind in ("tuple_type", "list_type") and not isinstance(error["input"], dict):
        found = error["input"]
        return f"found {found!r}, expected a list; give {key}=[{'' if found is None else found}]"
    return f"found {error['input']!r}; {error['msg'][0].lower()}{error['msg'][1:]}"
