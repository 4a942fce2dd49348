"""A budget of peak memory: held, tight, and refused with what was reached."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunus
from prunus import analyse
from prunus.cost.memory import memory_model
from prunus.errors import BudgetError, OptionError


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3)
    )


INPUTS = torch.randn(2, 3, 16, 16)


def test_memory_is_held_and_used(net: nn.Sequential) -> None:
    parent = analyse(net, INPUTS)
    model = memory_model(parent.coupling)
    plan = parent.plan({"memory": 0.5})
    assert 0.4 * model.price() < model.price(plan.axes) <= 0.5 * model.price()
    both = parent.plan({"memory": 0.5, "params": 0.1})
    assert both.after.params <= 0.1 * both.before.params
    assert model.price(both.axes) <= 0.5 * model.price()


def test_prune_knows_memory_in_bytes(net: nn.Sequential) -> None:
    result = prunus.prune(net, INPUTS, budget={"memory": "150kB"})
    assert result.check.ok
    assert memory_model(prunus.couple(prunus.capture(result.model, INPUTS))).price() <= 150_000


def test_out_of_reach_and_met_already(net: nn.Sequential) -> None:
    parent = analyse(net, INPUTS)
    with pytest.raises(BudgetError, match="memory ≤ 1,000 bytes cannot be met: the least"):
        parent.plan({"memory": 1000})
    with pytest.raises(BudgetError, match="as it is"):
        parent.plan({"memory": "1GB"})
    with pytest.raises(OptionError, match="budget memory is -1"):
        parent.plan({"memory": -1})
