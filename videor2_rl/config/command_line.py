"""What every app's command line has: one-sentence refusals, --version, and help that offers only what fits."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from videor2_rl.config.composing import Composer
from videor2_rl.config.errors import ConfigError


def version_text() -> str:
    """This package's version, Python's and torch's, without loading torch."""
    versions = []
    for package in ("videor2-rl", "torch"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return f"{versions[0]} (Python {sys.version.split()[0]}, {versions[1]})"


class Parser(argparse.ArgumentParser):
    """Has --version, and says in one sentence what is wrong with an argument."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.add_argument("--version", action="version", version=version_text(), help="print the versions and exit")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")

    def parse_mixed(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Options and positional arguments in any order; an option that is not known ends the program."""
        arguments, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            self.error(unknown_option(unknown, self))
        return arguments


def unknown_option(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """The first argument that the parser did not take, and the option that is nearest."""
    first = next((each for each in unknown if each.startswith("-")), unknown[0])
    known = [option for action in parser._actions for option in action.option_strings]
    close = difflib.get_close_matches(first.split("=")[0], known, n=1)
    return f"there is no option {first}" + (f", did you mean {close[0]}?" if close else "")


def hydra_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's own options and the overrides, in any order.

    Raises:
        ConfigError: an option that is not there, or a wrong value of one.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        arguments, unknown = parser.parse_known_intermixed_args(list(argv))
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None
    if unknown:
        raise ConfigError(unknown_option(unknown, parser))
    if arguments.experimental_rerun:
        raise ConfigError("--experimental-rerun: is not supported; give the same command again, and the run goes on")
    return arguments


def help_text(composer: Composer, overrides: Sequence[str], *, header: str | None) -> str:
    """conf/app.yaml's template with the app's own groups, and of the experiments those that fit.

    Args:
        header: in place of the one in the app's primary file.

    Raises:
        HydraException: the overrides do not fit.
    """
    from string import Template

    from omegaconf import OmegaConf

    config = composer.compose(overrides)
    choices = {group: composer.options(group, overrides) for group in composer.groups}
    if "experiment" in choices:
        choices["experiment"] = composer.experiments()
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if header is not None:
        OmegaConf.set_readonly(config.hydra, False)
        config.hydra.help.header = header
    return Template(config.hydra.help.template).substitute(
        APP_CONFIG_GROUPS="\n".join(f"{group}: {', '.join(names)}" for group, names in sorted(choices.items())) + "\n",
        CONFIG=OmegaConf.to_yaml(own),
    )
