"""The hierarchical procedure optimises weights also where a cut cannot keep a forward word for word."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import prunus
from prunus.methods.hierarchy.settings import Optimisation
from prunus.methods.hierarchy.state import State, optimised
from prunus.methods.reduction import droppable


class Skipped(nn.Module):
    """A linear map, and an MLP behind the dropout of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.dropout = nn.Linear(6, 6), nn.Dropout(0.2)
        self.mlp, self.head = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(x) + self.mlp(self.dropout(x).relu()))


def test_the_weights_are_optimised_where_a_dropped_branch_leaves_a_number_of_the_forward_behind() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(40, 6)
    it = prunus.analyse(Skipped().eval(), inputs[:3], data=[(inputs, inputs[:, :3].argmax(1))])
    state = State.of(it)
    reduction = state.reduction.without(next(b for b in droppable(it) if b.id == "mlp"))
    assert reduction is not None
    after = optimised(replace(state, reduction=reduction), Optimisation.of("refit"))
    assert "optimised" in after.lines[-1]
