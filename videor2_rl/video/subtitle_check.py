"""What subtitle files hold that cannot be read or drawn, before a run starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import VideoConfig
from videor2_rl.types import VideoSample
from videor2_rl.video.fonts import check_font, without_shape
from videor2_rl.video.subtitles import read_subtitles


@dataclass(frozen=True)
class SubtitleCheck:
    """What was found in the files looked at."""

    files: int
    faults: tuple[tuple[str, str], ...]
    """Files without a cue, and why."""
    unreadable: tuple[tuple[str, int], ...]
    """Files with cues, and how many timing lines in them cannot be read."""
    boxes: tuple[tuple[str, str], ...]
    """Files, and the characters in them that no font here has."""

    def fault_text(self) -> str:
        """How many files have no cue, and the first."""
        text = f"{len(self.faults)} of {self.files} subtitle files looked at have no cue that can be read"
        return f"{text}, first: {self.faults[0][0]}: {self.faults[0][1]}" if self.faults else text

    def unreadable_text(self) -> str:
        """How many timing lines cannot be read, and where the first are."""
        count = sum(number for _, number in self.unreadable)
        first = f", first: {self.unreadable[0][0]}" if self.unreadable else ""
        return f"{count} timing lines in {len(self.unreadable)} subtitle files cannot be read{first}"

    def box_text(self) -> str:
        """How many characters no font has, and the first."""
        characters = {character for _, lacking in self.boxes for character in lacking}
        text = f"{len(characters)} characters in {len(self.boxes)} subtitle files have no shape in any font here"
        if not self.boxes:
            return text
        file, lacking = self.boxes[0]
        return f"{text}, first: {lacking[0]} in {file}; name a font that has them with video.font=FILE"


def check_drawing(video: VideoConfig) -> None:
    """Font and encoding of subtitles can be used.

    Raises:
        ConfigError: names the one that cannot.
    """
    check_font(video.font)
    if video.subtitle_encoding is not None:
        try:
            b" ".decode(video.subtitle_encoding, errors="replace")
        except LookupError:
            raise ConfigError(
                f"video.subtitle_encoding: {video.subtitle_encoding!r} is no encoding that Python knows; write e.g. "
                "gb18030, big5, shift_jis, cp949 or cp1251, or null to find out for each file"
            ) from None


def look_at_subtitles(samples: Sequence[VideoSample], video: VideoConfig, *, limit: int) -> SubtitleCheck:
    """What at most `limit` subtitle files hold, spread over the samples."""
    files = sorted({sample.subtitles for sample in samples if sample.subtitles is not None})
    chosen = files[:: max(1, math.ceil(len(files) / limit))]
    faults, unreadable, boxes = [], [], []
    for file in chosen:
        found = read_subtitles(file, encoding=video.subtitle_encoding)
        if found.fault:
            faults.append((file, found.fault))
        elif found.unreadable:
            unreadable.append((file, found.unreadable))
        lacking = without_shape("".join(sorted({letter for cue in found.cues for letter in cue.text})), video.font)
        if lacking:
            boxes.append((file, "".join(sorted(lacking))))
    return SubtitleCheck(len(chosen), tuple(faults), tuple(unreadable), tuple(boxes))
