"""What the benchmarks share: reading published annotations, and a question in one form."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rewards.text.choices import read_choice
from videor2_rl.config.errors import ConfigError
from videor2_rl.run.files import read_json, read_jsonl
from videor2_rl.types import VideoSample

Row: TypeAlias = Mapping[str, Any]
LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Question:
    """One published row, read."""

    row_id: str
    """Unique in its benchmark."""
    videos: tuple[str, ...]
    """Where the clip may lie, relative to the benchmark's folder; the first that exists is taken."""
    text: str
    """Without its options."""
    options: tuple[str, ...]
    """Texts of options A, B, ...; empty: an open question."""
    truth: str
    """The right letter, number or text."""
    kind: Literal["choice", "number", "open"]
    subtitles: str | None = None
    """Where the clip's `.srt` may lie, relative to the benchmark's folder."""
    bounds_s: tuple[float, float] | None = None
    """Only this part of the clip is shown."""
    cut_videos: tuple[str, ...] = ()
    """Those of `videos` that hold nothing but that part, so that the bounds do not apply to them."""


@dataclass(frozen=True)
class Benchmark:
    """One published benchmark in a local folder."""

    name: str
    """As in `evaluation.benchmark`, and in the names of lmms-eval's files."""
    title: str
    source: str
    """Where it is published."""
    layout: str
    """What has to lie in the folder, for messages."""
    annotations: tuple[str, ...]
    """Patterns of annotation files, relative to the folder; those of the first pattern that matches are read."""
    question: Callable[[Row, Path], Question]
    """A row and the file that it comes from, relative to the folder -> what is asked."""
    score_key: str
    """lmms-eval's score dict in a row of predictions."""
    logged: Callable[[Row, str, str], dict[str, Any]]
    """Row, answer read ("" for none) and truth -> that dict."""
    doc: Callable[[Question], dict[str, Any]] = lambda question: {}
    """What a published row needs besides to be read as lmms-eval's `doc`, whose copy of the dataset has other names."""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, ready for the rollout workers."""

    doc: Row
    """The published row, with `id`."""
    question: Question
    sample: VideoSample


def load_items(benchmark: Benchmark, folder: Path, *, limit: int | None = None) -> list[Item]:
    """The first `limit` questions of a benchmark, in the order of its files.

    Raises:
        ConfigError: the folder or its annotations are missing, or a row is not in the published layout; one sentence
            that says what to fetch and where to put it.
    """
    files: list[Path] = next(
        (found for pattern in benchmark.annotations if (found := sorted(folder.glob(pattern)))), []
    )
    if not files:
        raise ConfigError(
            f"evaluation.benchmark_dir: {folder} holds no annotations of {benchmark.title}; fetch "
            f"{benchmark.source} and give the folder that has {benchmark.layout}"
        )
    items: list[Item] = []
    seen: set[str] = set()
    for file in files:
        for number, row in enumerate(read_rows(file)):
            if limit is not None and len(items) == limit:
                return items
            item = _item(benchmark, folder, file, number, row)
            if item.question.row_id in seen:
                raise ConfigError(
                    f"{file}, row {number}: id {item.question.row_id!r} comes twice; mend the annotations"
                )
            seen.add(item.question.row_id)
            items.append(item)
    return items


def _item(benchmark: Benchmark, folder: Path, file: Path, number: int, row: Row) -> Item:
    try:
        question = benchmark.question(row, file.relative_to(folder))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{file}, row {number}: is not in the layout of {benchmark.title} ({type(error).__name__}: {error}); fetch "
            f"{benchmark.source} again or mend the row"
        ) from None
    name = next((name for name in question.videos if (folder / name).exists()), question.videos[0])
    video = folder / name
    subtitles = None if question.subtitles is None else folder / question.subtitles
    start_s, end_s = (None, None) if name in question.cut_videos else question.bounds_s or (None, None)
    sample = VideoSample(
        sample_id=question.row_id,
        video=str(video.absolute()),
        question="\n".join([question.text, *lettered(question.options)]),
        solution=question.truth,
        problem_type={"choice": "multiple choice", "number": "number", "open": None}[question.kind],
        options=question.options,
        subtitles=str(subtitles.absolute()) if subtitles is not None and subtitles.exists() else None,
        clip_start_s=start_s,
        clip_end_s=end_s,
    )
    return Item(doc={**row, "id": question.row_id, **benchmark.doc(question)}, question=question, sample=sample)


def read_rows(file: Path) -> list[Row]:
    """The rows of a .json (a list), .jsonl or .parquet file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    if file.suffix == ".jsonl":
        return list(read_jsonl(file))
    if file.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            table = parquet.read_table(file)
        except (ArrowException, OSError) as error:
            raise ConfigError(f"{file}: is no readable parquet file ({error}); fetch it again") from None
        # Pictures beside a question are not shown; they would only fill the log.
        return list(table.drop_columns([name for name in table.column_names if "image" in name]).to_pylist())
    rows = read_json(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{file}: holds no list of objects; fetch it again")
    return rows


def with_subtitles(*, videos: str, subtitles: str) -> Callable[[Row, Path], Question]:
    """Reads rows as Video-MME publishes them: `question_id`, `videoID`, `question`, `options` with letters, `answer`.

    Args:
        videos: the folder of the clips, named by `videoID`.
        subtitles: the folder of their `.srt` files, relative to the benchmark's too.
    """

    def question(row: Row, file: Path) -> Question:
        options = without_letters(row["options"])
        return Question(
            row_id=str(row["question_id"]),
            videos=clip_files(f"{videos}/{row['videoID']}"),
            text=row["question"],
            options=options,
            truth=true_letter(row["answer"], options),
            kind="choice",
            subtitles=f"{subtitles}/{row['videoID']}.srt",
        )

    return question


def clip_files(stem: str, *others: str) -> tuple[str, ...]:
    """`stem` with the endings that clips are published with, and `others`."""
    return tuple(f"{stem}.{ending}" for ending in ("mp4", "MP4", "mkv", *others))


def mapped_options(options: Mapping[str, Any]) -> tuple[str, ...]:
    """`{"A": "red", "B": "green", "C": None}` -> `("red", "green")`."""
    return tuple(str(options[letter]) for letter in LETTERS if options.get(letter) is not None)


def lettered(options: Sequence[str]) -> list[str]:
    """`["red", "green"]` -> `["A. red", "B. green"]`."""
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """`["A. red", "(B) green"]` -> `("red", "green")`, where every option begins with its own letter."""
    stripped = []
    for letter, option in zip(LETTERS, options, strict=False):
        text = option.strip()
        mark = next((m for m in (f"({letter})", f"{letter}.", f"{letter})", f"{letter}:") if text.startswith(m)), None)
        if mark is None:
            return tuple(option.strip() for option in options)
        stripped.append(text[len(mark) :].strip())
    return tuple(stripped)


def true_letter(answer: str | int, options: Sequence[str]) -> str:
    """The letter of an answer given as an index from 0, a letter or an option's text.

    Raises:
        ValueError: it is none of the options.
    """
    if isinstance(answer, int):
        if not 0 <= answer < len(options):
            raise ValueError(f"answer {answer} is not the index of one of {len(options)} options")
        return LETTERS[answer]
    if answer in options:
        return LETTERS[list(options).index(answer)]
    letter = read_choice(answer, tuple(options))
    if letter is None:
        raise ValueError(f"answer {answer!r} is none of the options {list(options)}")
    return letter


def listed_doc(question: Question) -> dict[str, Any]:
    """Options as lines and the answer as a letter, as most of lmms-eval's copies have them."""
    return {"options": lettered(question.options), "answer": question.truth}


def logged_letters(row: Row, answer: str, truth: str) -> dict[str, Any]:
    """The usual score dict."""
    return {"pred_answer": answer, "answer": truth}
