"""What a user has to mend, and how a key that no section names becomes one."""

from __future__ import annotations

from typing import ClassVar


class ConfigError(ValueError):
    """A configuration or dataset the user has to mend; the message is one sentence that says how."""


class Section:
    """A part of the configuration; a key that it does not name is an error."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
