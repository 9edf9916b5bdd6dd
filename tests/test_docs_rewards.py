"""docs/rewards.md: every line of its tables, recomputed through `python -m videor2_rl.score`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
BY_JUDGE = ["reward.temporal_alignment.claims=judge", "reward.consistency.reader=judge"]


class Line(NamedTuple):
    section: str
    fault: str
    row: dict[str, Any]
    official: str
    ours: str


def table_lines() -> list[Line]:
    base_text = re.search(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert base_text
    base = json.loads(base_text[1])
    lines = []
    section = ""
    for line in TEXT.splitlines():
        if line.startswith("### "):
            section = line[4:]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and cells[1].startswith("`{"):
            row = {**base, **json.loads(cells[1].strip("`"))}
            think, answer = row.pop("think"), row.pop("answer")
            row = {"id": cells[0], "response": f"<think>{think}</think><answer>{answer}</answer>", **row}
            lines.append(Line(section, cells[0], row, cells[2], cells[3]))
    return lines


LINES = table_lines()


def paid(tmp_path: Path, lines: list[Line], *overrides: str) -> list[dict[str, Any]]:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line.row) + "\n" for line in lines))
    command = [sys.executable, "-m", "videor2_rl.score", str(source), str(out), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_the_tables_are_read() -> None:
    assert {line.section for line in LINES} == {"Format", "Accuracy", "Temporal alignment", "Judge"}
    assert len(LINES) >= 30
    assert all(line.official != line.ours for line in LINES)


@pytest.mark.parametrize("reward", ["video_r2_official", "video_r2"])
@pytest.mark.parametrize("by_judge", [False, True])
def test_both_rewards_pay_what_the_tables_say(reward: str, by_judge: bool, tmp_path: Path) -> None:
    lines = [line for line in LINES if (line.section == "Judge") == by_judge]
    wrong = []
    for line, result in zip(
        lines, paid(tmp_path, lines, f"reward={reward}", *(BY_JUDGE if by_judge else [])), strict=True
    ):
        name, expected = (line.official if reward == "video_r2_official" else line.ours).split(" ")
        term = result["terms"][name]
        found = term["verdict"] if term["value"] is None else f"{term['value']:.4f}".rstrip("0").rstrip(".")
        if found != expected:
            wrong.append(f"{line.fault}: says {expected}, pays {found} ({term})")
    assert not wrong, "\n".join(wrong)
