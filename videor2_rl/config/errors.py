"""What a user has to mend."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration or dataset the user has to mend; the message is one sentence that says how."""
