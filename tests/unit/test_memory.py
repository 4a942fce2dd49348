"""Memory of a forward pass: parameters and the values that are alive together, by hand."""

from __future__ import annotations

import torch
from torch import nn

from prunus.cost.memory import memory_model
from prunus.graph.capture import capture
from prunus.graph.coupling import couple


class Fork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 100, bias=False), nn.Linear(100, 50, bias=False), nn.Linear(50, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.a(x)
        return self.c(torch.relu_(self.b(wide.view(3, 100))))


def test_the_peak_is_where_most_is_alive() -> None:
    model = memory_model(couple(capture(Fork(), torch.randn(3, 10))))
    tensors = 4 * (10 * 100 + 100 * 50 + 50 * 2 + 2)
    # While b runs: the wide value (its view shares it) and b's result; relu_ writes in place. x is read no more.
    assert model.price() == tensors + 4 * (3 * 100 + 3 * 50)


def test_a_value_that_is_read_later_stays() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 64, bias=False), nn.Linear(64, 64, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return torch.relu(self.b(y)) + y

    model = memory_model(couple(capture(Skip(), torch.randn(5, 8))))
    # y waits for the sum while relu holds its argument and its result.
    assert model.price() == 4 * (8 * 64 + 64 * 64) + 4 * 3 * 5 * 64


def test_fewer_units_need_less() -> None:
    coupling = couple(capture(Fork(), torch.randn(3, 10)))
    model = memory_model(coupling)
    kept = {"a:out": 40, "b:out": 20}
    assert set(kept) == set(coupling.axes)
    assert model.price(kept) == 4 * (10 * 40 + 40 * 20 + 20 * 2 + 2) + 4 * (3 * 40 + 3 * 20)
