"""Lost ranks are started anew so often, and the run goes on."""

from __future__ import annotations

import pytest

from workers.errors import RankLost
from workers.rebuild import train_through_losses


@pytest.mark.parametrize(("losses", "allowed"), [(0, 0), (2, 2), (2, 3)])
def test_training_goes_on_after_each_rebuild(losses: int, allowed: int) -> None:
    calls: list[str] = []

    def train() -> None:
        calls.append("train")
        if calls.count("train") <= losses:
            raise RankLost("the update: learner rank 1 died")

    train_through_losses(train, lambda: calls.append("rebuild"), max_rebuilds=allowed)
    assert calls == ["train", *["rebuild", "train"] * losses]


def test_one_loss_too_many_ends_the_run_in_training_or_while_ranks_start() -> None:
    calls: list[str] = []

    def lose(what: str) -> None:
        calls.append(what)
        raise RankLost(f"{what}: learner rank 0 died")

    with pytest.raises(RankLost, match="rebuild: learner rank 0 died"):
        train_through_losses(lambda: lose("train"), lambda: lose("rebuild"), max_rebuilds=2)
    assert calls == ["train", "rebuild", "rebuild"]


def test_other_errors_end_it_at_once() -> None:
    def train() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_through_losses(train, lambda: None, max_rebuilds=9)
