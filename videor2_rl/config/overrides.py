"""A command line's KEY=VALUE and GROUP=NAME: what is wrong with them, each in one sentence with the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from videor2_rl.config.composing import TRAINING_APPS, Composer
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.loading import RunT, check_values, dotted_keys, nearest, unknown_keys

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

_WITHOUT_EFFECT = ("hydra.run.", "hydra.sweep.", "hydra.sweeper", "hydra.launcher", "hydra.output_subdir", "hydra.mode")
"""Of Hydra's own keys: a run's folder is output_dir, and a sweep's runs follow one another."""


def composed(composer: Composer, run_type: type[RunT], overrides: Sequence[str]) -> DictConfig:
    """Hydra's tree, its own part under `hydra`.

    Raises:
        ConfigError: an override that cannot be read, or names what is not there.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    parsed = parse(composer, overrides)
    check_names(composer, parsed)
    try:
        return composer.compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(composer, run_type, parsed, error)) from None


def resolved(config: DictConfig, run_type: type[RunT]) -> dict[str, Any]:
    """A plain tree of the app's own values.

    Raises:
        ConfigError: values that have to be given are missing, or refer to what is not there.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # Before what refers to them: Hydra would name the reference.
    check_values(run_type, _own(OmegaConf.to_container(config, resolve=False)))
    # For values that refer to ${hydra:...}.
    HydraConfig.instance().set_config(config)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        return _own(OmegaConf.to_container(own, resolve=True))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(f"configuration: {key}: {_one_line(error)}; give it a value of its own") from None


def _own(tree: Any) -> dict[str, Any]:
    """Without Hydra's part."""
    return {str(key): value for key, value in tree.items() if key != "hydra"}


def parse(composer: Composer, overrides: Sequence[str]) -> list[Override]:
    """The overrides taken apart.

    Raises:
        ConfigError: names the first that is no KEY=VALUE.
    """
    from hydra.errors import HydraException

    for place, text in enumerate(overrides):
        if "=" in text or text.startswith("~"):
            continue
        following = overrides[place + 1] if place + 1 < len(overrides) else "VALUE"
        mend = f"{text}={following}" if "=" not in following else f"{text}=VALUE"
        raise ConfigError(f"{text}: has no value, expected KEY=VALUE; did you mean {mend}?")
    parsed = []
    for text in overrides:
        try:
            parsed += composer.parse([text])
        except HydraException as error:
            reason = _one_line(error).split(" See https:")[0]
            key, _, value = text.partition("=")
            quoted = f"'{key}=\"{value}\"'"
            raise ConfigError(
                f"{text}: cannot be read ({reason}); a text with signs of its own is written {quoted}"
            ) from None
    return parsed


def check_names(composer: Composer, overrides: Iterable[Override]) -> None:
    """Every GROUP=NAME names a group of the app and an alternative in it.

    Raises:
        ConfigError: names the first that does not, and what there is.
    """
    parsed = list(overrides)
    texts = [override.input_line or "" for override in parsed]
    for override in parsed:
        group = str(override.key_or_group)
        if group.startswith(_WITHOUT_EFFECT):
            raise ConfigError(
                f"{group}: has no effect here; a run's folder is output_dir=FOLDER, and -m makes a run of each value"
            )
        if override.is_delete() or group.startswith("hydra"):
            continue
        known = [] if "." in group else composer.options(group, texts)
        if not known:
            continue
        if not (override.is_sweep_override() or (isinstance(override.value(), str) and override.value())):
            raise ConfigError(f"{override.input_line}: names no choice; leave it away, or give {group}=NAME")
        for name in _names_given(override):
            _check_name(composer, group, name, known, is_added=override.is_add() or override.is_force_add())


def _check_name(composer: Composer, group: str, name: str, known: Sequence[str], *, is_added: bool) -> None:
    app = composer.command
    if group not in composer.groups and not is_added:
        there = ", ".join(f"{other}=NAME" for other in composer.groups)
        raise ConfigError(f"{group}={name}: {app} has no choice of {group}; it has {there}")
    if name not in known:
        fitting = composer.experiments() if group == "experiment" else known
        close = difflib.get_close_matches(name, fitting, n=1, cutoff=0.8)
        guess = f"did you mean {close[0]}? There are" if close else "choose"
        raise ConfigError(f"{group}={name}: there is none of this name; {guess} {_listed(fitting)}")
    if group != "experiment":
        return
    if not composer.is_global(name):
        raise ConfigError(f"experiment={name}: its first line has to be # @package _global_; put that there")
    if composer.fits(name, composer):
        return
    # One that fits nowhere is a file with a mistake in it, which is named when it is read.
    others = [other for other in TRAINING_APPS if other != app and composer.fits(name, Composer(other))]
    if others:
        raise ConfigError(
            f"experiment={name}: is an experiment of {' and '.join(others)} (python -m videor2_rl.{others[0]} "
            f"experiment={name}); choose {_listed(composer.experiments())} here"
        )


def _names_given(override: Override) -> list[str]:
    """What a GROUP=NAME names: several in a sweep."""
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(override.value())]


def _explain(composer: Composer, run_type: type[RunT], overrides: Sequence[Override], error: Exception) -> str:
    """Why Hydra could not compose the overrides, by the first that is at fault."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    several = next((item for item in overrides if item.is_sweep_override()), None)
    if several is not None:
        key, _, value = str(several.input_line).partition("=")
        return f"{key}={value}: several values need -m, which makes a run of each; a list is written {key}=[{value}]"
    choices: list[str] = [str(item.input_line) for item in overrides if str(item.key_or_group) in composer.groups]
    try:
        base = composer.compose([*choices, *(str(item.input_line) for item in overrides if _is_searchpath(item))])
    except (HydraException, OmegaConfBaseException):
        # It is the choices themselves, of which Hydra's own message tells.
        return f"configuration: {_one_line(error)}"

    known = list(dotted_keys(_own(OmegaConf.to_container(base, resolve=False))))
    for item in overrides:
        key, text = str(item.key_or_group), str(item.input_line)
        if text in choices or key.startswith("hydra"):
            continue
        if item.is_add() and key in known:
            return f"{text}: there is a key {key} already; give it without the +"
        if key in known or item.is_add() or item.is_force_add():
            continue
        if item.is_delete():
            return f"{text}: there is no key {key} to take out; leave it away"
        if _may_be_added(composer, run_type, choices, item):
            return f"configuration: there is no key {key} yet; add it as +{text}"
        close = nearest(key, known)
        mend = f"did you mean {close}?" if close else f"see python -m videor2_rl.{composer.command} --help"
        return f"configuration: there is no key {key}; {mend}"
    return f"configuration: {_one_line(error)}"


def _may_be_added(composer: Composer, run_type: type[RunT], choices: Sequence[str], override: Override) -> bool:
    """Whether the key stands in a section with keys of the user's own, such as an optimiser's options."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        config = composer.compose([*choices, f"+{override.input_line}"])
    except HydraException:
        return False
    unknown = unknown_keys(run_type, _own(OmegaConf.to_container(config, resolve=False)))
    return not any(str(override.key_or_group).startswith(key) for key in unknown)


def _is_searchpath(override: Override) -> bool:
    return str(override.key_or_group) == "hydra.searchpath"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
