"""Scores of stored responses under any reward configuration, without a model: no Ray, and no torch unless sentences
have to be encoded.

    python -m videor2_rl.score responses.jsonl scores.jsonl reward=video_r2_official
    python -m videor2_rl.score outputs/demo/grpo scores.jsonl reward.temporal_alignment.buffer_seconds=1

The second line asks what a run's own reward would have paid for its rollouts with another buffer.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

from videor2_rl.app import user_errors
from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import ScoreRun

if TYPE_CHECKING:
    from videor2_rl.scoring.rows import BadRow, ScoreRow

BATCH_ROWS = 512
"""Rows scored together: their sentences go through the encoder in one call."""
_MAX_MESSAGES = 20

_ROWS = """\
A row is one JSON object on one line of a .jsonl file, or an entry of the list in a .json file:
  id                  text or whole number
  response            what the model wrote
  solution            the reference answer, bare or inside <answer></answer>
and, where there is more to say:
  question            text
  options             ["red", "blue"], ["A. red", "B. blue"] or "A. red B. blue"
  problem_type        the kind of answer: multiple choice, numerical, free form, ...
  temporal_grounding  {"00:05": "A door opens."}; without it temporal alignment abstains
  claims              {"00:05": "The door opens."}, already extracted from the response
  similarity          {claim sentence: {reference sentence: cosine}}; pairs left out are encoded
  judge               {"claims": text, "consistency": text}, a judge's raw replies; null: its call failed
Other fields are the row's own columns, for terms of your own. A row of a training file (conversations in place of
question and solution) needs a response beside it.

What the reward has a judge read and a row does not carry is asked of judge=openai judge.base_url=ADDRESS
judge.model=NAME; with judge=rules (default) nobody is asked, and the term fails (video_r2_official: pays 0).

A result is one JSON object on one line: id, reward (null where a paying term failed) and terms.<name> with verdict,
value and what led to it. A run's folder or one of its rollouts/step_*.jsonl may stand in place of the rows: then the
run's own reward is the base, and what you override is all that changes; reward=NAME begins from that preset instead.

Rewards: reward=video_r2 (default), reward=video_r2_official (what the paper's code pays), reward=no_gate,
reward=no_tar, or a file DIR/reward/NAME.yaml of your own with --config-dir DIR. Every value of conf/reward/ can be
overridden: reward.temporal_alignment.buffer_seconds=1
"""


def score_files(files: Sequence[Path], output: Path, run: ScoreRun) -> list[str]:
    """Score every row of `files` into `output`, in order; returns what is wrong with the rows that could not be scored.

    Results are written as they come, to `<output>.part`, which becomes `output` at the end; an interrupt leaves it.
    """
    from videor2_rl.judge.access import connected_judge
    from videor2_rl.run.files import json_line
    from videor2_rl.run.storage import writing
    from videor2_rl.run.tracking import ProgressBar
    from videor2_rl.scoring.batch import result_record, score_rows
    from videor2_rl.scoring.rows import BadRow, ScoreRow, count_rows
    from videor2_rl.scoring.similarity import SentenceEncoder
    from videor2_rl.scoring.summary import Summary

    encoder, summary = SentenceEncoder(), Summary()
    faults: list[str] = []
    part = output.with_name(f"{output.name}.part")
    with writing("OUT", output):
        output.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    with (
        _rare_garbage_collection(),
        connected_judge(run.judge) as judge,
        part.open("wb", buffering=0) as file,
        ProgressBar("scored", sum(count_rows(path) for path in files)) as progress,
    ):
        for batch, num_parts in _batches(files):
            rows = [row for row in batch if isinstance(row, ScoreRow)]
            results = iter(score_rows(rows, run.reward, encoder, judge=judge))
            lines: list[bytes] = []
            for row in batch:
                result = next(results) if isinstance(row, ScoreRow) else row
                if isinstance(result, BadRow):
                    faults.append(result.message)
                    continue
                lines.append(json_line(result_record(result)))
                summary.add(result)
            with writing("OUT", output):
                _write(file, b"".join(lines))
            progress.advance(num_parts)
    with writing("OUT", output):
        os.replace(part, output)
    for line in summary.lines():
        print(line)
    return faults


def _write(file: RawIOBase, data: bytes) -> None:
    """All of it: without a buffer, which would be written once more when the file is closed, disk full or not."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Look for cycles every 50,000 new objects instead of every 700: rows make many objects and no cycles."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _batches(files: Sequence[Path]) -> Iterator[tuple[list[ScoreRow | BadRow], int]]:
    """Rows of some lines, at least BATCH_ROWS where there are as many, and how many lines (see `count_rows`)."""
    from videor2_rl.scoring.rows import read_rows

    batch: list[ScoreRow | BadRow] = []
    num_parts = 0
    for path in files:
        for rows in read_rows(path):
            batch += rows
            num_parts += 1
            if len(batch) >= BATCH_ROWS:
                yield batch, num_parts
                batch, num_parts = [], 0
    yield batch, num_parts


def main() -> None:
    """The command line."""
    parser = Parser(
        prog="python -m videor2_rl.score",
        usage="%(prog)s [--config-dir DIR] IN OUT [KEY=VALUE ...]",
        description="Score stored responses under a reward configuration, without a model.",
        epilog=_ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", type=Path, help="rows (.jsonl, .json), a rollout log or a run's folder")
    parser.add_argument("output", metavar="OUT", type=Path, help="results (.jsonl), replaced if it is there")
    # With a default the list may be empty: argparse would otherwise ask for it beside a missing OUT.
    overrides_help = "reward=NAME, reward.KEY=VALUE, judge=openai"
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help=overrides_help)
    parser.add_argument("--config-dir", "-cd", metavar="DIR", type=Path, help="folder with a reward/ of your own")
    arguments = parser.parse_mixed(None)
    with user_errors():
        from videor2_rl.scoring.presets import score_run
        from videor2_rl.scoring.rows import input_files, run_of

        files = input_files(arguments.input)
        if arguments.output.is_dir():
            raise ConfigError(f"OUT: {arguments.output} is a folder; give a file for the results")
        run_dir = run_of(arguments.input)
        run = score_run(arguments.overrides, config_dir=arguments.config_dir, run_dir=run_dir)
        if run_dir is not None or arguments.input.is_dir():
            print(_base(run_dir, arguments.overrides), file=sys.stderr)
        if arguments.output.resolve() in [file.resolve() for file in files]:
            raise ConfigError(f"{arguments.output} is the input too; give another file for the results")
        faults = score_files(files, arguments.output, run)
        if faults:
            raise ConfigError(_describe(faults))


def _base(run_dir: Path | None, overrides: Sequence[str]) -> str:
    """From which reward the scoring of a run's rollouts begins, and what changes it."""
    from videor2_rl.scoring.presets import chooses_reward

    presets = [override for override in overrides if chooses_reward([override])]
    changes = [override for override in overrides if not chooses_reward([override])]
    if presets:
        base = presets[-1]
    elif run_dir is not None:
        base = f"the reward of {run_dir / 'config.yaml'}"
    else:
        base = "reward=video_r2, since no config.yaml stands beside the log"
    return f"scored from {base}" + (f", changed by {' '.join(changes)}" if changes else "")


def _describe(faults: Sequence[str]) -> str:
    shown = "\n".join(faults[:_MAX_MESSAGES])
    more = len(faults) - _MAX_MESSAGES
    return f"{len(faults)} rows could not be scored, all others are written:\n{shown}" + (
        f"\nand {more} more" if more > 0 else ""
    )


if __name__ == "__main__":
    main()
