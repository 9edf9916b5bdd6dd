"""A run's data, looked at before anything starts: what ends it is one sentence, what does not is a line.

Looks at folders, at whether the clips are there, at time keys and at subtitles; decodes nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rewards.text.times import parse_time_key
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun
from videor2_rl.config.sections import DataConfig, VideoConfig
from videor2_rl.dataset import load_samples
from videor2_rl.types import VideoSample
from videor2_rl.video.decode import duration_s
from videor2_rl.video.errors import VideoError
from videor2_rl.video.load import drawn_subtitles
from videor2_rl.video.subtitle_check import check_drawing, look_at_subtitles

logger = logging.getLogger(__name__)

CLIPS_MEASURED = 256
"""A run asks so many files for their length before it starts, spread over its rows."""
_SLACK_S = 1.0
"""Keys are whole seconds, and the last frame is shown for a while: one this far behind the clip's end is in it."""


class KeyFault(NamedTuple):
    """One time key that says nothing."""

    sample_id: str
    key: str
    clip_s: float | None = None
    """How long the clip is; None where that is not the fault."""


def check_folders(data: DataConfig) -> None:
    """The folders of clips and subtitles are there.

    Raises:
        ConfigError: names the one that is not.
    """
    if not Path(data.media_dir).is_dir():
        raise ConfigError(
            f"data.media_dir: there is no folder {data.media_dir}; give the folder that the rows' clips are relative to"
        )
    if data.subtitles_dir is not None and not Path(data.subtitles_dir).is_dir():
        raise ConfigError(
            f"data.subtitles_dir: there is no folder {data.subtitles_dir}; give the folder of subtitle files, or null "
            "to look for them beside the clips"
        )


def check_rows(samples: Sequence[VideoSample], file: str, *, run: GrpoRun | SftRun | EvaluateRun) -> None:
    """Enough clips are there and enough rows have time keys that can be read; what else is worth saying is logged.

    Raises:
        ConfigError: more than `data.max_skipped_frac` of the rows cannot be used, or subtitles not be drawn.
    """
    data = run.data
    check_drawing(run.video)
    counted, files = list(samples), file
    if isinstance(run, SftRun) and data.validation_file is not None:
        # They share the run's limit.
        counted += load_samples(data.validation_file, data=data)[: run.sft.validation_samples]
        files = f"{file} and {data.validation_file}"
    check_clips(counted, files, data=data)
    if not isinstance(run, SftRun):
        check_time_keys(samples, file, data=data)
        log_faults(file, outside_of_files(samples, limit=CLIPS_MEASURED), OUTSIDE)
    log_faults(file, unreadable_keys(samples), UNREADABLE)
    if run.video.subtitles:
        found, clips = count_subtitles(samples, run.video)
        level = logging.WARNING if found == 0 and data.subtitles_dir is not None else logging.INFO
        logger.log(level, "%s: %d of %d clips have subtitles", file, found, clips)
        # The paper's own reading says of each file what it draws when the clip is made.
        looked_at = samples if run.video.rule == "player" else ()
        subtitles = look_at_subtitles(looked_at, run.video, limit=CLIPS_MEASURED)
        for faults, text in (
            (subtitles.faults, subtitles.fault_text()),
            (subtitles.unreadable, subtitles.unreadable_text()),
            (subtitles.boxes, subtitles.box_text()),
        ):
            if faults:
                logger.warning("%s: %s", file, text)


def check_clips(samples: Sequence[VideoSample], file: str, *, data: DataConfig) -> None:
    """Logs a few clips that are not there.

    Raises:
        ConfigError: they are more than `data.max_skipped_frac`.
    """
    missing = missing_clips(samples)
    if not missing:
        return
    found = f"{len(missing)} of {len(samples)} samples name a clip that is not there"
    first = f"first: row {missing[0].sample_id}, {missing[0].video}"
    if len(samples) - len(missing) < least_usable(len(samples), data):
        raise ConfigError(
            f"{file}: {found}, more than data.max_skipped_frac={data.max_skipped_frac}; {first}; check "
            f"data.media_dir={data.media_dir}, fetch the clips, or raise the limit"
        )
    logger.warning("%s: %s and will be skipped; %s", file, found, first)


