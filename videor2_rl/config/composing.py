"""Hydra's conf/ for one app: which groups and experiments it has, and the tree that a command line makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.config.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

_COMMANDS = {"evaluate_logs": "evaluate logs=DIR"}
"""Where a primary file is not named as the app that reads it."""
TRAINING_APPS = ("grpo", "sft", "evaluate")
"""Apps with a primary file that takes experiments."""


class Composer:
    """One app's primary file in conf/, with a user's own folder before it where one is given."""

    def __init__(self, config_name: str, *, config_dir: str | None = None, config_path: str | None = None) -> None:
        """
        Args:
            config_name: of the primary file.
            config_dir: a user's own folder, searched first.
            config_path: a folder in place of conf/.

        Raises:
            ConfigError: there is no such folder.
        """
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra._internal.utils import create_config_search_path
        from hydra.core.config_search_path import SearchPathQuery
        from hydra.core.singleton import Singleton
        from hydra.core.utils import JobRuntime, setup_globals
        from omegaconf import OmegaConf

        Singleton.instance(JobRuntime).set("name", config_name)
        setup_globals()
        # Every run of a sweep lies in the folder of the moment at which the sweep began.
        started = datetime.now()
        OmegaConf.register_new_resolver("now", started.strftime, replace=True)
        search_path = create_config_search_path(
            "pkg://conf" if config_path is None else _folder("--config-path", config_path)
        )
        if config_dir is not None:
            folder = _folder("--config-dir", config_dir)
            search_path.prepend("command-line", folder, SearchPathQuery(provider="schema"))
        self.config_name = config_name
        self.command = _COMMANDS.get(config_name, config_name)
        """The app as it is called."""
        self._loader = ConfigLoaderImpl(config_search_path=search_path)
        self._files: dict[str, _File | None] = {}

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Each override taken apart.

        Raises:
            OverrideParseException: one cannot be read.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        return OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration, Hydra's own part under `hydra`.

        Raises:
            HydraException: Hydra's own, where the overrides do not fit.
        """
        from hydra.types import RunMode

        return self._loader.load_configuration(
            config_name=self.config_name, overrides=list(overrides), run_mode=RunMode.RUN
        )

    def options(self, group: str, overrides: Sequence[str] = ()) -> list[str]:
        """The names that a group offers; `overrides` may extend the search path."""
        found = self._loader.get_group_options(
            group, config_name=self.config_name, overrides=[item for item in overrides if "hydra.searchpath=" in item]
        )
        return sorted(found)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups of which the app has a choice each, `experiment` among them where it takes one."""
        return tuple(group for group in self._primary.groups if not group.startswith("hydra/"))

    @property
    def _primary(self) -> _File:
        file = self._file(self.config_name)
        if file is None:
            raise ConfigError(f"--config-name: there is no {self.config_name}.yaml; give the name of a primary file")
        return file

    def experiments(self, app: str | None = None) -> list[str]:
        """The experiments that fit an app, this one by default."""
        other = self if app is None else Composer(app)
        return [name for name in self.options("experiment") if self.fits(name, other)]

    def fits(self, experiment: str, app: Composer) -> bool:
        """Whether an experiment chooses only from groups and sets only sections that `app` has."""
        sections = app._primary.sections
        for file in self._with_bases(experiment):
            if not {group for group in file.groups if not group.startswith("hydra/")} <= set(app.groups):
                return False
            for section, keys in file.sections.items():
                if section not in app.groups and not (section in sections and keys <= sections[section]):
                    return False
        return True

    def is_global(self, experiment: str) -> bool:
        """Whether the file's values lie where it says, not under `experiment`: `# @package _global_`."""
        file = self._file(f"experiment/{experiment}")
        return file is None or file.package == "_global_"

    def _with_bases(self, experiment: str) -> Iterator[_File]:
        """The experiment's file, and those that its defaults name, e.g. `- demo`."""
        file = self._file(f"experiment/{experiment}")
        if file is not None:
            yield file
            for base in file.bases:
                yield from self._with_bases(base)

    def _file(self, path: str) -> _File | None:
        if path not in self._files:
            found = self._loader.repository.load_config(path)
            self._files[path] = None if found is None else _read(found)
        return self._files[path]


@dataclass(frozen=True)
class _File:
    """What a configuration file names."""

    groups: tuple[str, ...]
    """That it chooses from."""
    bases: tuple[str, ...]
    """Files of its own folder that it builds on."""
    sections: Mapping[str, frozenset[str]]
    """Its top-level keys, each with the keys in it."""
    package: str | None


def _read(found: Any) -> _File:
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(found.config, resolve=False)
    assert isinstance(tree, dict)
    names = [getattr(default, "group", None) for default in found.defaults_list]
    paths = [getattr(default, "path", None) for default in found.defaults_list]
    return _File(
        groups=tuple(name.lstrip("/") for name in names if name is not None),
        bases=tuple(path.removeprefix("/experiment/") for path in paths if path not in (None, "_self_")),
        sections={
            str(key): frozenset(map(str, value)) if isinstance(value, dict) else frozenset()
            for key, value in tree.items()
        },
        package=found.header.get("package"),
    )


def _folder(option: str, folder: str) -> str:
    """As Hydra's search path has it.

    Raises:
        ConfigError: there is no such folder.
    """
    if "://" in folder:
        return folder
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(
            f"{option}: there is no folder {folder}; give the one that holds your experiment/, reward/, ..."
        )
    return f"file://{path}"
