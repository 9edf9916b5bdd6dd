"""SubRip as it should be and as it is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videor2_rl.video.subtitles import Cue, active_text, parse_srt

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