def missing_clips(samples: Sequence[VideoSample]) -> list[VideoSample]:
    """Samples whose clip is no file."""
    is_there = {video: Path(video).is_file() for video in {sample.video for sample in samples}}
    return [sample for sample in samples if not is_there[sample.video]]


def least_usable(num_samples: int, data: DataConfig) -> int:
    """How many of so many samples a run must be able to use."""
    return num_samples - math.floor(data.max_skipped_frac * num_samples)


def check_time_keys(samples: Sequence[VideoSample], file: str, *, data: DataConfig) -> None:
    """Rows with a `temporal_grounding` have at least one key that can be read.

    Temporal alignment abstains on one that has none, as on a row without a grounding; a file of them is a mistake.

    Raises:
        ConfigError: more than `data.max_skipped_frac` of them have none.
    """
    grounded = [sample for sample in samples if sample.temporal_grounding]
    blind = [sample for sample in grounded if not _readable(sample)]
    if len(grounded) - len(blind) < least_usable(len(grounded), data):
        key = next(iter(blind[0].temporal_grounding or ()))
        raise ConfigError(
            f"{file}: {len(blind)} of {len(grounded)} rows with a temporal_grounding have no key that can be read as a "
            f"time, more than data.max_skipped_frac={data.max_skipped_frac}; first: row {blind[0].sample_id}, key "
            f"{key!r}; write MM:SS, HH:MM:SS, seconds or a range of them (docs/data.md), or leave the column out"
        )


def unreadable_keys(samples: Sequence[VideoSample]) -> list[KeyFault]:
    """Keys that cannot be read as a time or a range of times."""
    return [
        KeyFault(sample.sample_id, key)
        for sample in samples
        for key in sample.temporal_grounding or ()
        if parse_time_key(key) is None
    ]


def outside_keys(sample: VideoSample, *, end_s: float) -> list[KeyFault]:
    """Keys before the clip's begin or behind its end at `end_s`, in seconds of the file."""
    start_s = sample.clip_start_s or 0.0
    return [
        KeyFault(sample.sample_id, key, end_s - start_s)
        for key, (first, last) in _readable(sample)
        if first < start_s - _SLACK_S or last > end_s + _SLACK_S
    ]


def outside_of_files(samples: Sequence[VideoSample], *, limit: int) -> list[KeyFault]:
    """`outside_keys` of at most `limit` rows, by the lengths in the files' headers; a bad file is passed over."""
    grounded = [sample for sample in samples if _readable(sample)]
    faults = []
    for sample in grounded[:: max(1, math.ceil(len(grounded) / limit))]:
        try:
            length_s = duration_s(sample.video)
        except VideoError:
            continue
        end_s = length_s if sample.clip_end_s is None else min(length_s, sample.clip_end_s)
        faults += outside_keys(sample, end_s=end_s)
    return faults


UNREADABLE = ("cannot be read", "cannot be read")
OUTSIDE = ("lies outside its clip", "lie outside their clip")
"""Of one key and of several."""


def fault_text(faults: Sequence[KeyFault], what: tuple[str, str]) -> str:
    """How many keys in how many rows, and the first of them."""
    if not faults:
        return f"0 time keys {what[1]}"
    first = faults[0]
    clip = "" if first.clip_s is None else f" of a clip of {first.clip_s:.1f} s"
    rows = len({fault.sample_id for fault in faults})
    keys = f"{len(faults)} time key{'s' if len(faults) > 1 else ''} in {rows} row{'s' if rows > 1 else ''}"
    return f"{keys} {what[len(faults) > 1]}, first: row {first.sample_id}, key {first.key!r}{clip}"


def log_faults(file: str, faults: Sequence[KeyFault], what: tuple[str, str]) -> None:
    """A warning, where there are any."""
    if faults:
        logger.warning("%s: %s", file, fault_text(faults, what))


def count_subtitles(samples: Sequence[VideoSample], video: VideoConfig) -> tuple[int, int]:
    """Clips that have subtitles to be drawn, and clips."""
    has = {sample.video: drawn_subtitles(sample, video) is not None for sample in samples}
    return sum(has.values()), len(has)


def _readable(sample: VideoSample) -> list[tuple[str, tuple[float, float]]]:
    return list(_read(sample))


def _read(sample: VideoSample) -> Iterator[tuple[str, tuple[float, float]]]:
    for key in sample.temporal_grounding or ():
        interval = parse_time_key(key)
        if interval is not None:
            yield key, interval
