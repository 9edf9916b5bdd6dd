"""Dataset files in the paper's JSON layout, and the order in which a run goes through them."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.types import Context, Target
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import DataConfig
from videor2_rl.types import VideoSample

_OPTION = re.compile(r"(?:(?<=\s)|^)\(?([A-Z])[.):]\s+")


class _RowError(Exception):
    """What is wrong with one row; `load_samples` adds the file and the row."""


def load_samples(file: str, *, data: DataConfig) -> list[VideoSample]:
    """All rows of a `.json` (a list) or `.jsonl` (one object a line) file.

    Whether the clips exist and can be read is found out when they are decoded; a missing one costs its sample only.

    Raises:
        ConfigError: the file or a row is malformed; the message names the file, the row, the key and the mend.
    """
    path = Path(file)
    samples = []
    rows_by_id: dict[str, int] = {}
    for number, row in enumerate(_read_rows(path)):
        try:
            sample = _sample(row, f"{path.stem}-{number}", data=data)
        except _RowError as error:
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
    """Which samples each step uses: a pure function of seed and step, so a run resumes from the step alone."""

    def __init__(self, num_samples: int, *, seed: int, shuffle: bool) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}, expected at least 1")
        self._num_samples = num_samples
        self._seed = seed
        self._shuffle = shuffle
        # A batch touches one epoch, or two at their border.
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def batch(self, step: int, size: int) -> list[int]:
        """Indices of the `size` samples of step `step` (from 0), all steps being of this size.

        Epochs follow each other without a gap, each in an order of its own; a batch may span two of them.
        """
        start = step * size
        return [int(self._epoch(i // self._num_samples)[i % self._num_samples]) for i in range(start, start + size)]

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


def _read_rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such dataset file; check data.train_file and data.validation_file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}); name a .json or .jsonl file") from None
    if path.suffix == ".jsonl":
        return [_parse(line, path, f"line {i}") for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows = _parse(text, path, "the file")
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: holds a JSON {_kind(rows)}, expected a list of rows; or name the file .jsonl")
    return rows


def _parse(text: str, path: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {where} is not valid JSON: {error}; mend it there") from None


def _sample(row: Any, default_id: str, *, data: DataConfig) -> VideoSample:
    if not isinstance(row, dict):
        raise _RowError(f"is a {_kind(row)}, expected an object with the keys video and conversations")
    video = _video(row)
    question, solution = _turns(row)
    start_s, end_s = _bounds(row)
    return VideoSample(
        sample_id=_id(row, default_id),
        video=str((Path(data.media_dir) / video).absolute()),
        question=question,
        solution=solution,
        temporal_grounding=_grounding(row),
        problem_type=_text(row, "problem_type"),
        options=_options(row, question),
        subtitles=_subtitles(video, data),
        clip_start_s=start_s,
        clip_end_s=end_s,
    )


def _id(row: dict[str, Any], default: str) -> str:
    value = row.get("id")
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _RowError(f"id is {value!r}, expected a text or a whole number; or leave it out")
    return str(value)


def _video(row: dict[str, Any]) -> str:
    value = row.get("video")
    if value is None and row.get("image") is not None:
        raise _RowError("has an image and no video; leave image rows out of the file")
    if isinstance(value, list):
        if len(value) != 1:
            raise _RowError(f"video lists {len(value)} clips, expected one; split the row or choose one")
        value = value[0]
    if not isinstance(value, str) or not value:
        raise _RowError(f"video is {value!r}, expected the clip's path relative to data.media_dir")
    return value


def _turns(row: dict[str, Any]) -> tuple[str, str]:
    """The question without its marker, and the expected answer."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2:
        found = f"{len(turns)} turns" if isinstance(turns, list) else repr(turns)
        raise _RowError(f"conversations is {found}, expected two turns: a human and a gpt one")
    texts = []
    for turn, speaker in zip(turns, ("human", "gpt"), strict=True):
        if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
            raise _RowError(f'conversations: expected {{"from": "{speaker}", "value": text}}, found {turn!r:.80}')
        texts.append(turn["value"])
    if texts[0].count("<video>") > 1:
        raise _RowError("conversations: the question has more than one <video> marker; keep one")
    if "<image>" in texts[0]:
        raise _RowError("conversations: the question has an <image> marker; only <video> is read")
    question = texts[0].replace("<video>", "").strip()
    if not question:
        raise _RowError("conversations: the question is empty; write one beside the <video> marker")
    if not texts[1].strip():
        raise _RowError("conversations: the answer is empty; write at least <answer>...</answer>")
    return question, texts[1].strip()


def question_and_solution(row: dict[str, Any]) -> tuple[str, str]:
    """The two turns of a row of a dataset file.

    Raises:
        ValueError: they are malformed; the message names the key and the mend.
    """
    try:
        return _turns(row)
    except _RowError as error:
        raise ValueError(str(error)) from None


def _grounding(row: dict[str, Any]) -> dict[str, str] | None:
    value = row.get("temporal_grounding")
    if value is None:
        return None
    is_map = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    if not is_map:
        raise _RowError(
            f"temporal_grounding is {value!r:.80}, expected a map from time keys to sentences; or leave it out"
        )
    return dict(value)


def _options(row: dict[str, Any], question: str) -> tuple[str, ...]:
    value = row.get("options")
    if value is None:
        return parse_options(question)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _RowError(f"options is {value!r:.80}, expected a list of texts; or leave it out")
    return tuple(re.sub(r"^\(?[A-Z][.):]\s+", "", text.strip()) for text in value)


def _bounds(row: dict[str, Any]) -> tuple[float | None, float | None]:
    start_s, end_s = _seconds(row, "video_start"), _seconds(row, "video_end")
    if end_s is not None and end_s <= (start_s or 0.0):
        raise _RowError(f"video_end is {end_s}, expected more than video_start ({start_s or 0.0}); both are seconds")
    return start_s, end_s


def _seconds(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise _RowError(f"{key} is {value!r}, expected seconds from the start of the file, 0 or more")
    return float(value)


def _text(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise _RowError(f"{key} is {value!r:.80}, expected a text; or leave it out")
    return value


def _subtitles(video: str, data: DataConfig) -> str | None:
    """The clip's `.srt`: the same relative path in the subtitles folder, or beside the clip."""
    folder = data.media_dir if data.subtitles_dir is None else data.subtitles_dir
    path = (Path(folder) / video).with_suffix(".srt").absolute()
    return str(path) if path.is_file() else None


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "object", list: "list", str: "string", type(None): "null", bool: "boolean"}
    return kinds.get(type(value), "number")


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
