"""Commands in documents."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import tomllib

ROOT = Path(__file__).parents[2]
PATTERNS = ("*.md", "docs/*.md", "*/README.md", "rewards/**/*.md")
DOCUMENTS = sorted({document for pattern in PATTERNS for document in ROOT.glob(pattern)})
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
START = re.compile(r"^(?: {4}|\$ )?((?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:python|videor2-[a-z-]+|make|ray)\b .*)$")


class Command(NamedTuple):
    where: str
    text: str

    @property
    def words(self) -> list[str]:
        """Without variables before it, and with the module in place of a console script."""
        words = shlex.split(self.text, comments=True)
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        words[0] = words[0].removeprefix(".venv/bin/")
        if words[0] in SCRIPTS:
            module = SCRIPTS[words[0]].partition(":")[0].removesuffix(".__main__")
            words[:1] = ["python", "-m", module]
        return words


def commands() -> list[Command]:
    """Every line of a code block that begins like a command, with the lines that it goes on over."""
    found = []
    for document in DOCUMENTS:
        lines = document.read_text(encoding="utf-8").splitlines()
        fenced = False
        for number, line in enumerate(lines, start=1):
            fenced ^= line.startswith("```")
            match = START.match(line)
            if match is None or not (fenced or line.startswith("    ")):
                continue
            text, last = match[1], number
            while text.endswith("\\"):
                text = f"{text[:-1].rstrip()} {lines[last].strip()}"
                last += 1
            found.append(Command(f"{document.relative_to(ROOT)}:{number}", text))
    return found


COMMANDS = commands()
OURS = [one for one in COMMANDS if one.words[:2] == ["python", "-m"] and one.words[2].startswith("videor2_rl.")]
