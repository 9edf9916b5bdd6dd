"""Folders that cannot be written into and disks that are full, as one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videor2_rl.config.errors import ConfigError

_FULL = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EROFS: "Read-only file system",
    errno.EFBIG: "File too large",  # than `ulimit -f` or the file system lets one be
}


@contextmanager
def writing(key: str, path: Path) -> Iterator[None]:
    """Writing to `path`, which the user gave as `key`.

    Raises:
        ConfigError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "make room there, or give another place"
        else:
            mend = "give a place that can be written to"
        raise ConfigError(f"{key}: cannot write to {path} ({_reason(error, path)}); {mend}") from None


def full_disk(error: BaseException) -> str | None:
    """What stands in the way where an error, whoever raised it, comes from a full or read-only disk; else None.

    Libraries and workers pass it on as errors of their own, so their text is looked at too.
    """
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, OSError) and each.errno in _FULL:
            return _FULL[each.errno] + (f": {each.filename}" if each.filename else "")
        text = str(each)
        if found := next((reason for reason in _FULL.values() if reason in text), None):
            return found
        todo += [each.__cause__, each.__context__]
    return None


def _reason(error: OSError, path: Path) -> str:
    in_the_way = next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None)
    if isinstance(error, (NotADirectoryError, FileExistsError)) and in_the_way is not None:
        return f"{in_the_way} is a file"
    return error.strerror or str(error)
