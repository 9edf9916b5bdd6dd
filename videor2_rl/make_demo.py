"""Write the demo's clips, dataset files and tiny checkpoint.

    python -m videor2_rl.make_demo --output outputs/demo_data

leaves in the output folder

    clips/<split>/00000.mp4 ...   H.264; some with an .srt beside them, one with a variable frame rate
    base.json, sft.json, grpo.json, heldout.json, validation.json
    model/                        a randomly initialised Qwen2.5-VL (--family: or Qwen3-VL), tokenizer and processor
    manifest.json                 what made them; a second call with the same arguments returns at once
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.demo.events import KINDS, Faults
from videor2_rl.demo.splits import Split, make_rows, write_clip
from videor2_rl.model.family import FamilyName
from videor2_rl.run.storage import writing

_CLIPS_PER_TASK = 16


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    output: Path = arguments.output
    manifest = _manifest(arguments)
    if _is_complete(output, manifest):
        print(f"{output} is up to date")
        return 0
    if output.exists() and any(output.iterdir()) and not (output / "manifest.json").exists():
        print(f"--output {output} holds other files; name a new or empty folder", file=sys.stderr)
        return 2
    splits = _splits(arguments)
    try:
        make_demo(output, manifest, splits=splits, faults=_faults(arguments), num_workers=arguments.num_workers)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {output} is incomplete, and the same command makes it anew", file=sys.stderr)
        return 130
    print(f"{output}: {sum(split.num_clips for split in splits)} clips")
    return 0


def make_demo(
    output: Path, manifest: dict[str, Any], *, splits: tuple[Split, ...], faults: Faults, num_workers: int
) -> None:
    """Fill `output` anew; the manifest is marked complete at the very end."""
    seed, family = manifest["arguments"]["seed"], manifest["arguments"]["family"]
    with writing("--output", output):
        output.mkdir(parents=True, exist_ok=True)
    with writing("--output", output):
        _write_json(output / "manifest.json", {**manifest, "is_complete": False})
    for folder in ("clips", "model"):
        shutil.rmtree(output / folder, ignore_errors=True)
    for split in splits:
        (output / "clips" / split.name).mkdir(parents=True)
        _write_json(output / f"{split.name}.json", make_rows(split, faults=faults, seed=seed))
    _write_clips_and_model(output, splits=splits, seed=seed, family=family, num_workers=num_workers)
    _write_json(output / "manifest.json", {**manifest, "is_complete": True})


def _write_clips_and_model(
    output: Path, *, splits: tuple[Split, ...], seed: int, family: FamilyName, num_workers: int
) -> None:
    """Clips in `num_workers` processes while this one makes the model: loading its libraries takes seconds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    tasks = [
        (split, range(start, min(start + _CLIPS_PER_TASK, split.num_clips)))
        for split in splits
        for start in range(0, split.num_clips, _CLIPS_PER_TASK)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_leave_interrupts_to_the_parent)
    with Progress(*columns) as progress, pool:
        bar = progress.add_task("clips", total=sum(len(indices) for _, indices in tasks))
        futures = [pool.submit(_write_clips, output, split, indices, seed) for split, indices in tasks]
        for future in futures:
            future.add_done_callback(partial(_advance, progress, bar))
        try:
            from transformers.utils.logging import disable_progress_bar

            from videor2_rl.demo.model import make_model

            # transformers would draw a bar of its own for a model of 4 MB.
            disable_progress_bar()
            make_model(output / "model", seed=seed, family=family)
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _advance(progress: Any, bar: Any, future: Any) -> None:
    if not future.cancelled() and future.exception() is None:
        progress.advance(bar, future.result())


def _write_clips(output: Path, split: Split, indices: range, seed: int) -> int:
    for index in indices:
        write_clip(output, split, index, seed=seed)
    return len(indices)


def _write_json(path: Path, value: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    part.rename(path)


def _is_complete(output: Path, manifest: dict[str, Any]) -> bool:
    path = output / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        # Not ours, or damaged: made anew.
        return False
    return bool(found == {**manifest, "is_complete": True})


def _manifest(arguments: argparse.Namespace) -> dict[str, Any]:
    """All that the output depends on: the arguments and the code that writes it."""
    code = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "demo").glob("*.py")):
        code.update(path.read_bytes())
    free = ("output", "num_workers")
    return {
        "arguments": {key: value for key, value in sorted(vars(arguments).items()) if key not in free},
        "code_sha256": code.hexdigest(),
    }


def _splits(arguments: argparse.Namespace) -> tuple[Split, ...]:
    kinds = tuple(arguments.kinds)
    return (
        Split("base", arguments.base_clips, arguments.questions_per_clip, kinds),
        Split("sft", arguments.sft_clips, arguments.questions_per_clip, kinds),
        Split("grpo", arguments.grpo_clips, arguments.grpo_questions_per_clip, kinds),
        Split("heldout", arguments.heldout_clips, 1, kinds),
        Split("validation", arguments.validation_clips, 1, kinds),
    )


def _faults(arguments: argparse.Namespace) -> Faults:
    return Faults(
        late=arguments.late,
        late_by_s=arguments.late_by_s,
        disagree=arguments.disagree,
        both_wrong=arguments.both_wrong,
        systematic=arguments.systematic,
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m videor2_rl.make_demo", description="Write the demo's clips, dataset files and model."
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/demo_data"), help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=_natural, default=0, help="of clips, questions, faults and weights")
    parser.add_argument(
        "--family", choices=get_args(FamilyName), default="qwen2_5_vl", help="of the model (default: %(default)s)"
    )
    parser.add_argument("--num-workers", type=_count, default=2, help="encoding processes (default: %(default)s)")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--base-clips", type=_count, default=800, help="(default: %(default)s)")
    sizes.add_argument("--sft-clips", type=_count, default=320, help="(default: %(default)s)")
    sizes.add_argument("--grpo-clips", type=_count, default=240, help="(default: %(default)s)")
    sizes.add_argument("--heldout-clips", type=_count, default=256, help="(default: %(default)s)")
    sizes.add_argument("--validation-clips", type=_count, default=64, help="(default: %(default)s)")
    sizes.add_argument("--questions-per-clip", type=_count, default=3, help="of base and sft (default: %(default)s)")
    sizes.add_argument("--grpo-questions-per-clip", type=_count, default=2, help="(default: %(default)s)")
    sizes.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=["first", "second", "last"], help="of questions, in turn"
    )
    faults = parser.add_argument_group("faults of the sft traces, probabilities from 0 to 1")
    faults.add_argument("--late", type=_share, default=0.6, help="a claim is late (default: %(default)s)")
    faults.add_argument("--late-by-s", type=_natural, default=2, help="seconds that it is late (default: %(default)s)")
    faults.add_argument(
        "--disagree", type=_share, default=0.35, help="reasoning and answer differ (default: %(default)s)"
    )
    faults.add_argument("--both-wrong", type=_share, default=0.15, help="both are wrong (default: %(default)s)")
    faults.add_argument(
        "--systematic", type=_share, default=0.25, help="a neighbouring event is meant (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    if arguments.disagree + arguments.both_wrong > 1:
        parser.error("--disagree and --both-wrong exclude each other, so they must not add up to more than 1")
    if max(arguments.questions_per_clip, arguments.grpo_questions_per_clip) > len(arguments.kinds):
        parser.error("a clip has at most one question of each of --kinds; ask for fewer per clip or name more kinds")
    return arguments


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not 0 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
