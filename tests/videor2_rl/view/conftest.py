from __future__ import annotations

from pathlib import Path

import pytest
from viewed_runs import (
    byte_tokenizer,
    make_record,
    numbered_clip,
    with_failure,
    with_values,
    write_config,
    write_step,
)

HOSTILE = "<think>At 00:01 <img src=x onerror=alert(1)> <script>alert(2)</script></think><answer>A</answer>"


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run: three steps with groups of every sort that the pages tell apart."""
    folder = tmp_path_factory.mktemp("viewed") / "run"
    clip = numbered_clip(folder / "media" / "clip.mp4", [number / 10 for number in range(160)])
    write_config(folder, media_dir=folder / "media", num_steps=9)
    for step in (1, 2, 3):
        records = [make_record(10 * step + n, seed=10 * step + n, size=4, video=str(clip)) for n in range(4)]
        records[1] = with_failure(records[1], 0)
        records[2] = with_values(records[2])
        write_step(folder, step, records)
    (folder / "hf").mkdir()
    byte_tokenizer().save(str(folder / "hf" / "tokenizer.json"))
    lost = make_record(40, seed=40, size=4, video=str(folder / "media" / "lost.mp4"))
    hostile = make_record(41, seed=41, size=4, video=str(clip), texts=[HOSTILE])
    outside = make_record(42, seed=42, size=4, video="/etc/hostname")
    write_step(folder, 4, [lost, hostile, outside])
    return folder
