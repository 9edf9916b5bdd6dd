"""The one place where Hydra's tree becomes dataclasses.

Unknown keys, wrong types and impossible combinations fail here with one sentence, before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from videor2_rl.config.checks import check, require
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import EvaluateRun, GrpoRun, LogsRun, ScoreRun, SftRun

RunT = TypeVar("RunT", GrpoRun, SftRun, EvaluateRun, ScoreRun, LogsRun)
_UNION_MEMBERS = ("video_r2", "video_r2_official", "rules", "openai", "managed")


def load(run_type: type[RunT], tree: dict[str, Any]) -> RunT:
    """Convert a resolved Hydra tree into `run_type`.

    Raises:
        ConfigError: an unknown key, a wrong type, a missing value or an impossible combination.
    """
    from pydantic import TypeAdapter, ValidationError

    tree = _with_absolute_functions(tree)
    missing = next(_missing_keys(tree), None)
    require(missing is None, f"{missing} is required and has no value; give it as {missing}=VALUE")
    try:
        run = TypeAdapter(run_type).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # Of a union pydantic names the member too, which is no key of the user's.
        key = ".".join(str(part) for part in first["loc"] if part not in _UNION_MEMBERS)
        raise ConfigError(f"configuration: {key}: {_explain(first)}") from None
    check(run)
    return run


def compose_tree(config_name: str, overrides: Sequence[str], *, config_dir: Path | None = None) -> dict[str, Any]:
    """The resolved tree of `conf/<config_name>.yaml` with a command line's overrides; works inside a Hydra app too.

    Args:
        config_dir: a folder with groups of the user's own, searched after `conf/`.

    Raises:
        ConfigError: there is no folder `config_dir`, or an override names a search path too.
        HydraException, OmegaConfBaseException: an override is wrong.
    """
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    if config_dir is not None:
        overrides = [_searching(config_dir, overrides), *overrides]
    with _outer_app_aside(), initialize_config_module("conf", version_base="1.3"):
        config = compose(config_name, overrides=list(overrides))
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _searching(config_dir: Path, overrides: Sequence[str]) -> str:
    """The override that adds a folder to Hydra's search path."""
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir: there is no folder {config_dir}; give one that holds groups such as reward/")
    if any(override.startswith("hydra.searchpath=") for override in overrides):
        raise ConfigError("--config-dir: found hydra.searchpath too, which would win; name all folders in that one")
    path = str(config_dir.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.searchpath=['file://{path}']"


@contextmanager
def _outer_app_aside() -> Iterator[None]:
    """Hydra holds one configuration a process; a Hydra app that calls us gets its own back."""
    from hydra.core.global_hydra import GlobalHydra

    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


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


def _explain(error: Any) -> str:
    """One pydantic error in words, with the value found and the mend."""
    kind = error["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return "no such key; take it out or mend its spelling"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return "is required and has no value; set it"
    if kind == "string_type" and error["input"] is None:
        return "is required and has no value; set it"
    return f"found {error['input']!r}; {error['msg'][0].lower()}{error['msg'][1:]}"
