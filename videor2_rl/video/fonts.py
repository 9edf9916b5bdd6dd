"""Which font draws a character: the one that is named, DejaVu Sans, then what the system has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageDraw, ImageFont

from videor2_rl.config.errors import ConfigError

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
_SUFFIXES = (".ttf", ".otf", ".ttc")
_PREFERRED = ("notosanscjk", "sourcehansans", "notosans", "wqy", "droidsansfallback", "malgun", "msyh", "arialuni")
"""Sans-serif fonts of many scripts, by how their files' names begin."""
_MOST_FONTS = 300
"""So many of the system's are asked."""
_SIZE_ASKED = 20


class Face:
    """A size of one font, with others for the characters that it lacks."""

    def __init__(self, files: tuple[str, ...], size: int) -> None:
        self.size = size
        self._files = files
        self._main = load(files[0], size)

    def getlength(self, text: str) -> float:
        """Pixels that a line takes."""
        return sum(font.getlength(part) for font, part in self._runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *, fill: tuple[int, ...]) -> None:
        """A line whose top left corner is `place`; all fonts stand on the first one's base line."""
        runs = self._runs(text)
        if len(runs) == 1 and runs[0][0] is self._main:
            draw.text(place, text, font=self._main, fill=fill)
            return
        x, base = place[0], place[1] + self._main.getmetrics()[0]
        for font, part in runs:
            draw.text((x, base), part, font=font, fill=fill, anchor="ls")
            x += font.getlength(part)

    def _runs(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        if len(self._files) == 1:
            return [(self._main, text)]
        runs: list[tuple[ImageFont.FreeTypeFont, str]] = []
        for character in text:
            file = next((file for file in self._files if _is_drawn(file, character)), self._files[0])
            font = load(file, self.size)
            if runs and runs[-1][0] is font:
                runs[-1] = (font, runs[-1][1] + character)
            else:
                runs.append((font, character))
        return runs


def files_for(text: str, font: str | None) -> tuple[str, ...]:
    """The fonts that a text needs, the one that draws most first: `font` where it is named, else DejaVu Sans."""
    files = [dejavu() if font is None else font]
    lacking = _lacking(text, files[0])
    if lacking and font is not None:
        files.append(dejavu())
        lacking &= _lacking(text, dejavu())
    # The first font that has any of them: preferred ones have whole scripts, so a text seldom needs two.
    for file in _system_fonts() if lacking else ():
        still = frozenset(character for character in lacking if not _is_drawn(file, character))
        if len(still) < len(lacking):
            files.append(file)
            lacking = still
        if not lacking:
            break
    return tuple(files)


def without_shape(text: str, font: str | None) -> frozenset[str]:
    """The characters of a text that no font here has: they are drawn as boxes."""
    files = files_for(text, font)
    return frozenset.intersection(*(_lacking(text, file) for file in files))


def fonts_digest(files: Iterable[str]) -> str:
    """What fonts are, wherever they lie."""
    return hashlib.sha256("".join(map(_digest, files)).encode()).hexdigest()


def check_font(font: str | None) -> None:
    """`video.font` can be drawn with.

    Raises:
        ConfigError: it cannot.
    """
    if font is None:
        return
    try:
        load(font, _SIZE_ASKED)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"video.font: {font} cannot be read as a font ({error}); name a .ttf, .otf or .ttc file, or null"
        ) from None


@lru_cache(maxsize=256)
def load(file: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of `size` pixels."""
    return ImageFont.truetype(file, size)


@lru_cache(maxsize=1)
def dejavu() -> str:
    """DejaVu Sans as matplotlib ships it, found without importing matplotlib."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None, "matplotlib is a dependency"
    return str(Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf")


def _lacking(text: str, file: str) -> frozenset[str]:
    return frozenset(character for character in set(text) if not _is_drawn(file, character))


@lru_cache(maxsize=65536)
def _is_drawn(file: str, character: str) -> bool:
    """The font has a shape of its own for the character, which is not the one for characters that it lacks."""
    if character.isspace():
        return True
    try:
        font = load(file, _SIZE_ASKED)
        shape = font.getmask(character)
    except (OSError, ValueError):
        return False
    return shape.getbbox() is not None and bytes(shape) != _box(file)


@lru_cache(maxsize=1024)
def _box(file: str) -> bytes:
    """What is drawn for U+FFFF, which is no character and so in no font."""
    return bytes(load(file, _SIZE_ASKED).getmask("\uffff"))


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Font files of the system: fonts of many scripts first, plain ones before bold and slanted."""
    found = []
    for folder in _FOLDERS:
        for parent, _, names in os.walk(os.path.expanduser(folder)):
            found += [os.path.join(parent, name) for name in names if name.lower().endswith(_SUFFIXES)]
    return tuple(sorted(found, key=_rank)[:_MOST_FONTS])


def _rank(file: str) -> tuple[int, bool, str]:
    name = os.path.basename(file).lower().replace("-", "").replace("_", "").replace(" ", "")
    order = next((i for i, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
    styled = any(style in name for style in ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif"))
    return order, styled, file


@lru_cache(maxsize=64)
def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
