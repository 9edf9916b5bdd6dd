"""The text of each token, for colouring a response token by token."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.report.data import value_at

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILE = "tokenizer.json"


def tokenizer_file(run_dir: Path, settings: Mapping[str, Any]) -> Path | None:
    """The tokenizer that the run used: of its model, or of what it exported; None where neither is there any more."""
    model = value_at(settings, "model.path")
    bases = (Path.cwd(), *run_dir.resolve().parents)
    folders = [run_dir / "hf", *(base / str(model) for base in bases if model is not None)]
    return next((folder / _FILE for folder in folders if (folder / _FILE).is_file()), None)


@cache
def load_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer of a file, read once."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def pieces(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """The text of each token of a byte-level vocabulary; a character of several tokens stands with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(_bytes(tokenizer.id_to_token(token_id) or "\ufffd")) for token_id in token_ids]


def _bytes(token: str) -> bytes:
    table = _byte_of()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode()


@cache
def _byte_of() -> dict[str, int]:
    """The characters that stand for bytes in a byte-level vocabulary (GPT-2's): printable ones for themselves, the
    others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
