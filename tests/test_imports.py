"""Imports run down the floors, no files import each other in a circle, and what needs no cluster loads none of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("videor2_rl", "workers", "rewards")
HEAVY_FOR_LOGIC = {"ray", "vllm", "deepspeed", "verl"}

FLOORS = """
    rewards.types       videor2_rl.types      videor2_rl.background
    rewards.text
    rewards.match
    rewards.terms+rewards.reading+rewards.judge+rewards.official
    rewards.compose
    videor2_rl.config
    videor2_rl.layouts
    videor2_rl.run      videor2_rl.judge      videor2_rl.video      videor2_rl.dataset
    videor2_rl.model    videor2_rl.scoring    videor2_rl.inputs
    videor2_rl.evaluation                     videor2_rl.demo       videor2_rl.integrations
    videor2_rl.training videor2_rl.report     videor2_rl.doctor     videor2_rl.preview
    videor2_rl.view     videor2_rl.replay
    videor2_rl.chat
    workers.memory      workers.cpu_sampler   workers.errors    workers.merger
    workers.fetch       workers.liveness      workers.rebuild
    workers.slots
    workers.cluster     workers.dispatch
    workers.pool        workers.control
    workers.weights
    workers.rollout     workers.learner       workers.video   workers.reward   workers.judge_server   workers.preflight
    workers.build
    APPS
"""
"""The ground first. A room imports from its own files and from the floors below, never from a neighbour or from above,
whether at the top of a file, inside a function or under TYPE_CHECKING. Rooms joined by + are one."""

APPS = {
    f"videor2_rl.{name}"
    for name in (
        "make_demo",
        "demo_run",
        "demo_libraries",
        "sft",
        "grpo",
        "evaluate",
        "score",
        "probe",
        "convert",
        "export",
        "scale",
        "app",
    )
}
"""What a user runs, and what the Hydra apps share; the `__main__` of a package is an app too."""


class Import(NamedTuple):
    file: str
    line: int
    importer: str
    imported: str


def module_of(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_in(node: ast.AST, module: str) -> list[str]:
    """What an import statement names, from `a.b import c` both a.b.c and a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}: relative imports hide where they lead"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


@cache
def imports_under(root: Path) -> tuple[Import, ...]:
    """Every import of one of our modules by another, wherever it stands in the file."""
    files = {module_of(file, root): file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))}
    found = []
    for module, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in names_in(node, module):
                imported = name if name in files else name.rpartition(".")[0]
                if imported in files and imported != module:
                    found.append(Import(str(file.relative_to(root)), getattr(node, "lineno", 0), module, imported))
    return tuple(found)


def rooms() -> dict[str, tuple[int, str]]:
    """Module prefix -> its floor's number, and the room that it belongs to."""
    table = {}
    for number, line in enumerate(FLOORS.split("\n")):
        for room in line.split():
            for prefix in room.split("+"):
                table[prefix] = (number, room)
    return table


def room_of(module: str) -> tuple[int, str] | None:
    """None: a package that only holds others, or a module that the table does not know."""
    table = rooms()
    if module in APPS or module.endswith(".__main__"):
        return table["APPS"]
    prefixes = [module.rsplit(".", cut)[0] for cut in range(module.count(".") + 1)]
    return next((table[prefix] for prefix in prefixes if prefix in table), None)


def against_the_floors(root: Path) -> list[str]:
    wrong = []
    for file, line, importer, imported in imports_under(root):
        above, below = room_of(importer), room_of(imported)
        if above is None or below is None or (above != below and above[0] <= below[0]):
            wrong.append(f"{file}:{line}: {importer} may not import {imported}")
    return wrong


def circles(root: Path) -> list[str]:
    """Files that import each other, straight or over others: each as the import that closes the circle."""
    arrows: dict[str, list[Import]] = {}
    for found in imports_under(root):
        arrows.setdefault(found.importer, []).append(found)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> Iterator[str]:
        for arrow in arrows.get(module, []):
            if arrow.imported in path:
                circle = " -> ".join([*path[path.index(arrow.imported) :], arrow.imported])
                yield f"{arrow.file}:{arrow.line}: {circle}"
            elif arrow.imported not in done:
                yield from walk(arrow.imported, (*path, arrow.imported))
        done.add(module)

    return [circle for module in sorted(arrows) if module not in done for circle in walk(module, (module,))]


def test_imports_go_down_the_floors_or_stay_in_their_room() -> None:
    assert not (wrong := against_the_floors(ROOT)), "\n".join(wrong)
    assert len(imports_under(ROOT)) > 300


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not (found := circles(ROOT)), "\n".join(found)


def test_every_room_of_the_table_is_there_and_every_file_has_one() -> None:
    modules = {module_of(file, ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert {room for room in rooms() if room != "APPS"} | APPS <= modules
    assert {module for module in modules if room_of(module) is None} == set(PACKAGES)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("from workers.pool import ActorPool\n", 1),
        ("def late() -> None:\n    import workers.pool\n", 2),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from workers import pool\n", 3),
        ("\nfrom videor2_rl.judge.client import JudgeClient\n", 2),
    ],
)
def test_an_import_that_goes_up_or_to_a_neighbour_is_named_with_file_and_line(
    text: str, line: int, tmp_path: Path
) -> None:
    for module in ("workers/pool", "videor2_rl/judge/client", "videor2_rl/run/files"):
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{module}.py").write_text("")
    (tmp_path / "videor2_rl/run/files.py").write_text(text)
    [wrong] = against_the_floors(tmp_path)
    assert wrong.startswith(f"videor2_rl/run/files.py:{line}: videor2_rl.run.files may not import ")


def test_a_circle_over_three_files_is_named_with_its_way(tmp_path: Path) -> None:
    (tmp_path / "videor2_rl/run").mkdir(parents=True)
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"videor2_rl/run/{name}.py").write_text(f"\n\nfrom videor2_rl.run.{other} import thing\n")
    way = "videor2_rl.run.a -> videor2_rl.run.b -> videor2_rl.run.c -> videor2_rl.run.a"
    assert circles(tmp_path) == [f"videor2_rl/run/c.py:3: {way}"]


def test_logic_modules_load_no_cluster_library() -> None:
    files = [file for package in ("videor2_rl", "rewards") for file in sorted((ROOT / package).rglob("*.py"))]
    # The second is there to load them.
    modules = [module_of(file, ROOT) for file in files if file.stem not in ("__main__", "demo_libraries")]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY_FOR_LOGIC!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_rewards_import_only_numpy_and_scipy_besides_the_standard_library() -> None:
    allowed = set(sys.stdlib_module_names) | {"rewards", "numpy", "scipy"}
    for file in (ROOT / "rewards").rglob("*.py"):
        names = [name for node in ast.walk(ast.parse(file.read_text())) for name in names_in(node, file.name)]
        foreign = {name.split(".")[0] for name in names} - allowed
        assert not foreign, f"{file.name} imports {foreign}"


@pytest.mark.parametrize(
    "app",
    [
        "grpo",
        "sft",
        "evaluate",
        "score",
        "probe",
        "make_demo",
        "demo_run",
        "convert",
        "export",
        "scale",
        "report",
        "doctor",
        "preview",
        "view",
        "chat",
        "replay",
    ],
)
def test_help_explains_itself_without_heavy_libraries(app: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{app}', '--help']\n"
        "try: runpy.run_module('videor2_rl." + app + "', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'ray', 'transformers', 'verl', 'decord', 'matplotlib'} & set(sys.modules)\n"
        "print(f'HEAVY={sorted(heavy)}')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY=[]" in result.stdout
    assert len(result.stdout.splitlines()) > 5
