"""Times and subtitles as the paper's code draws them: on frames at the file's size, before the resize."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_TIME_SIZE = (0.05, 16, 72)
"""Font height as a share of the short side, least and most pixels."""
_SUBTITLE_SIZE = (0.06, 20, 96)
_SUBTITLE_WIDTH = 0.9
_LINE_GAP = 0.2
"""Of the font height, between two lines."""
_BOX_OPACITY = int(255 * 0.55)
_CORNER = (40, 200)
"""Height and width of the corner whose mean decides on the colour, whatever the size of the text."""
_RED, _WHITE, _BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)

Frame = NDArray[np.uint8]


def draw_time(frame: Frame, text: str) -> Frame:
    """[H, W, 3] with `text` top left; a narrow frame cuts it off."""
    image = Image.fromarray(frame)
    size = _size(frame, _TIME_SIZE)
    margin = max(5, size // 4)
    ImageDraw.Draw(image).text(
        (margin, margin), text, fill=_ink(frame), font=_font(size), stroke_width=max(1, size // 12), stroke_fill=_BLACK
    )
    return np.asarray(image)


def draw_subtitle(frame: Frame, text: str) -> Frame:
    """[H, W, 3] with `text` in a translucent box bottom centre.

    The height of a line is that of its letters, yet it is drawn from the top of the font: lines with and without
    descenders stand at uneven distances, and the last one may reach out of the box. A frame lower than the margin gets
    no subtitle.
    """
    size = _size(frame, _SUBTITLE_SIZE)
    font = _font(size)
    margin = max(6, int(size * 0.25))
    gap = int(_LINE_GAP * size)
    image = Image.fromarray(frame).convert("RGBA")
    draw = ImageDraw.Draw(image)
    lines = _wrap(draw, font, text, max_width=int(image.width * _SUBTITLE_WIDTH))
    sizes = [_measure(draw, font, line or " ") for line in lines]

    width = max(line_width for line_width, _ in sizes)
    height = sum(line_height for _, line_height in sizes) + gap * (len(lines) - 1)
    left = max(0, (image.width - width) // 2 - margin)
    right = min(image.width, left + width + 2 * margin)
    bottom = image.height - margin
    top = max(0, bottom - height - 2 * margin)
    if bottom < top:
        return frame
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).rectangle((left, top, right, bottom), fill=(*_BLACK, _BOX_OPACITY))
    image = Image.alpha_composite(image, layer)

    draw = ImageDraw.Draw(image)
    y = top + margin
    for line, (line_width, line_height) in zip(lines, sizes, strict=True):
        x = (image.width - line_width) // 2
        draw.text((x, y), line, fill=_WHITE, font=font, stroke_width=max(1, size // 12), stroke_fill=_BLACK)
        y += line_height + gap
    return np.asarray(image.convert("RGB"))


def _ink(frame: Frame) -> tuple[int, int, int]:
    """White on a dark or reddish corner, else red."""
    height, width = _CORNER
    corner = frame[:height, :width].astype(np.float32)
    # Channel by channel: float32 sums depend on their order.
    red, green, blue = (corner[..., channel].mean() for channel in range(3))
    is_dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 80.0
    is_reddish = red > 120.0 and red - max(green, blue) > 40.0
    return _WHITE if is_dark or is_reddish else _RED


def _wrap(draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, text: str, *, max_width: int) -> list[str]:
    """Lines of at most `max_width` pixels where words allow it: a long word is never broken; given breaks stay."""
    lines = []
    for given in text.split("\n"):
        line = ""
        for word in given.split():
            joined = f"{line} {word}" if line else word
            if line and _measure(draw, font, joined)[0] > max_width:
                lines.append(line)
                line = word
            else:
                line = joined
        lines.append(line)
    return lines


def _measure(draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, text: str) -> tuple[int, int]:
    """Width and height of the letters' box."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    return right - left, bottom - top  # type: ignore[return-value]


def _size(frame: Frame, rule: tuple[float, int, int]) -> int:
    share, least, most = rule
    return max(least, min(most, round(min(frame.shape[:2]) * share)))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which the paper's code asks of the system, as matplotlib ships it."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None, "matplotlib is a dependency"
    return ImageFont.truetype(str(Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"), size)
