"""Subtitle files as they should be and as they are found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.video.subtitles import Cue, active_text, parse_srt, parse_subtitles, read_subtitles

CLEAN = "1\n00:00:01,000 --> 00:00:02,500\nHello\nthere\n\n2\n00:01:00,040 --> 01:00:00,000\nBye\n"
CUES = (Cue(1.0, 2.5, "Hello there"), Cue(60.04, 3600.0, "Bye"))


@pytest.mark.parametrize(
    "data",
    [
        CLEAN.encode(),
        b"\xef\xbb\xbf" + CLEAN.encode(),
        CLEAN.encode("utf-16"),
        CLEAN.replace("\n", "\r\n").encode(),
        CLEAN.replace(",", ".").encode(),
        CLEAN.replace("Hello", "<i>Hello</i>").replace("Bye", r"{\an8}<font color='#fff'>Bye</font>").encode(),
        CLEAN.replace("1\n0", "0", 1).replace("2\n00:01", "00:01").encode(),
        CLEAN.replace("\n\n2\n", "\n2\n").encode(),
        CLEAN.replace("00:00:0", "00:0").replace("2,500", "2,5").encode(),
        CLEAN.replace("2,500", "2,500  X1:10 X2:20").encode(),
        b"\n\n" + CLEAN.encode() + b"\n3\n00:00:09,000 --> 00:00:08,000\nbackwards\n4\nno time\n",
    ],
    ids=["clean", "mark", "utf-16", "crlf", "period", "tags", "no numbers", "no blank", "no hours", "position", "junk"],
)
def test_every_variant_gives_the_same_cues(data: bytes) -> None:
    assert parse_srt(data) == CUES


def test_cues_come_in_the_order_of_their_start() -> None:
    text = "1\n00:00:05,000 --> 00:00:06,000\nsecond\n\n2\n00:00:01,050 --> 00:00:02,5\nfirst\n"
    assert parse_srt(text.encode()) == (Cue(1.05, 2.5, "first"), Cue(5.0, 6.0, "second"))


def test_other_bytes_are_read_as_windows_1252() -> None:
    assert parse_srt(CLEAN.replace("Bye", "Café").encode("cp1252"))[1].text == "Café"


def test_entities_and_a_spoken_number_are_kept() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nTom &amp; Eve\n42\n"
    assert parse_srt(text.encode())[0].text == "Tom & Eve 42"


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    cues = parse_srt(data + b"\n00:00:01,000 --> 00:00:02,000\nx\n")
    assert all(cue.start_s <= cue.end_s for cue in cues)


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.94, ""), (0.95, "one"), (1.5, "one"), (1.98, "one"), (2.0, "two"), (3.05, "two three"), (3.2, "three")],
)
def test_a_cue_is_active_with_50_ms_of_slack(time_s: float, text: str) -> None:
    cues = (Cue(1.0, 2.0, "one"), Cue(2.0, 3.1, "two"), Cue(3.0, 4.0, "three"))
    assert active_text(cues, time_s) == text


def cue_texts(*bodies: str) -> list[str]:
    blocks = (f"{i}\n00:00:0{i},000 --> 00:00:0{i},900\n{body}\n" for i, body in enumerate(bodies, 1))
    return [cue.text for cue in parse_srt("\n".join(blocks).encode())]


@pytest.mark.parametrize(
    "text",
    [
        "if x < 3 and y > 2",
        "a<b and c>d",
        "I <3 you",
        "x <- y",
        "<?>",
        "if a < b and c > d then",
        "vector<int> v;",
        "{not a tag}",
        "from 00:00:05,000 to 00:00:06,000 he runs",
        "12:30 -> 13:00 lunch",
        "x --> y",
    ],
)
def test_what_is_no_markup_is_text(text: str) -> None:
    assert cue_texts(text, "next") == [text, "next"]


@pytest.mark.parametrize(
    "marked",
    [
        "<i>Hi</i>",
        "<I>Hi</I>",
        "<b><u>Hi</u></b>",
        '<font color="red">Hi</font>',
        r"{\an8}Hi",
        r"{\pos(1,2)}{\i1}Hi{\i0}",
        "Hi\u200e",
    ],
)
def test_markup_is_taken_out(marked: str) -> None:
    assert cue_texts(marked) == ["Hi"]


@pytest.mark.parametrize(
    "timing",
    [
        "00:00:01,000 -> 00:00:02,500",
        "00: 00: 01, 000 --> 00: 00: 02, 500",
        "00:00:01.000-->00:00:02.500",
        "00:00:01:000 --> 00:00:02:500",
        "00:00:01,000 \u2192 00:00:02,500",
        "0:0:1,000 => 0:0:2,500",
        "00:01,000 - 00:02,500",
    ],
)
def test_timing_lines_as_they_are_found_are_read(timing: str) -> None:
    assert parse_srt(f"1\n{timing}\nHello\n".encode()) == (Cue(1.0, 2.5, "Hello"),)


@pytest.mark.parametrize(
    "timing", ["00:00:xx --> 00:00:02,500", "--> 00:00:02,500", "00:00:01,000 -->", "-00:00:01,0 --> 00:00:02,5"]
)
def test_a_timing_line_that_cannot_be_read_is_counted_and_takes_its_text_along(timing: str) -> None:
    text = f"1\n00:00:01,000 --> 00:00:02,000\nfirst\n\n2\n{timing}\nlost\n\n3\n00:00:05,000 --> 00:00:06,000\nthird\n"
    found = parse_subtitles(text.encode())
    assert [cue.text for cue in found.cues] == ["first", "third"]
    assert (found.unreadable, found.fault) == (1, "")


VTT = """WEBVTT - a title

