"""Judge replies on disk: one small file a reply, so that any number of processes may share a folder."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewards.judge import JudgePrompt

log = logging.getLogger(__name__)


def cache_key(prompt: JudgePrompt, *, model: str, sampling: Mapping[str, Any]) -> str:
    """Hex digest of all that shapes a reply: the prompt's text, version and schema, the model and the sampling."""
    parts = [prompt.version, prompt.system, prompt.user, prompt.schema, model, dict(sampling)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """Replies by key. A file is whole or absent whenever its writer is killed; a damaged one counts as absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = itertools.count()
        self._writable = True

    def get(self, key: str) -> str | None:
        """The raw reply, None where there is none yet."""
        try:
            text = json.loads(self._path(key).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def put(self, key: str, reply: str, *, prompt: JudgePrompt, model: str) -> None:
        """Keep a reply. Two writers of the same key both succeed; the later one stays.

        Not flushed to the disk: what a power cut damages is asked again. A folder that takes no more files is warned
        of once and then left alone, since the reply itself is at hand.
        """
        if not self._writable:
            return
        path = self._path(key)
        record = {"purpose": prompt.purpose, "version": prompt.version, "model": model, "reply": reply}
        unique = f"{socket.gethostname()}-{os.getpid()}-{next(self._names)}"
        temporary = path.with_name(f".{key}.{unique}.tmp")
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            self._writable = False
            log.warning("judge.calls.cache_dir: %s takes no more replies (%s); going on without", path.parent, error)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
