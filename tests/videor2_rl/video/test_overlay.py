"""Overlays are where they should be, and can be read after the resize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from videor2_rl.config.errors import ConfigError
from videor2_rl.video.overlay import draw_overlays, time_text
from videor2_rl.video.subtitles import Cue

HEIGHT, WIDTH = 280, 504


def plain(
    colour: tuple[int, int, int] = (40, 40, 40), *, height: int = HEIGHT, width: int = WIDTH
) -> NDArray[np.uint8]:
    return np.broadcast_to(np.asarray(colour, np.uint8), (1, height, width, 3)).copy()


def draw(frames: NDArray[np.uint8], time_s: float, *, timestamps: bool = True, text: str = "") -> NDArray[np.uint8]:
    cues = (Cue(0.0, 100.0, text),) if text else ()
    return draw_overlays(frames, np.asarray([time_s]), timestamps=timestamps, cues=cues)[0]


def changed(frame: NDArray[np.uint8], before: NDArray[np.uint8]) -> tuple[slice, slice]:
    """The smallest box around all pixels that differ."""
    rows, columns = np.nonzero((frame != before).any(axis=-1))
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


@pytest.mark.parametrize(
    ("time_s", "text"),
    [
        (0.0, "00:00:00"),
        (5.0, "00:00:05"),
        (4.98, "00:00:05"),
        (5.5, "00:00:05.5"),
        (59.96, "00:01:00"),
        (3661.24, "01:01:01.2"),
        (360000.0, "100:00:00"),
    ],
)
def test_a_time_is_rounded_to_tenths_and_never_floored(time_s: float, text: str) -> None:
    assert time_text(time_s) == text


def test_the_time_is_top_left_and_nothing_else_changes() -> None:
    before = plain()[0]
    rows, columns = changed(draw(plain(), 83.0), before)
    assert rows.stop < 0.12 * HEIGHT and columns.stop < 0.25 * WIDTH
    assert rows.stop - rows.start >= 10


@pytest.mark.parametrize(("height", "width"), [(280, 504), (112, 112), (84, 112)])
def test_each_digit_can_be_told_from_every_other(height: int, width: int) -> None:
    """Read the last digit back by comparing with the font drawn by itself."""
    import matplotlib

    font_file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    font = ImageFont.truetype(str(font_file), 16)
    for digit in range(10):
        frame = draw(plain(height=height, width=width), float(digit))[..., 1].astype(np.float32)
        ink = (frame > 200).astype(np.float32)
        scores = []
        for other in range(10):
            image = Image.new("L", (width, height))
            ImageDraw.Draw(image).text((4, 4), f"00:00:0{other}", font=font, fill=255)
            scores.append(float(((np.asarray(image) > 200) == ink).mean()))
        assert int(np.argmax(scores)) == digit, scores


@pytest.mark.parametrize(
    ("corner", "is_white"),
    [
        ((20, 20, 20), True),
        ((200, 40, 40), True),
        # Reddish, and as light as a corner that gets red.
        ((255, 120, 120), True),
        ((240, 240, 240), False),
        ((60, 200, 60), False),
    ],
)
def test_the_ink_is_white_on_dark_and_reddish_corners_and_red_elsewhere(
    corner: tuple[int, int, int], is_white: bool
) -> None:
    frame = draw(plain(corner), 5.0).astype(np.int16)
    ink, outline = ((255, 255, 255), (0, 0, 0)) if is_white else ((255, 0, 0), (255, 255, 255))
    for colour in (ink, outline):
        assert (np.abs(frame - colour).max(axis=-1) < 60).sum() > 100


def test_a_subtitle_stands_bottom_centre_in_a_translucent_box() -> None:
    before = plain((200, 200, 200))[0]
    frame = draw(plain((200, 200, 200)), 5.0, timestamps=False, text="A dog barks")
    rows, columns = changed(frame, before)
    assert rows.start > 0.8 * HEIGHT and rows.stop <= HEIGHT
    assert abs((columns.start + columns.stop) / 2 - WIDTH / 2) <= 1
    assert (frame == (255, 255, 255)).all(axis=-1).sum() > 50
    darkened = frame[rows, columns].reshape(-1, 3)
    assert 40 < np.median(darkened) < 120


def test_the_box_is_as_wide_as_the_longest_line_of_a_subtitle() -> None:
    before = plain((200, 200, 200))[0]
    one, two = (
        changed(draw(plain((200, 200, 200)), 5.0, timestamps=False, text=text), before)
        for text in ("w" * 20, f"{'w' * 20} {'w' * 16}")
    )
    assert two[1] == one[1] and two[0].start < one[0].start


def test_long_subtitles_are_wrapped_and_stay_within_their_share_of_the_frame() -> None:
    before = plain()[0]
    for text in ("word " * 60, "x" * 400, "word " * 500):
        rows, columns = changed(draw(plain(), 5.0, timestamps=False, text=text), before)
        assert rows.start > 0.5 * HEIGHT
        assert columns.stop - columns.start <= 0.96 * WIDTH


def test_outside_a_cue_nothing_is_drawn() -> None:
    cues = (Cue(10.0, 11.0, "later"),)
    assert (draw_overlays(plain(), np.asarray([5.0]), timestamps=False, cues=cues) == plain()).all()


def test_frames_too_narrow_for_a_time_are_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match=r"28 x 28 pixels .* video.timestamps=false"):
        draw(plain(height=28, width=28), 5.0)
