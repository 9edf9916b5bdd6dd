"""The page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from videor2_rl.config.sections import VideoConfig
from videor2_rl.preview.rows import ShownRow
from videor2_rl.video.overlay import time_text


def render(rows: Sequence[ShownRow], *, app: str, file: str, num_rows: int, model: str, video: VideoConfig) -> str:
    """One self-contained page without scripts; everything that comes from a file is escaped.

    Args:
        app: whose configuration it is.
        num_rows: rows that `file` has.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("videor2_rl.preview").joinpath("template.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        rows=rows, app=app, file=file, num_rows=num_rows, model=model, video=video, time_text=time_text
    )
