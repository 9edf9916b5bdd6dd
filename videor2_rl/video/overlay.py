"""Times and subtitles drawn on frames, after the resize, so that they are legible at the size the model sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from videor2_rl.config.errors import ConfigError
from videor2_rl.video.fonts import Face, dejavu, files_for, load
from videor2_rl.video.subtitles import Cue, active_text

_TIME_SIZE = (0.05, 16, 72)
"""Font height as a share of the short side, least and most pixels: as in arXiv:2511.23478."""
_SUBTITLE_SIZE = (0.06, 20, 96)
_LEAST_SIZE = 8
"""Smaller digits can no longer be told apart."""
_SUBTITLE_WIDTH = 0.9
_SUBTITLE_HEIGHT = 0.4
"""Shares of the frame that a subtitle may take."""
_BOX_OPACITY = 160
_RED, _WHITE, _BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def draw_overlays(
    frames: NDArray[np.uint8],
    times_s: NDArray[np.float64],
    *,
    timestamps: bool,
    cues: tuple[Cue, ...],
    font: str | None = None,
) -> NDArray[np.uint8]:
    """[F, H, W, 3] frames with their times top left and the active subtitles bottom centre.

    Args:
        font: the subtitles' font file; None is DejaVu Sans. Others draw what it lacks.

    Raises:
        ConfigError: the frames are too narrow for a legible time.
    """
    if not timestamps and not cues:
        return frames
    drawn = []
    for frame, time_s in zip(frames, times_s, strict=True):
        image = Image.fromarray(frame)
        if timestamps:
            _draw_time(image, time_text(float(time_s)))
        text = active_text(cues, float(time_s))
        if text:
            image = _with_subtitle(image, text, font)
        drawn.append(np.asarray(image))
    return np.stack(drawn)


def time_text(time_s: float) -> str:
    """HH:MM:SS, with tenths of a second where the nearest tenth is not a whole second: stamps are never floored."""
    tenths = max(0, round(time_s * 10))
    seconds, tenth = divmod(tenths, 10)
    whole = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{whole}.{tenth}" if tenth else whole


def _draw_time(image: Image.Image, text: str) -> None:
    font = _fitting_font(image, text)
    margin = max(1, round(font.size / 4))
    draw = ImageDraw.Draw(image)
    outline = max(1, round(font.size / 12))
    box = draw.textbbox((margin, margin), text, font=font, stroke_width=outline)
    corner = np.asarray(image)[: int(box[3]) + 1, : int(box[2]) + 1].reshape(-1, 3).mean(axis=0)
    ink = _ink(corner)
    # Red on black cannot be read at this size.
    around = _BLACK if ink == _WHITE else _WHITE
    draw.text((margin, margin), text, font=font, fill=ink, stroke_width=outline, stroke_fill=around)


def _ink(corner: NDArray[np.float64]) -> tuple[int, int, int]:
    """White on a dark or reddish corner (mean RGB, 0-255), else red."""
    red, green, blue = corner
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    is_reddish = red > 1.3 * max(green, blue)
    return _WHITE if luminance < 110 or is_reddish else _RED


def _fitting_font(image: Image.Image, text: str) -> ImageFont.FreeTypeFont:
    """The nominal size, or the largest smaller one with which the time stays within the frame."""
    size = _nominal_size(image, _TIME_SIZE)
    while size >= _LEAST_SIZE:
        font = _font(size)
        if font.getlength(text) + size <= image.width:
            return font
        size -= 1
    raise ConfigError(
        f"video.timestamps: a frame of {image.width} x {image.height} pixels is too narrow for a legible time; "
        "set video.timestamps=false or raise video.min_pixels"
    )


def _with_subtitle(image: Image.Image, text: str, font_file: str | None) -> Image.Image:
    """The image with `text` in a translucent box; long texts are set smaller, and cut at the smallest size."""
    font, lines = _layout(image, text, files_for(text, font_file))
    line_height = round(font.size * 1.25)
    padding = max(1, round(font.size / 4))
    width = max(font.getlength(line) for line in lines)
    top = image.height - len(lines) * line_height - 2 * padding
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    left = (image.width - width) / 2
    draw.rectangle((left - padding, top, left + width + padding, image.height - padding), fill=(*_BLACK, _BOX_OPACITY))
    for number, line in enumerate(lines):
        x = (image.width - font.getlength(line)) / 2
        font.draw(draw, (x, top + padding / 2 + number * line_height), line, fill=(*_WHITE, 255))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _layout(image: Image.Image, text: str, files: tuple[str, ...]) -> tuple[Face, list[str]]:
    size = max(_LEAST_SIZE, _nominal_size(image, _SUBTITLE_SIZE))
    while True:
        font = Face(files, size)
        lines = _wrap(text, font, width=_SUBTITLE_WIDTH * image.width)
        most = max(1, int(_SUBTITLE_HEIGHT * image.height / (size * 1.25)))
        if len(lines) <= most or size == _LEAST_SIZE:
            return font, lines[:most]
        size -= 1


def _wrap(text: str, font: Face, *, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, and inside a word only where it is wider than a line."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _nominal_size(image: Image.Image, rule: tuple[float, int, int]) -> int:
    share, least, most = rule
    return min(max(round(share * min(image.size)), least), most)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The time's font."""
    return load(dejavu(), size)
