"""The rows of docs/data.md are read as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from videor2_rl.layouts.reading import LAYOUTS, read_row

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_page_shows_the_same_row_in_every_layout() -> None:
    rows = [read_row(json.loads(text)) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    assert [row.layout for row in rows] == list(LAYOUTS)
    for row in rows:
        assert (row.id, row.video) == ("clip-17-q2", "cooking/0017.mp4")
        assert row.question == "What happens first?\nA. He cuts bread.\nB. He opens the oven."
        assert (row.solution, row.problem_type) == ("<answer>B</answer>", "multiple choice")
        assert list(row.temporal_grounding or ()) == ["00:05", "00:20-00:31"]
    assert rows[1].system_prompt == "Name what happens with its time."
    assert set(rows[3].extra) == {"data_source", "ability", "extra_info"}
