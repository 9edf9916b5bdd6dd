"""A checkpoint's folder, looked at before anything loads it: what is missing is told in one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from videor2_rl.config.errors import ConfigError

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_checkpoint(path: str, *, key: str) -> None:
    """The folder holds config, tokenizer, processor and chat template; its weights are `check_weights`' to look at.

    Args:
        key: of the configuration, for messages.

    Raises:
        ConfigError: it does not; the message names the file and the mend.
    """
    folder = existing_folder(path, key=key, holding="config.json")
    read_model_json(folder / "config.json", key=key)
    again = f"copy it from the checkpoint, or fetch that again with hf download OWNER/NAME --local-dir {path}"
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        raise ConfigError(f"{key}: {path} holds no processor, {' or '.join(_PROCESSOR_FILES)}; {again}")
    for name in (*_PROCESSOR_FILES, "tokenizer_config.json"):
        if (folder / name).is_file():
            read_model_json(folder / name, key=key)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ConfigError(f"{key}: {path} holds no tokenizer, tokenizer.json or vocab.json with merges.txt; {again}")
    for name in ("tokenizer.json", "vocab.json"):
        if (folder / name).is_file():
            read_model_json(folder / name, key=key)
    if not _has_chat_template(folder, key=key):
        raise ConfigError(
            f"{key}: {path} holds no chat template, chat_template.jinja, chat_template.json or a chat_template in "
            f"tokenizer_config.json; {again}"
        )


def existing_folder(path: str, *, key: str, holding: str) -> Path:
    """`path` as a Path.

    Raises:
        ConfigError: there is no such folder, or it lacks the file `holding`; an id of the Hub is told how to download.
    """
    folder = Path(path)
    if not folder.is_dir():
        if looks_like_hub_id(path):
            raise ConfigError(
                f"{key}: there is no folder {path}, which looks like an id of the Hugging Face Hub; download it first, "
                f"hf download {path} --local-dir models/{folder.name} (older: huggingface-cli download), and give "
                f"{key.split(',')[0]}={'NAME:' if ',' in key else ''}models/{folder.name}"
            )
        home = f"; write it out, {folder.expanduser()}," if path.startswith("~") else ";"
        raise ConfigError(f"{key}: there is no folder {path}{home} give the folder that holds {holding}")
    if not (folder / holding).exists():
        raise ConfigError(f"{key}: {path} holds no {holding}; give the folder that does")
    return folder.resolve()


def looks_like_hub_id(path: str) -> bool:
    """OWNER/NAME, where there is no folder OWNER."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).parent.is_dir()


def read_model_json(file: Path, *, key: str) -> dict[str, Any]:
    """The object in a checkpoint's JSON file.

    Raises:
        ConfigError: it cannot be read, or holds none; the message names the file.
    """
    if is_lfs_pointer(file):
        raise ConfigError(f"{key}: {file} is a Git LFS pointer, not the file itself; fetch it with git lfs pull")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{key}: {file} cannot be read ({error.strerror}); mend its rights or copy it again"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{key}: {file} is not valid JSON ({error}); copy it again from the checkpoint") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: {file} holds no JSON object; copy it again from the checkpoint")
    return value


def is_lfs_pointer(file: Path) -> bool:
    """What a clone without git-lfs leaves in the place of a large file."""
    try:
        if file.stat().st_size > 1024:
            return False
        head = file.read_bytes()
    except OSError:
        return False
    return head.startswith(b"version ") and b"git-lfs" in head and b"oid sha256:" in head


def _has_chat_template(folder: Path, *, key: str) -> bool:
    template = folder / "chat_template.jinja"
    if template.is_file() and template.stat().st_size:
        return True
    if (folder / "chat_template.json").is_file():
        return bool(read_model_json(folder / "chat_template.json", key=key).get("chat_template"))
    files = [folder / name for name in ("tokenizer_config.json", "processor_config.json")]
    return any(file.is_file() and read_model_json(file, key=key).get("chat_template") for file in files)
