"""The simulated cluster: nothing is lost, the bound on staleness holds, and running ahead pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.simulate_cluster import draw, simulate, table
from benchmarks.simulated_workers import Workload

WORK = Workload(groups_per_worker=2, group_size=4, seats=8, trained_per_worker_s=0.3)


@pytest.mark.parametrize("failures", [0.0, 0.5])
def test_every_prompt_is_trained_once_within_the_bound_whoever_is_lost(failures: float) -> None:
    found = simulate(8, 3, work=WORK, steps=4, failures=failures, counts_cpu=False)
    assert found.ledger == "ledger: 176 prompts, 176 trained; 0 lost, 0 twice"
    assert found.staleness_max <= 3
    assert found.replaced == round(8 * failures)


def test_running_ahead_pays_and_the_table_says_how_much(tmp_path: Path) -> None:
    found = [simulate(4, staleness, work=WORK, steps=3, counts_cpu=False) for staleness in (0, 4)]
    assert found[1].step_s < found[0].step_s / 1.5
    assert found[0].staleness_max == 0
    lines = table(found).splitlines()
    assert len(lines) == 4 and "1.00x" in lines[2] and f"{found[0].step_s / found[1].step_s:.2f}x" in lines[3]
    draw(found, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 1000
