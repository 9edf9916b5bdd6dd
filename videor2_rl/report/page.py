"""What every page is made with: templates in, one self-contained HTML text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videor2_rl.report.tables import Cell
from videor2_rl.report.timeline import time_text


@dataclass(frozen=True)
class Grid:
    """A table for a page, the terminal and Markdown."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_settings: int = 0
    """Columns after the first that hold settings: left out on a phone, where each stands below the table too."""
    is_against: bool = False
    """The small text of a cell is a difference, and takes the colour of its sign."""
    main: tuple[int, ...] = ()
    """Columns that a phone shows first, each row turned into a block; empty: the table scrolls sideways."""


def fill(template: str, **values: Any) -> str:
    """A page. Everything that comes from a file is escaped; only the plots' own SVG is inserted as it is."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("videor2_rl.report"),
        autoescape=lambda name: name is None or not name.endswith(".css"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["trusted"] = Markup
    environment.filters["seconds"] = time_text
    return environment.get_template(template).render(**values)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; an empty mapping is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def flat_texts(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same, values as text."""
    return [(key, str(value)) for key, value in flat(tree)]


def grid_markdown(grid: Grid) -> list[str]:
    """Lines of Markdown."""
    lines = [f"| {' | '.join(map(_cell, grid.header))} |", "|---" * len(grid.header) + "|"]
    return lines + [f"| {' | '.join(_cell(cell_text(cell)) for cell in row)} |" for row in grid.rows]


def cell_text(cell: Cell) -> str:
    """One line: mean, interval, and a star on a difference whose interval leaves out 0."""
    mark = "*" if cell.note in ("up", "down") else "" if cell.note == "even" else cell.note
    return " ".join(filter(None, (cell.mean, cell.interval, mark)))


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def plain_cells(values: Sequence[Any]) -> tuple[Cell, ...]:
    """Texts as cells."""
    return tuple(Cell(str(value), "") for value in values)
