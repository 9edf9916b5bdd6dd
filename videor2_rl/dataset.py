"""Rows of dataset files as samples, and the order in which a run goes through them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewards.types import Context, Target
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import DataConfig
from videor2_rl.layouts.files import read_rows
from videor2_rl.layouts.reading import read_row
from videor2_rl.layouts.row import Row, RowError
from videor2_rl.types import VideoSample

_SUBTITLES = (".srt", ".vtt", ".ass", ".ssa")
"""Subtitle files' suffixes, in the order in which they are looked for."""
_OPTION = re.compile(r"(?:(?<=\s)|^)\(?([A-Z])[.):]\s+")


def load_samples(file: str, *, data: DataConfig) -> list[VideoSample]:
    """All rows of a JSON, JSON-lines or Parquet file, each in any layout of `layouts.reading`.

    Whether the clips exist and can be read is found out when they are decoded; a missing one costs its sample only.

    Raises:
        ConfigError: the file or a row is malformed; the message names the file, the row, the key and the mend.
    """
    path = Path(file)
    samples = []
    rows_by_id: dict[str, int] = {}
    for number, row in enumerate(read_rows(path)):
        try:
            sample = _sample(read_row(row), f"{path.stem}-{number}", data=data)
        except RowError as error:
            raise ConfigError(f"{path}: row {number}: {error}") from None
        if sample.sample_id in rows_by_id:
            raise ConfigError(
                f"{path}: row {number}: id {sample.sample_id!r} is also that of row {rows_by_id[sample.sample_id]}; "
                "give every row an id of its own, or none"
            )
        rows_by_id[sample.sample_id] = number
        samples.append(sample)
    if not samples:
        raise ConfigError(f"{path}: the file has no rows; name one that has")
    return samples


class SampleOrder:
    """Which sample each prompt of a run is of: a pure function of seed and number, so a run resumes from the number."""

    def __init__(self, num_samples: int, *, seed: int, shuffle: bool) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}, expected at least 1")
        self._num_samples = num_samples
        self._seed = seed
        self._shuffle = shuffle
        # What is on its way touches one epoch, or two at their border.
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def sample(self, number: int) -> int:
        """Index of the sample of prompt `number` (from 0).

        Epochs follow each other without a gap, each in an order of its own.
        """
        return int(self._epoch(number // self._num_samples)[number % self._num_samples])

    def of(self, samples: Sequence[VideoSample]) -> Callable[[int], VideoSample]:
        """The samples by the numbers of prompts."""
        return lambda number: samples[self.sample(number)]

    def batch(self, step: int, size: int) -> list[int]:
        """Indices of the `size` samples of step `step` (from 0), all steps being of this size; may span two epochs."""
        return [self.sample(number) for number in range(step * size, (step + 1) * size)]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(self._num_samples)
        return np.random.default_rng((self._seed, epoch)).permutation(self._num_samples)


def parse_options(question: str) -> tuple[str, ...]:
    """Texts of the options `A. ...`, `B) ...`, `(C) ...` that a question ends with, on one line or on several.

    Only a run of letters from A on counts, at least A and B; the last such run, so that an `A.` in the question itself
    does not. Empty where there is none.
    """
    marks = list(_OPTION.finditer(question))
    best: list[re.Match[str]] = []
    for i, mark in enumerate(marks):
        if mark[1] != "A":
            continue
        run = [mark]
        for later in marks[i + 1 :]:
            if later[1] == chr(ord("A") + len(run)):
                run.append(later)
        if len(run) >= 2:
            best = run
    if not best:
        return ()
    ends = [mark.start() for mark in best[1:]] + [len(question)]
    texts = [question[mark.end() : end].strip() for mark, end in zip(best, ends, strict=True)]
    # An option ends with its line at the latest: an instruction may follow the last one.
    return tuple(text.splitlines()[0].strip() if text else "" for text in texts)


def _sample(row: Row, default_id: str, *, data: DataConfig) -> VideoSample:
    given = parse_options(row.question) if row.options is None else tuple(map(_without_letter, row.options))
    subtitles, is_beside = _subtitles(row.video, data)
    return VideoSample(
        sample_id=default_id if row.id is None else row.id,
        video=str((Path(data.media_dir) / row.video).absolute()),
        question=row.question,
        solution=row.solution,
        temporal_grounding=row.temporal_grounding,
        problem_type=row.problem_type,
        options=given,
        subtitles=subtitles,
        subtitles_beside=is_beside,
        clip_start_s=row.video_start_s,
        clip_end_s=row.video_end_s,
        system_prompt=row.system_prompt,
        extra=row.extra,
    )


def _without_letter(option: str) -> str:
    return re.sub(r"^\(?[A-Z][.):]\s+", "", option.strip())


def _subtitles(video: str, data: DataConfig) -> tuple[str | None, bool]:
    """The clip's subtitles: of the same relative path in the subtitles folder, else beside the clip; and whether it is
    the latter."""
    for folder, is_beside in ((data.subtitles_dir, False), (data.media_dir, True)):
        for suffix in _SUBTITLES if folder is not None else ():
            path = (Path(folder or "") / video).with_suffix(suffix).absolute()
            if path.is_file():
                return str(path), is_beside
    return None, False


def target_of(sample: VideoSample) -> Target:
    """What `rewards/` may know of a sample."""
    return Target(
        question=sample.question,
        solution=sample.solution,
        options=sample.options,
        problem_type=sample.problem_type,
        temporal_grounding=sample.temporal_grounding,
    )


def context_of(sample: VideoSample, *, step: int | None = None, group_id: int | None = None) -> Context:
    """What a term of one's own may know beyond the target."""
    return Context(sample.sample_id, sample.extra, step=step, group_id=group_id)
