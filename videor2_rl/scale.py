"""Change how many workers a run has while it trains, or say who is alive.

python -m videor2_rl.scale RUN rollout=3 reward=2 video=4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.run.place import PoolState, place_of

EPILOG = """New workers get ready beside the others, take the current weights and then serve; those too many end what
they have begun, within a limit, and leave. The run must train in RUN; rollout.max_workers bounds its engines. Without
sizes the workers are listed: starting, ready (waits for weights), serving, standing by, leaving."""


def sizes_of(arguments: Sequence[str]) -> dict[str, int]:
    """Pool -> size, from `rollout=3`.

    Raises:
        ConfigError: not of this form, or a pool twice.
    """
    sizes: dict[str, int] = {}
    for argument in arguments:
        name, _, size = argument.partition("=")
        if not size.isdecimal():
            raise ConfigError(f"{argument}: expected POOL=N, e.g. rollout=3")
        if name in sizes:
            raise ConfigError(f"{argument}: {name} has a size already")
        sizes[name] = int(size)
    return sizes


def leaving_of(arguments: Sequence[str], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Pool -> numbers of workers, from `rollout/0`.

    Raises:
        ConfigError: not of this form, or of a pool that gets no size.
    """
    leaving: dict[str, tuple[int, ...]] = {}
    for argument in arguments:
        name, _, number = argument.partition("/")
        if not number.isdecimal():
            raise ConfigError(f"--leave {argument}: expected POOL/NUMBER, e.g. rollout/0")
        if name not in sizes:
            raise ConfigError(f"--leave {argument}: say how large the pool is to be too, e.g. {name}=1")
        leaving[name] = (*leaving.get(name, ()), int(number))
    return leaving


def lines_of(states: Mapping[str, PoolState]) -> list[str]:
    """A line for each pool."""
    return [
        f"{name}: {state.size} wanted; " + ", ".join(f"{number} {word}" for number, word in state.workers.items())
        for name, state in states.items()
    ]


def scale(run_dir: Path, sizes: Mapping[str, int], leaving: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Tell the run, and say what it said of itself before.

    Raises:
        ConfigError: nothing trains there, or it cannot be so.
    """
    place = place_of(run_dir)
    from workers.control import ANSWER_S, STALE_S, Wish, control_of
    from workers.fetch import fetch

    with control_of(run_dir, place) as control:
        states, ago_s = fetch(control.states.remote(), deadline_s=ANSWER_S, what="the run's pools")
        if not states:
            raise ConfigError(f"{run_dir}: the run has said nothing of its pools yet; try again in a moment")
        if ago_s > STALE_S:
            raise ConfigError(f"{run_dir}: the run said nothing of its pools for {ago_s:.0f} s; it may have ended")
        wishes = {name: Wish(size, leaving.get(name, ())) for name, size in sizes.items()}
        fetch(control.ask.remote(wishes), deadline_s=ANSWER_S, what="the run's answer")
    changes = [f"{name}: from {states[name].size} to {size}" for name, size in sizes.items()]
    return changes or lines_of(states)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(
        prog="python -m videor2_rl.scale",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run that trains")
    parser.add_argument("sizes", metavar="POOL=N", nargs="*", help="rollout, reward or video, and how many workers")
    parser.add_argument(
        "--leave", action="append", default=[], metavar="POOL/NUMBER", help="a worker that leaves first, e.g. rollout/0"
    )
    arguments = parser.parse_args(argv)
    try:
        sizes = sizes_of(arguments.sizes)
        lines = scale(arguments.run, sizes, leaving_of(arguments.leave, sizes))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
