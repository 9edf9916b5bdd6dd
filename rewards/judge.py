"""What a judge's raw replies say. Pure; who asks the judge lives elsewhere."""

from __future__ import annotations

import json
import re

_TRUE_OR_FALSE = re.compile(r"\b(not\s+)?(true|false)\b", re.IGNORECASE)


def read_claims_reply(text: str) -> dict[str, str] | None:
    """The first JSON object of a reply as time key -> sentence; None where it holds none.

    Entries whose value is no sentence are left out; the keys stay as the judge wrote them.
    """
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return {key: value for key, value in found.items() if isinstance(value, str) and value.strip()}
    return None


def read_consistency_reply(text: str) -> bool | None:
    """Whether a reply's first line says TRUE; "NOT TRUE" is False. None where it says neither or both."""
    lines = text.strip().splitlines()
    said = {
        (match[2].lower() == "true") != bool(match[1]) for match in _TRUE_OR_FALSE.finditer(lines[0] if lines else "")
    }
    return said.pop() if len(said) == 1 else None
