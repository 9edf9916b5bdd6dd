"""Optimisers are checked before a run starts."""

from __future__ import annotations

from typing import Any

import pytest

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import OptimizerConfig
from workers.learner.verl_config import check_optimizer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("AdamW", {}), ("Adam", {"eps": 1e-7}), ("SGD", {"momentum": 0.9}), ("Adafactor", {})]
)
def test_pytorchs_own_optimisers_are_allowed_and_can_be_built(name: str, options: dict[str, Any]) -> None:
    import torch

    check_optimizer(OptimizerConfig("torch.optim", name, options))
    weight = torch.nn.Parameter(torch.ones(2, 2))
    # As the engines build it: with a learning rate, a decay and the options.
    optimizer = getattr(torch.optim, name)([weight], lr=0.1, weight_decay=0.0, **options)
    weight.sum().backward()
    optimizer.step()
    assert (weight < 1).all()
    assert options.items() <= optimizer.defaults.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "options", "sentence"),
    [
        ("no_such_package.optim", "AdamW8bit", {}, "No module named 'no_such_package'; install the package"),
        ("torch.optim", "AdamW8bit", {}, "module=torch.optim has no class AdamW8bit"),
        ("torch.optim", "AdamW", {"momentum": 0.9}, "AdamW takes no momentum; it takes params, lr"),
        ("torch.optim", "LBFGS", {}, "LBFGS takes no weight_decay"),
    ],
)
def test_an_optimiser_that_cannot_be_built_is_named_with_its_mend(
    module: str, name: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_optimizer(OptimizerConfig(module, name, options))
