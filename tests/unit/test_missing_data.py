"""Data or labels that are missing: one line that names the choice that reads them and gives advice that works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import OptionError

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), Residual(), Residual(), nn.Linear(8, 3))


GROUP = {"0/units<q30@activation": {"method": "remove"}}


@pytest.mark.parametrize(
    ("data", "budget", "options", "words"),
    [
        ([X], {"params": 0.7}, {"nodes": GROUP}, "method 'hierarchical' chooses by the loss and needs labels"),
        ([X], {"params": 0.7}, {"search": 4}, "search: 4 chooses by the loss and needs labels"),
        (None, {"params": 0.7}, {"search": 4}, "search: 4 needs data=batches of (inputs, targets)"),
        (None, {"params": 0.7}, {"damage": True}, "damage: True needs data"),
        (None, {"params": 0.7}, {"method": "multi-scale"}, "method 'multi-scale' needs data"),
        (None, {"modules": 0.5}, {}, "criterion 'gate' of modules needs data=batches of (inputs, targets)"),
        (None, {"modules": 0.5}, {"criterion": "apoz"}, "criterion 'apoz' of modules needs data=batches of inputs,"),
        (
            None,
            {"params": 0.7},
            {"method": "modular", "criterion": "mean-activation"},
            "criterion 'mean-activation' of modules needs data=batches of inputs,",
        ),
        (None, {"modules": 0.5}, {}, "method units with criterion magnitude reads none"),
    ],
)
def test_the_choice_that_reads_data_is_named(data: Any, budget: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        prunus.plan(net(), X[:2], budget=budget, data=data, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("criterion", ["mean-activation", "contribution", "apoz"])
def test_inputs_alone_are_enough_where_the_line_says_so(criterion: str) -> None:
    plan = prunus.plan(net(), X[:2], budget={"modules": 0.5}, data=[X], criterion=criterion)
    assert len(plan.drops) == 1
