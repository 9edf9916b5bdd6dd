"""What documents, docstrings and configuration name is there: files, folders, modules and what stands in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = "videor2_rl|workers|rewards|conf|tests|docs|benchmarks|docker|examples"
KINDS = {".md", ".py", ".yaml", ".yml", ".toml", ".j2", ".cff"}
PATH = re.compile(rf"(?<![\w./-])(?:{TOPS})/[\w./*-]*\w\*?(?![-\w]*[{{<$])")
DOTTED = re.compile(r"(?<![\w./-])(?:videor2_rl|workers|rewards)(?:\.\w+)+(?![\w/])")
FILE = re.compile(r"(?<![\w./*<-])[\w*-]+(?:/[\w*-]+)*\.(?:py|yaml|md|cff)\b")

NAMES_WHAT_IS_NOT_THERE = {"CHANGELOG.md", "test_docs_paths.py", "test_imports.py"}
"""Old places, and those that tests plant."""
OF_THE_USER = {"my_rewards.py", "my_conf/reward/brief.yaml", "file.py"}
"""Files that an example tells the reader to write."""
LEFT_BY_A_RUN = {"config.yaml"}
OF_THE_PAPER = {"post_process_vsibench_predictions.py", "summarize_tac.py"}
"""Scripts of its published code."""


@cache
def texts() -> tuple[Path, ...]:
    """Every file of ours that may name another."""
    tops = [file for file in ROOT.iterdir() if file.is_file()]
    below = [file for top in [*TOPS.split("|"), ".github"] for file in (ROOT / top).rglob("*")]
    return tuple(sorted(file for file in [*tops, *below] if file.suffix in KINDS or file.name == "Makefile"))


def readers(suffix: str = "") -> list[Path]:
    return [file for file in texts() if file.name not in NAMES_WHAT_IS_NOT_THERE and file.name.endswith(suffix)]


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """Where a line stands, and the line."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        yield f"{file.relative_to(ROOT)}:{number}", line


def defined_in(file: Path) -> set[str]:
    """Names at the top level of a module, and of its classes' members as Class.member."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def is_there(dotted: str, root: Path) -> bool:
    """Whether a dotted name leads to a module, or to what one defines."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        place = root.joinpath(*parts[:cut])
        rest = parts[cut:]
        if place.is_dir():
            return not rest
        if place.with_suffix(".py").is_file():
            return not rest or rest[0] in defined_in(place.with_suffix(".py"))
    return False


def missing_paths() -> list[str]:
    return [
        f"{where}: {path}"
        for file in readers()
        for where, line in lines_of(file)
        for path in PATH.findall(line)
        if not any(ROOT.glob(path))
    ]


def missing_modules() -> list[str]:
    """In Python only what stands in backticks: elsewhere `rewards.score` may be an object."""
    quoted = re.compile(r"`[^`]*`")
    found = []
    for file in readers():
        for where, line in lines_of(file):
            text = " ".join(quoted.findall(line)) if file.suffix == ".py" else line
            found += [f"{where}: {name}" for name in DOTTED.findall(text) if not is_there(name, ROOT)]
    return found


def missing_files() -> list[str]:
    """File names in documents, from the root, from the document's folder, or as the end of a longer path."""
    known = ["/" + str(file.relative_to(ROOT)) for file in texts()]
    found = []
    for file in readers(".md"):
        for where, line in lines_of(file):
            for name in set(FILE.findall(line)) - OF_THE_USER - LEFT_BY_A_RUN - OF_THE_PAPER:
                if name.startswith("outputs/"):
                    continue
                pattern = re.compile(".*/" + re.escape(name).replace(r"\*", "[^/]*") + "$")
                if not any(pattern.match(path) for path in known):
                    found.append(f"{where}: {name}")
    return found


def test_every_path_that_is_named_exists() -> None:
    assert not (missing := missing_paths()), "\n".join(missing)


def test_every_module_that_is_named_exists() -> None:
    assert not (missing := missing_modules()), "\n".join(missing)


def test_every_file_that_a_document_names_exists() -> None:
    assert not (missing := missing_files()), "\n".join(missing)


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        ("rewards.terms.shaping.length", True),
        ("rewards.terms", True),
        ("rewards.shaping.length", False),
        ("rewards.terms.shaping.width", False),
        ("videor2_rl.config.GrpoRun", False),
    ],
)
def test_a_name_leads_to_a_module_or_to_what_stands_in_one(name: str, is_known: bool) -> None:
    assert is_there(name, ROOT) == is_known


def test_paths_modules_and_files_are_found_in_a_line() -> None:
    line = "`videor2_rl/gone.py` (see videor2_rl.gone.Thing and `gone.py`), conf/*.yaml, docker/two-{cpu,gpu}.txt."
    assert PATH.findall(line) == ["videor2_rl/gone.py", "conf/*.yaml"]
    assert DOTTED.findall(line) == ["videor2_rl.gone.Thing"]
    assert FILE.findall(line) == ["videor2_rl/gone.py", "gone.py", "conf/*.yaml"]
