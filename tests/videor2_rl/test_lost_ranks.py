"""A learner that is lost in the middle of a run, by the loop over fakes: what it learned in the end is the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from loop_fakes import Fakes, configure, samples

from videor2_rl.grpo import Training
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.stopping import Stopping
from videor2_rl.run.tracking import Tracker
from videor2_rl.training.ledger import check_ledger
from videor2_rl.types import TrainGroup
from workers.errors import RankLost
from workers.rebuild import train_through_losses


@dataclass
class Losing(Fakes):
    """Remembers what it was trained on, as its weights do; lost before or after the update of some steps."""

    trained: list[int] = field(default_factory=list)
    losses: list[tuple[int, str]] = field(default_factory=list)
    updates: int = 0
    synced: list[float] = field(default_factory=list)

    def update(self, groups: Sequence[TrainGroup], **settings: Any) -> dict[str, float]:
        self.updates += 1
        self._lose("before")
        metrics = super().update(groups, **settings)
        self.trained += [group.group_id for group in groups]
        self._lose("after")
        return metrics

    def _lose(self, when: str) -> None:
        if (self.updates, when) in self.losses:
            raise RankLost(f"the policy update: learner rank 0 died {when} it")

    def update_weights(self, source: int) -> None:
        self.synced.append(source)
        super().update_weights(source)

    def rebuild(self) -> None:
        self.weight, self.trained = 0.0, []

    def save(self, path: Path) -> None:
        super().save(path)
        (path / "weight").write_text(json.dumps([self.weight, self.trained]))

    def load(self, path: Path) -> None:
        self.weight, self.trained = json.loads((path / "weight").read_text())


def train(tmp_path: Path, losses: list[tuple[int, str]], *overrides: str) -> Losing:
    run = configure(tmp_path, "learner.max_rebuilds=3", *overrides)
    fakes = Losing(losses=losses)
    workers = replace(fakes.workers(with_reference=False), rebuild=fakes.rebuild)
    with (
        Stopping(limit_s=60, max_hours=None) as stopping,
        Tracker(tmp_path, run.logging, total_steps=run.algorithm.num_steps) as tracker,
    ):
        training = Training(run, workers, samples(8), [], Checkpoints(tmp_path, keep=2), tracker, stopping)
        train_through_losses(training.go_on, training.rebuild, max_rebuilds=run.learner.max_rebuilds)
    return fakes


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize(
    ("losses", "updates", "goes_back_to"),
    [
        ([(1, "after")], 7, [0]),
        ([(4, "before")], 8, [2]),
        ([(4, "after"), (6, "after"), (7, "before")], 11, [2, 2, 2]),
    ],
)
def test_it_goes_on_from_the_newest_checkpoint_and_every_prompt_is_learned_once(
    tmp_path: Path,
    losses: list[tuple[int, str]],
    updates: int,
    goes_back_to: list[int],
    staleness: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["algorithm.kl_coefficient=0", f"algorithm.max_staleness={staleness}", "rollout.top_k=0"]
    fakes = train(tmp_path, losses, *options)
    assert sorted(fakes.trained) == list(range(12)) and fakes.weight == 6
    assert check_ledger(tmp_path, num_prompts=12) == "ledger: 12 prompts, 12 trained; 0 lost, 0 twice"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    # The rollout workers, which stayed, were brought back to what the learner holds.
    backwards = [after for before, after in zip(fakes.synced, fakes.synced[1:], strict=False) if after <= before]
    first = [fakes.synced[0]] if fakes.synced[0] == 0 else []
    assert first + backwards == goes_back_to
