"""What share of a device a training step uses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytestmark = pytest.mark.slow


def test_flops_over_the_devices_where_verl_knows_it(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig
    from verl.utils import flops_counter

    from workers.learner.rank import utilisation

    counter = flops_counter.FlopsCounter(AutoConfig.from_pretrained(tiny_model_dir))
    monkeypatch.setattr(flops_counter, "get_device_flops", lambda: float("inf"))
    assert utilisation(counter, [100, 50], 0.5) == {}
    monkeypatch.setattr(flops_counter, "get_device_flops", lambda: 2.0)
    estimated, _ = counter.estimate_flops([100, 50], 0.5)
    assert utilisation(counter, [100, 50], 0.5) == {"mfu": pytest.approx(estimated / 2.0)} and estimated > 0
    # Twice the time is half the rate.
    assert utilisation(counter, [100, 50], 1.0)["mfu"] == pytest.approx(estimated / 4.0)


def test_a_model_that_verl_cannot_count_has_none() -> None:
    from workers.learner.rank import utilisation

    assert utilisation(None, [1], 1.0) == {}
    nothing = cast(Any, SimpleNamespace(estimate_flops=lambda lengths, seconds: (0.0, 5.0)))
    assert utilisation(nothing, [1], 1.0) == {}
