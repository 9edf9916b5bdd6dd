"""What every app checks before an engine starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from videor2_rl.app import checked_inputs, compose_run
from videor2_rl.config.errors import ConfigError
from videor2_rl.config.runs import GrpoRun


def test_an_own_term_is_tried_on_the_first_row_of_the_data(
    demo_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "def rated(reading):\n    return reading.context.extra['no_such_column']\n\n"
        "def bound(reading):\n    return float(len(reading.context.extra) < 9 and bool(reading.context.sample_id))\n"
    )

    def samples(function: str) -> int:
        own = [f"+reward.extra.mine.function={tmp_path}/own.py:{function}", "+reward.extra.mine.weight=1"]
        paths = [f"model.path={tiny_model_dir}", f"data.train_file={demo_dir}/grpo.json", f"data.media_dir={demo_dir}"]
        run = compose_run("grpo", GrpoRun, ["experiment=demo", "data.make_demo=null", *paths, *own])
        return len(checked_inputs(run))

    assert samples("bound") > 0
    place = f"reward.extra.mine: KeyError: 'no_such_column' ({tmp_path}/own.py:2, in rated); found by scoring a plain"
    with pytest.raises(ConfigError, match=re.escape(place) + " response to row '.+', whose own columns are"):
        samples("rated")
