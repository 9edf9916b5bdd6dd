"""Imports run one way, and what needs no cluster loads none of its libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRIES = {"grpo", "sft", "evaluate"}
HEAVY_FOR_LOGIC = {"ray", "vllm", "deepspeed", "verl"}


def modules_under(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


def imported_by(file: Path) -> set[str]:
    """Top-level packages imported anywhere in the file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_logic_modules_load_no_cluster_library() -> None:
    modules = [m for m in [*modules_under("videor2_rl"), *modules_under("rewards")] if not m.endswith("__main__")]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY_FOR_LOGIC!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_rewards_import_only_numpy_and_scipy_besides_the_standard_library() -> None:
    for file in (ROOT / "rewards").rglob("*.py"):
        foreign = imported_by(file) - set(sys.stdlib_module_names) - {"rewards", "numpy", "scipy", "__future__"}
        assert not foreign, f"{file.name} imports {foreign}"


def test_only_entries_reach_up_to_the_workers() -> None:
    for file in (ROOT / "videor2_rl").rglob("*.py"):
        if file.stem not in ENTRIES:
            assert "workers" not in imported_by(file), f"{file.name} imports workers"


@pytest.mark.parametrize("app", ["grpo", "sft", "evaluate", "score", "make_demo", "demo_run", "report"])
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
