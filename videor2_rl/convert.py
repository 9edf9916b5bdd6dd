"""Rows of any readable layout into the paper's.

    python -m videor2_rl.convert rows.parquet rows.jsonl

Reads what training reads (docs/data.md) and keeps every column: those that the layout is made of become the paper's,
all others stay as they are. Rows that cannot be read are named and left out; then the exit code is 2.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError

_MAX_MESSAGES = 20


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(
        prog="python -m videor2_rl.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", type=Path, help="rows: .json, .jsonl or .parquet")
    parser.add_argument("output", metavar="OUT", type=Path, help="the same, in the paper's layout; replaced if there")
    arguments = parser.parse_args(argv)
    try:
        faults = convert(arguments.input, arguments.output)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not faults:
        return 0
    more = len(faults) - _MAX_MESSAGES
    print("\n".join(faults[:_MAX_MESSAGES] + ([f"and {more} more"] if more > 0 else [])), file=sys.stderr)
    print(f"error: {len(faults)} rows could not be read, all others are written", file=sys.stderr)
    return 2


def convert(source: Path, target: Path) -> list[str]:
    """Write the rows of `source` into `target`, print their number by layout; returns what is wrong with the others.

    A row without an id gets the one that training on `source` would give it.

    Raises:
        ConfigError: `source` holds no rows, or `target` cannot hold them.
    """
    from videor2_rl.layouts.files import SUFFIXES, read_rows, write_rows
    from videor2_rl.layouts.reading import read_row
    from videor2_rl.layouts.row import RowError

    if target.suffix not in SUFFIXES:
        raise ConfigError(f"{target}: expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the input too; give another file for the result")
    rows = read_rows(source)
    if not rows:
        raise ConfigError(f"{source}: the file has no rows; name one that has")
    written: list[dict[str, Any]] = []
    faults: list[str] = []
    layouts: Counter[str] = Counter()
    for number, value in enumerate(rows):
        try:
            row = read_row(value)
        except RowError as error:
            faults.append(f"{source}: row {number}: {error}")
            continue
        layouts[row.layout] += 1
        written.append(row.as_paper(f"{source.stem}-{number}"))
    if not written:
        raise ConfigError(f"{faults[0]}; none of {len(rows)} rows can be read, and {target} is not written")
    write_rows(target, written)
    found = ", ".join(f"{count} {layout}" for layout, count in layouts.most_common())
    print(f"{target}: {len(written)} of {len(rows)} rows, of layout {found}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
