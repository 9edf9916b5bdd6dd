"""Hydra's tree of an app's configuration, composed outside of Hydra's own command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.loading import RunT, check_values


def compose_tree(
    config_name: str,
    overrides: Sequence[str],
    *,
    config_dir: Path | None = None,
    run_type: type[RunT] | None = None,
) -> dict[str, Any]:
    """The resolved tree of `conf/<config_name>.yaml` with a command line's overrides; works inside a Hydra app too.

    Args:
        config_dir: a folder with groups of the user's own, searched after `conf/`.
        run_type: whose required values must all be there; None: not looked at.

    Raises:
        ConfigError: there is no folder `config_dir`, an override names a search path too, or a value is missing.
        HydraException, OmegaConfBaseException: an override is wrong.
    """
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    if config_dir is not None:
        overrides = [_searching(config_dir, overrides), *overrides]
    with _outer_app_aside(), initialize_config_module("conf", version_base="1.3"):
        config = compose(config_name, overrides=list(overrides))
    if run_type is not None:
        # Before anything is resolved: a reference to a missing value is another error.
        check_values(run_type, OmegaConf.to_container(config, resolve=False))
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
