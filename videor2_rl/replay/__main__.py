"""A logged step computed again, on a laptop: does it come out as it was logged, and what would have changed?

    python -m videor2_rl.replay RUN --step 20                            # names the first value that differs
    python -m videor2_rl.replay RUN --step 20 reward=no_gate             # what would this reward have taught?
    python -m videor2_rl.replay RUN --step 20 algorithm=dr_grpo reward.temporal_alignment.buffer_seconds=2
    python -m videor2_rl.replay RUN --step 21 --loss                     # the loss too, from the checkpoint before it

Verdicts, rewards and advantages come from the log alone; a judge's answers are those that were logged. --loss needs the
model, the clips and the checkpoint of the step before (of step 1: none), and makes the step's update again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videor2_rl.app import quiet_logging, user_errors
from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from videor2_rl.config.runs import GrpoRun
    from videor2_rl.replay.recompute import ReplayedGroup

_ALLOWED = ("reward", "algorithm")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit code 1 where something differs from the log."""
    parser = Parser(
        prog="python -m videor2_rl.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a GRPO run's folder")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="reward=..., algorithm=...")
    parser.add_argument("--step", type=int, required=True, help="which step")
    parser.add_argument("--loss", action="store_true", help="make the step's update again, and compare its loss")
    parser.add_argument("--rows", type=int, default=20, help="of the table (default: %(default)s)")
    arguments = parser.parse_mixed(argv)
    quiet_logging()
    with user_errors():
        differs = replay(
            arguments.run, arguments.overrides, step=arguments.step, with_loss=arguments.loss, rows=arguments.rows
        )
        sys.exit(int(differs))


def replay(run_dir: Path, overrides: Sequence[str], *, step: int, with_loss: bool, rows: int) -> bool:
    """Print what comes of a step now; returns whether something differs from the log though nothing was overridden.

    Raises:
        ConfigError: the run has no such step, or an override is none of reward's or algorithm's.
    """
    from rich.console import Console

    from videor2_rl.config.composing import Composer
    from videor2_rl.config.from_file import run_from_file
    from videor2_rl.config.runs import GrpoRun
    from videor2_rl.replay.recompute import differences, replay_step, rollout_file
    from videor2_rl.replay.tables import changes, summary, table
    from videor2_rl.scoring.similarity import SentenceEncoder

    _check(overrides)
    file = rollout_file(run_dir, step)
    run = run_from_file(Composer("grpo"), GrpoRun, run_dir / "config.yaml", overrides)
    console = Console()
    groups = replay_step(file, run, SentenceEncoder())
    differs = False
    if overrides:
        found = changes(groups)
        if found:
            console.print(table(found, limit=rows))
        console.print(summary(groups, found), markup=False, highlight=False)
    else:
        differs = _compare(groups, [str(one) for one in differences(groups)], step=step)
    if with_loss:
        differs = _compare_loss(run_dir, run, groups, step=step, console=console, compares=not overrides) or differs
    return differs


def _check(overrides: Sequence[str]) -> None:
    for override in overrides:
        section = override.split("=")[0].lstrip("+~").split(".")[0]
        if section not in _ALLOWED:
            raise ConfigError(f"{override}: a step is replayed under another reward or algorithm; override these")


def _compare(groups: Sequence[ReplayedGroup], found: Sequence[str], *, step: int) -> bool:
    total = sum(len(group.record["responses"]) for group in groups)
    what = f"step {step}: {len(groups)} groups, {total} responses"
    if not found:
        print(f"{what}: verdicts, rewards and advantages are those of the log")
        return False
    print(f"{what}: {len(found)} values differ. The first: {found[0]}")
    return True


def _compare_loss(
    run_dir: Path, run: GrpoRun, groups: Sequence[ReplayedGroup], *, step: int, console: Console, compares: bool
) -> bool:
    """The update's figures beside the logged ones; whether the loss differs."""
    from videor2_rl.replay.prompts import rebuilt_prompts
    from videor2_rl.report.tables import plain_table
    from videor2_rl.run.tracking import read_metrics
    from workers.learner.replay import COMPARED, checkpoint_before, update_again

    checkpoint = checkpoint_before(run_dir, step)
    prompts = rebuilt_prompts([group.record for group in groups], run)
    train_groups = [
        replace(
            group.train_group, prompt=replace(group.train_group.prompt, ref=prompt, num_tokens=len(prompt.token_ids))
        )
        for group, prompt in zip(groups, prompts, strict=True)
    ]
    now = update_again(run, train_groups, checkpoint)
    logged = next((row for row in read_metrics(run_dir) if row["step"] == step), {})
    shown = plain_table(f"The update of step {step}")
    for header in ("", "now", "logged"):
        shown.add_column(header, justify="right" if header else "left")
    for name in COMPARED:
        if name in now:
            was = logged.get(name)
            shown.add_row(name, f"{now[name]:.8g}", "none" if was is None else f"{was:.8g}")
    console.print(shown)
    apart = {name: abs(now[name] - logged[name]) for name in COMPARED if name in now and logged.get(name) is not None}
    wrong = [name for name, gap in apart.items() if gap > 1e-4 * max(1.0, abs(logged[name]))]
    if not compares:
        return False
    print(f"the first that differs: {wrong[0]}" if wrong else "the update is the logged one")
    return bool(wrong)


if __name__ == "__main__":
    main()
