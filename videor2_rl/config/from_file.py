"""A run's own config.yaml as the configuration of another run: `--config FILE`, with overrides on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.loading import RunT, dotted_keys, load, nearest
from videor2_rl.config.overrides import check_names, parse

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MADE_BY = "made_by"
"""What config.yaml holds besides the configuration: command and versions."""


def taken_out(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The FILE of `--config FILE`, and the other arguments.

    Raises:
        ConfigError: the option has no value.
    """
    rest = list(argv)
    for place, word in enumerate(rest):
        option, equals, value = word.partition("=")
        if option != "--config":
            continue
        if not equals and place + 1 < len(rest):
            value = rest.pop(place + 1)
        if not value:
            raise ConfigError("--config: has no value; give a run's config.yaml")
        return Path(value), rest[:place] + rest[place + 1 :]
    return None, rest


def run_from_file(composer: Composer, run_type: type[RunT], file: Path, overrides: Sequence[str]) -> RunT:
    """The file's configuration, changed by KEY=VALUE, and by GROUP=NAME, which takes the place of a whole section.

    Raises:
        ConfigError: the file holds no configuration of this app, or an override names what it does not have.
    """
    return run_from_tree(composer, run_type, read_tree(file), overrides, file=file)


def run_from_tree(
    composer: Composer, run_type: type[RunT], tree: dict[str, Any], overrides: Sequence[str], *, file: Path
) -> RunT:
    """The same of a tree that is read already, and changed here.

    Args:
        file: that it comes from, for messages.

    Raises:
        ConfigError: it is no configuration of this app, or an override names what it does not have.
    """
    parsed = parse(composer, overrides)
    check_names(composer, parsed)
    groups = [item for item in parsed if str(item.key_or_group) in composer.groups]
    for item in groups:
        tree[str(item.key_or_group)] = _section(composer, item, groups)
    for item in parsed:
        if item not in groups:
            _set(tree, item, file)
    return load(run_type, _resolved(tree))


def read_tree(file: Path) -> dict[str, Any]:
    """What a run's config.yaml holds, without what it says of how it was made.

    Raises:
        ConfigError: it is not there, or holds no configuration.
    """
    import yaml

    if not file.is_file():
        raise ConfigError(f"--config: there is no file {file}; give the config.yaml of a run's folder")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {file} is no YAML ({' '.join(str(error).split())}); give a config.yaml") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"--config: {file} holds no configuration; give the config.yaml of a run's folder")
    return {str(key): value for key, value in tree.items() if key != MADE_BY}


def _section(composer: Composer, item: Override, groups: Sequence[Override]) -> Any:
    """What GROUP=NAME stands for; what it refers to in other sections is left to those of the file."""
    from omegaconf import OmegaConf

    group = str(item.key_or_group)
    if group == "experiment":
        raise ConfigError(
            f"{item.input_line}: an experiment is a whole run, as --config is; give one of the two, and values as "
            "KEY=VALUE"
        )
    config = composer.compose([str(each.input_line) for each in groups])
    return OmegaConf.to_container(config[group], resolve=False)


def _resolved(tree: dict[str, Any]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _set(tree: dict[str, Any], item: Override, file: Path) -> None:
    """Change one value in place."""
    key = str(item.key_or_group)
    *sections, last = key.split(".")
    node: Any = tree
    for section in sections:
        node = node.get(section) if isinstance(node, dict) else None
    is_there = isinstance(node, dict) and last in node
    if not isinstance(node, dict) or not (is_there or item.is_add() or item.is_force_add()):
        close = nearest(key, list(dotted_keys(tree)))
        mend = f"did you mean {close}?" if close else "leave it away"
        raise ConfigError(f"{key}: {file} has no such key; {mend}")
    if item.is_delete():
        del node[last]
    else:
        node[last] = item.value()
