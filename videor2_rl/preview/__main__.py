"""What the model will see of some rows, as one page.

    python -m videor2_rl.preview grpo page.html --rows 6 model.path=... data.train_file=... data.media_dir=...

Each sampled frame as it is drawn with its true time, the whole prompt, token counts, what is expected, and the
reference events beside the frames' times. Decodes these rows alone; loads no weights and starts no engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videor2_rl.app import compose_run, user_errors
from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import EvaluateRun, GrpoRun, SftRun

if TYPE_CHECKING:
    from videor2_rl.types import VideoSample


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(
        prog="python -m videor2_rl.preview",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("app", choices=("grpo", "sft", "evaluate"), help="whose configuration KEY=VALUE are of")
    parser.add_argument("output", metavar="OUT.html", type=Path, help="the page, replaced if it is there")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="as the app takes them")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rows", type=_count, default=4, help="so many, spread over the file (default: %(default)s)")
    which.add_argument("--ids", type=lambda text: text.split(","), help="these: ID,ID,...")
    arguments = parser.parse_mixed(argv)
    if "=" in str(arguments.output):
        parser.error(f"OUT.html comes before KEY=VALUE, found {arguments.output}")
    with user_errors():
        print(preview(arguments.app, arguments.output, arguments.overrides, count=arguments.rows, ids=arguments.ids))
    return 0


def preview(app: str, output: Path, overrides: Sequence[str], *, count: int, ids: Sequence[str] | None) -> str:
    """Write the page of `count` rows or of `ids`; returns a sentence about it.

    Raises:
        ConfigError: the configuration, the data or the checkpoint cannot be read, or an id is not in the file.
    """
    from videor2_rl.inputs import check_folders
    from videor2_rl.model.family import check_frames
    from videor2_rl.model.folder import check_checkpoint
    from videor2_rl.model.prompt import PromptBuilder
    from videor2_rl.preview.page import render
    from videor2_rl.preview.rows import chosen, shown_row
    from videor2_rl.run.files import write_text_atomic
    from videor2_rl.video.subtitle_check import check_drawing

    run = _run(app, list(overrides))
    if isinstance(run, EvaluateRun):
        run = replace(run, model=replace(run.model, path=next(iter(run.evaluation.folders.values()))))
    check_checkpoint(run.model.path, key="model.path")
    check_frames(run.model, run.video)
    check_drawing(run.video)
    if not isinstance(run, EvaluateRun) or run.evaluation.benchmark is None:
        check_folders(run.data)
    samples, file = _samples(run)
    limit = run.learner.max_tokens_per_micro_batch if isinstance(run, SftRun) else run.rollout.max_prompt_tokens
    builder = PromptBuilder(run.model)
    wanted = chosen(samples, count=count) if ids is None else _by_id(samples, ids, file)
    rows = [shown_row(sample, builder, run.video, max_prompt_tokens=limit) for sample in wanted]
    page = render(rows, app=app, file=file, num_rows=len(samples), model=run.model.path, video=run.video)
    write_text_atomic(output, page)
    skipped = sum(bool(row.problem) for row in rows)
    frames = sum(len(row.frames) for row in rows)
    return f"{output}: {len(rows)} of {len(samples)} rows, {frames} frames" + (
        f", {skipped} rows would be skipped" if skipped else ""
    )


def _run(app: str, overrides: list[str]) -> GrpoRun | SftRun | EvaluateRun:
    if app == "grpo":
        return compose_run("grpo", GrpoRun, overrides)
    return compose_run("sft", SftRun, overrides) if app == "sft" else compose_run("evaluate", EvaluateRun, overrides)


def _samples(run: GrpoRun | SftRun | EvaluateRun) -> tuple[Sequence[VideoSample], str]:
    """What the app would go through, and where it comes from."""
    from videor2_rl.dataset import load_samples
    from videor2_rl.evaluation.held_out import held_out

    if isinstance(run, EvaluateRun):
        return held_out(run).samples, run.data.validation_file or str(run.evaluation.benchmark_dir)
    if run.data.train_file is None:
        raise ConfigError("data.train_file is required; give it as data.train_file=FILE")
    return load_samples(run.data.train_file, data=run.data), run.data.train_file


def _by_id(samples: Sequence[VideoSample], ids: Sequence[str], file: str) -> list[VideoSample]:
    known = {sample.sample_id: sample for sample in samples}
    for name in ids:
        if name not in known:
            raise ConfigError(f"--ids: {file} has no row {name}; its first is {samples[0].sample_id}")
    return [known[name] for name in ids]


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