STYLE
::cue(b) { color: red }

NOTE 00:00:01.000 is early

intro
00:01.000 --> 00:02.500 align:start position:10%
<v Ann><c.loud>Hello</c> &lt;there&gt;</v>

NOTE nobody
sees this

01:00:00.000 --> 01:00:01.000
a<00:59:59.500>b
"""
ASS = r"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,hidden
Dialogue: 0,0:00:04.00,0:00:05.00,Default,,0,0,0,,{\an8}{\k20}two,\Nlines
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,first < second
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\p1}m 0 0 l 10 10{\p0}
"""


def test_webvtt_and_substation_are_known_by_what_they_hold() -> None:
    assert parse_srt(VTT.encode()) == (Cue(1.0, 2.5, "Hello <there>"), Cue(3600.0, 3601.0, "ab"))
    assert parse_srt(ASS.encode()) == (Cue(1.0, 2.5, "first < second"), Cue(4.0, 5.0, "two, lines"))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"just a letter", "no cue"),
        (b"1\n00:00:02,000 --> 00:00:01,000\nbackwards\n", "no cue"),
        (b"{25}{50}Hello\n", "MicroDVD"),
        (b"[Script Info]\n[Events]\n", "no cue"),
        ("1\n00:00:01,000 --> 00:00:02,000\n等一下\n".encode("gb18030"), "video.subtitle_encoding"),
    ],
)
def test_a_file_without_a_cue_says_why(data: bytes, fault: str) -> None:
    found = parse_subtitles(data)
    assert found.cues == () and fault in found.fault


def test_a_file_that_is_not_there_is_a_fault_too(tmp_path: Path) -> None:
    assert "cannot be opened" in read_subtitles(tmp_path / "none.srt").fault


@given(st.text(alphabet="[]{}<>-:,.0123456789\nScriptEvnsDialogueV4+ Styf\\", max_size=200))
def test_no_substation_script_makes_it_fail(text: str) -> None:
    found = parse_subtitles(f"[Script Info]\n[Events]\nFormat: Start, End, Text\nDialogue: {text}".encode())
    assert bool(found.fault) == (not found.cues)
