"""The Python in documents runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["rewards/README.md", "docs/integrations.md"]


def blocks_of(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_of_a_document_runs_after_those_before_it(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    # TRL lives in an environment of its own: tests/videor2_rl/integrations/test_trl.py runs that block.
    blocks = [block for block in blocks_of(document) if "from trl import" not in block]
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{document}, block {number}", "exec"), names)
    # Every block defines or computes something.
    assert len(names.keys() - {"__builtins__"}) >= len(blocks) > 0


def test_the_blocks_are_found() -> None:
    assert [len(blocks_of(document)) for document in DOCUMENTS] == [3, 2]
