"""Which rollouts are shown, and why each."""

from __future__ import annotations

from typing import Any

import pytest

from videor2_rl.report.choose import (
    choose,
    held_out_reason,
    held_out_reasons,
    told_apart,
)
from videor2_rl.run.rollout_index import KINDS, kind_of_group


def held_out(accuracy: float, *, tac: float | None = 1.0, tar: float = 1.0, failed: bool = False) -> dict[str, Any]:
    scores = {"accuracy": accuracy, "tac": tac, "tar_precision": tar, "tar_recall": tar}
    return {"videor2_score": {**scores, "failed": {"tac": "down"} if failed else {}}}


@pytest.mark.parametrize(
    ("sft", "grpo", "place"),
    [
        (held_out(1.0), held_out(1.0, failed=True), 0),
        (held_out(1.0), held_out(0.0), 1),
        (held_out(0.0), held_out(1.0), 2),
        (held_out(1.0), held_out(1.0, tac=0.0), 3),
        (held_out(1.0), held_out(1.0, tac=None), 3),
        (held_out(0.0), held_out(0.5), 4),
        (held_out(1.0), held_out(1.0, tar=0.5), 5),
        (held_out(1.0), held_out(1.0), 6),
    ],
)
def test_each_held_out_sample_has_one_reason(sft: dict[str, Any], grpo: dict[str, Any], place: int) -> None:
    reason = held_out_reason({"sft": sft, "grpo": grpo})
    assert reason == held_out_reasons(["sft", "grpo"])[place]


def test_a_single_stage_is_told_without_a_change() -> None:
    assert held_out_reason({"grpo": held_out(0.0)}) == "Wrong after GRPO"


def group(*responses: tuple[float | None, float, float | None]) -> dict[str, Any]:
    """Reward, accuracy and TAC of each response."""
    return {
        "responses": [{"reward": reward, "metrics": {"accuracy": acc, "tac": tac}} for reward, acc, tac in responses]
    }


@pytest.mark.parametrize(
    ("record", "place"),
    [
        (group((None, 1.0, None), (1.0, 1.0, 1.0)), 0),
        (group((2.0, 1.0, 1.0), (1.0, 0.0, 1.0)), 1),
        (group((2.0, 1.0, 0.0), (2.0, 1.0, 1.0)), 2),
        (group((0.5, 0.0, 1.0), (0.5, 0.0, None)), 3),
        (group((2.0, 1.0, 1.0), (1.5, 1.0, 1.0)), 4),
        (group((2.0, 1.0, 1.0), (2.0, 1.0, 1.0)), 5),
    ],
)
def test_each_training_group_has_one_reason(record: dict[str, Any], place: int) -> None:
    assert kind_of_group(record["responses"]) == KINDS[place]


def test_a_rare_kind_is_shown_beside_a_common_one_and_the_choice_is_fixed() -> None:
    items = [("common", number) for number in range(100)] + [("rare", 100)]
    kinds = choose(items, order=("rare", "absent", "common"), count=5, seed=0)
    assert [(kind.reason, len(kind.items), kind.total) for kind in kinds] == [("rare", 1, 1), ("common", 4, 100)]
    assert kinds == choose(items, order=("rare", "absent", "common"), count=5, seed=0)
    assert choose([], order=("rare",), count=5, seed=0) == []


def test_the_two_responses_of_a_group_that_differ_most_are_shown() -> None:
    assert told_apart(group((1.0, 0, 0), (3.0, 0, 0), (0.5, 0, 0))["responses"]) == [
        (1, "highest reward"),
        (2, "lowest reward"),
    ]
    assert told_apart(group((1.0, 0, 0), (None, 0, 0))["responses"]) == [(0, "highest reward"), (1, "no reward")]
    assert told_apart(group((1.0, 0, 0))["responses"]) == [(0, "the only one")]
