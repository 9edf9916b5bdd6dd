"""Characters are drawn with a font that has them, and those that none has are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import VideoSample
from videor2_rl.video import fonts
from videor2_rl.video.fonts import dejavu, files_for, without_shape
from videor2_rl.video.load import load_clip
from videor2_rl.video.overlay import draw_overlays
from videor2_rl.video.subtitle_check import check_drawing, look_at_subtitles
from videor2_rl.video.subtitles import Cue

WIDE = "你好"


def write_font(path: Path, characters: str) -> str:
    """A font whose characters are black squares; what it lacks is a bar."""
    names = {ord(character): f"u{ord(character):04X}" for character in characters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {}
    for name, right in ((".notdef", 100), *((name, 900) for name in names.values())):
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for corner in ((50, 800), (right, 800), (right, 0)):
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())


def ink(text: str, font: str | None) -> int:
    """White pixels of a subtitle on black."""
    frames = np.zeros((1, 200, 400, 3), np.uint8)
    cues = (Cue(0.0, 9.0, text),)
    return int((draw_overlays(frames, np.asarray([1.0]), timestamps=False, cues=cues, font=font) > 200).all(-1).sum())


@pytest.mark.usefixtures("no_system_fonts")
def test_a_named_font_draws_what_it_has_and_dejavu_the_rest(tmp_path: Path) -> None:
    font = write_font(tmp_path / "wide.ttf", WIDE)
    assert files_for("ab", None) == files_for("é Привет", None) == (dejavu(),)
    assert files_for(f"ab{WIDE}", font) == (font, dejavu())
    assert without_shape(f"ab {WIDE}", None) == set(WIDE)
    assert without_shape(f"ab {WIDE}好", font) == frozenset()
    assert without_shape(f"{WIDE}世", font) == {"世"}
    # Squares of 0.85 x 0.8 em at 20 pixels; a letter of DejaVu is thinner.
    assert ink(WIDE, font) > 2 * 0.6 * 20 * 20
    assert ink(f"{WIDE}ab", font) > ink(WIDE, font)


def test_a_font_of_the_system_draws_what_dejavu_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, font = write_font(tmp_path / "other.ttf", "世"), write_font(tmp_path / "wide.ttf", WIDE)
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_system_fonts", lambda: (str(broken), other, font))
    assert files_for(f"ab{WIDE}", None) == (dejavu(), font)
    assert without_shape(f"ab{WIDE}", None) == frozenset()
    assert ink(WIDE, None) == ink(WIDE, font)


def test_latin_subtitles_are_drawn_as_with_dejavu_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frames = np.zeros((1, 200, 400, 3), np.uint8)
    cues = (Cue(0.0, 9.0, "A dog barks, é"),)
    drawn = []
    for system in ((), (write_font(tmp_path / "latin.ttf", "Adog"),)):
        monkeypatch.setattr(fonts, "_system_fonts", lambda system=system: system)
        drawn.append(draw_overlays(frames, np.asarray([1.0]), timestamps=False, cues=cues))
    assert np.array_equal(drawn[0], drawn[1])


@pytest.mark.usefixtures("no_system_fonts")
def test_the_caches_key_has_the_cues_and_the_fonts_that_they_need(
    tmp_path: Path, write_video: Callable[..., Path], video_config: VideoConfig
) -> None:
    clip = write_video("clip.mp4", [i / 4 for i in range(24)])
    subtitles = tmp_path / "clip.srt"

    def key(text: str, font: str | None, encoding: str = "utf-8") -> str:
        subtitles.write_bytes(f"1\n00:00:00,000 --> 00:00:09,000\n{text}\n".encode(encoding))
        sample = VideoSample(
            sample_id="a",
            video=str(clip),
            question="?",
            solution="A",
            temporal_grounding=None,
            problem_type=None,
            options=(),
            subtitles=str(subtitles),
        )
        config = replace(video_config, subtitles=True, font=font)
        return load_clip(sample, config)[0].key

    font = write_font(tmp_path / "wide.ttf", WIDE)
    bare, named = key(WIDE, None), key(WIDE, font)
    assert key(WIDE, None, "utf-16") == bare
    assert len({bare, named, key("你", None), key("Hello", None), key("", None)}) == 5
    # Elsewhere, but the same font; other shapes are another one.
    moved = (tmp_path / "moved.ttf").write_bytes((tmp_path / "wide.ttf").read_bytes())
    assert moved and key(WIDE, str(tmp_path / "moved.ttf")) == named
    assert key(WIDE, write_font(tmp_path / "more.ttf", f"{WIDE}世")) != named


@pytest.mark.usefixtures("no_system_fonts")
def test_files_without_a_cue_broken_times_and_boxes_are_counted(tmp_path: Path, video_config: VideoConfig) -> None:
    texts = {
        "good": "00:00:01,000 --> 00:00:02,000\nHello",
        "empty": "",
        "wide": f"00:00:01,000 --> 00:00:02,000\n{WIDE}",
        "torn": "00:00:01,000 --> 00:00:02,000\nHello\n\n00:00:xx --> 00\nlost",
    }
    samples = []
    for name, text in texts.items():
        (tmp_path / f"{name}.srt").write_text(text, encoding="utf-8")
        samples.append(
            VideoSample(
                sample_id=name,
                video="clip.mp4",
                question="?",
                solution="A",
                temporal_grounding=None,
                problem_type=None,
                options=(),
                subtitles=str(tmp_path / f"{name}.srt"),
            )
        )
    found = look_at_subtitles(samples, video_config, limit=256)
    assert found.files == 4
    assert found.faults == ((str(tmp_path / "empty.srt"), "it is empty"),)
    assert found.unreadable == ((str(tmp_path / "torn.srt"), 1),)
    assert found.boxes == ((str(tmp_path / "wide.srt"), "".join(sorted(WIDE))),)
    assert found.box_text().startswith("2 characters in 1 subtitle files have no shape")
    with_font = replace(video_config, font=write_font(tmp_path / "wide.ttf", WIDE))
    assert look_at_subtitles(samples, with_font, limit=256).boxes == ()
    assert look_at_subtitles(samples, video_config, limit=2).files == 2


def test_a_font_or_an_encoding_that_is_none_is_refused_by_its_key(tmp_path: Path, video_config: VideoConfig) -> None:
    check_drawing(replace(video_config, font=dejavu(), subtitle_encoding="gb18030"))
    no_font = tmp_path / "no.ttf"
    no_font.write_bytes(b"no font")
    for font in (no_font, tmp_path / "missing.ttf"):
        with pytest.raises(ConfigError, match=r"video\.font: "):
            check_drawing(replace(video_config, font=str(font)))
    for encoding in ("klingon", "base64"):
        with pytest.raises(ConfigError, match=r"video\.subtitle_encoding: "):
            check_drawing(replace(video_config, subtitle_encoding=encoding))
