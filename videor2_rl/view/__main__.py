"""A page over one run or several: curves, rollouts, and the clip at the second that the model talks about.

    python -m videor2_rl.view outputs/demo/grpo
    python -m videor2_rl.view outputs/ablation                       # the runs of a sweep over each other
    python -m videor2_rl.view RUN --json groups --where "reward_max - reward_min > 1"
    python -m videor2_rl.view RUN --sql "select step, avg(reward) from responses group by step"

Works on a live run and on a finished one, from the run's folder alone. From another machine, over a tunnel:

    ssh -L 8800:localhost:8800 HOST python -m videor2_rl.view RUN
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videor2_rl.app import user_errors
from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError
from videor2_rl.view.serving import add_place_options, opened_place

if TYPE_CHECKING:
    from videor2_rl.view.run import RunFolder
    from videor2_rl.view.server import Scale

TABLES = ("groups", "responses", "steps")
SCALE_S = 120
"""In which the run must answer: the command joins its cluster first."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m videor2_rl.view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="a run's folder, a demo or a sweep")
    add_place_options(parser, port=8800)
    parser.add_argument("--control", action="store_true", help="buttons that change the pools of a run that trains")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--json", choices=TABLES, dest="table", help="print these rows, one JSON object a line")
    asked.add_argument("--sql", metavar="SELECT", help="print what it gives; tables: groups, responses, metrics")
    parser.add_argument("--where", metavar="SQL", default="", help="of --json: a condition on its columns")
    arguments = parser.parse_args(argv)
    if arguments.where and arguments.table is None:
        parser.error("--where belongs to --json")
    with user_errors():
        from videor2_rl.view.run import open_runs

        runs = open_runs(arguments.runs, media=arguments.media)
        if arguments.table is not None or arguments.sql is not None:
            try:
                print_rows(runs, table=arguments.table, where=arguments.where, sql=arguments.sql)
            except BrokenPipeError:
                # Whoever reads has enough (`| head`); what is buffered must not be tried again at the end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        scale = scale_by_command if arguments.control else None
        serve(runs, host=arguments.host, port=arguments.port, token=arguments.token, scale=scale)


def print_rows(runs: Sequence[RunFolder], *, table: str | None, where: str, sql: str | None) -> None:
    """One JSON object a line; of several runs each says which run it is of.

    Raises:
        ConfigError: a run has no rollouts, or SQLite does not take the condition.
    """
    from videor2_rl.run.files import json_line

    for run in runs:
        named = {"run": run.name} if len(runs) > 1 else {}
        for row in _rows(run, table=table, where=where, sql=sql):
            sys.stdout.buffer.write(json_line({**named, **row}))
    sys.stdout.flush()


def _rows(run: RunFolder, *, table: str | None, where: str, sql: str | None) -> Iterator[dict[str, Any]]:
    from videor2_rl.view.queries import select, with_metrics

    if table == "steps":
        if where:
            raise ConfigError("--where: belongs to groups and responses; for steps use --sql and the table metrics")
        yield from run.metrics()
        return
    run.update()
    with run.index() as index:
        if index is None:
            raise ConfigError(f"{run.folder} has no rollouts; a run logs them with logging.rollouts=true")
        if sql is None:
            condition = f" where {where}" if where else ""
            yield from select(index, f"select * from {table}{condition}", what="--where")
            return
        with_metrics(index, run.metrics())
        yield from select(index, sql, what="--sql")


def scale_by_command(run_dir: Path, sizes: Mapping[str, int]) -> str:
    """`python -m videor2_rl.scale` in a process of its own: Ray stays out of this one, which many runs may be seen in.

    Raises:
        ConfigError: as the command says it.
    """
    import subprocess

    command = [sys.executable, "-m", "videor2_rl.scale", str(run_dir)]
    command += [f"{name}={size}" for name, size in sizes.items()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SCALE_S)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{run_dir}: the run did not answer within {SCALE_S} s") from None
    if done.returncode:
        raise ConfigError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    return done.stdout.strip()


def serve(runs: Sequence[RunFolder], *, host: str, port: int, token: str | None, scale: Scale | None = None) -> None:
    """Serve until interrupted; prints the address when the page can be opened.

    Raises:
        ConfigError: the port is taken, or the address is none of this machine's.
    """
    import uvicorn

    from videor2_rl.view.server import make_app

    for run in runs:
        run.update()
    place = opened_place(host=host, port=port, token=token)
    print(f"{', '.join(run.name for run in runs)}: {place.address} (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(
        make_app(runs, token=place.token, scale=scale), log_level="warning", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[place.listener])


if __name__ == "__main__":
    main()
