"""The page that a browser loads first: empty, but for what fills it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi.responses import HTMLResponse
from jinja2 import Template

SHELL = Path(__file__).with_name("shell.html.j2")


def shell(title: str, *, module: str, styles: Sequence[str], scripts: Sequence[str] = ()) -> HTMLResponse:
    """
    Args:
        module: address of the script that fills the page.
        styles: addresses; a later one has the last word, and all follow the colours.
        scripts: addresses of what the module finds loaded.
    """
    template = Template(SHELL.read_text(encoding="utf-8"), trim_blocks=True, autoescape=True)
    text = template.render(title=title, module=module, styles=["/colours.css", *styles], scripts=scripts)
    return HTMLResponse(text, headers={"Cache-Control": "no-cache"})
