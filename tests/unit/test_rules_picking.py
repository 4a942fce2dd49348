"""Lookups by a constant index, stepped slices, pads, turns: patterns stay removable, and cuts are exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_cuts import assert_exact, half_of, prove, random_share
from prunus.graph.capture import capture
from prunus.graph.coupling import couple

torch.set_num_threads(1)
Change = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A function between two linear layers, over x (3, 5)."""

    def __init__(self, function: Change, width: int, out: int) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(5, width), nn.Linear(out, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(torch.tanh(self.a(x))))


def at(*places: int) -> Change:
    return lambda x: x[..., torch.tensor(places)]


def _twice(x: Tensor) -> Tensor:
    swapped = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    return x[..., swapped] + x.square().index_select(1, swapped)


def _transposed(x: Tensor) -> Tensor:
    return x[..., torch.arange(8).view(2, 4).t().reshape(-1)]


CASES: dict[str, tuple[Change, int, int, dict[str, int]]] = {
    "halves swapped": (at(4, 5, 6, 7, 0, 1, 2, 3), 8, 8, {"a:out[0]": 4, "a:out[1]": 4}),
    "even, then odd": (at(0, 2, 4, 6, 1, 3, 5, 7), 8, 8, {"a:out[0]": 4, "a:out[1]": 2}),
    "interleaved": (at(0, 4, 1, 5, 2, 6, 3, 7), 8, 8, {"a:out[0]": 2, "a:out[1]": 4}),
    "factors transposed by arange": (_transposed, 8, 8, {"a:out[0]": 2, "a:out[1]": 4}),
    "each repeated": (at(0, 0, 1, 1, 2, 2, 3, 3), 4, 8, {"a:out": 4, "b:in[1]": 2}),
    "all repeated": (at(0, 1, 2, 3, 0, 1, 2, 3), 4, 8, {"a:out": 4, "b:in[0]": 2}),
    "a run": (at(2, 3, 4), 8, 3, {"a:out[0]": 2, "a:out[1]": 3, "a:out[2]": 3}),
    "from the end": (lambda x: torch.cat([at(-2, -1)(x), x[..., :6]], -1), 8, 8, {"a:out[0]": 6, "a:out[1]": 2}),
    "one index, two lookups": (_twice, 8, 8, {"a:out[0]": 4, "a:out[1]": 4}),
    "step, a short last block": (lambda x: x[..., ::2], 9, 5, {"a:out[0]": 4}),
    "step, not from the start": (lambda x: x[..., 1::2], 9, 4, {"a:out[0]": 4}),
    "step inside": (lambda x: x[..., 3:9:2], 12, 3, {"a:out[0]": 3, "a:out[1]": 3, "a:out[3]": 3}),
    "padded with ones": (lambda x: F.pad(x, (1, 2), value=1.0), 8, 11, {"a:out": 8, "b:in[1]": 2}),
    "padded by less than nothing": (lambda x: F.pad(x, (-2, 1)), 8, 7, {"a:out[0]": 2, "a:out[1]": 6}),
    "turned": (lambda x: torch.roll(x, 3, -1), 8, 8, {"a:out[0]": 5, "a:out[1]": 3}),
    "turned back": (lambda x: torch.roll(x, (-3,), (1,)), 8, 8, {"a:out[0]": 3, "a:out[1]": 5}),
}


@pytest.mark.parametrize("mode", ["graph", "hybrid"])
@pytest.mark.parametrize("name", CASES)
def test_patterns_stay_removable(name: str, mode: str) -> None:
    function, width, out, axes = CASES[name]
    torch.manual_seed(0)
    prove(Between(function, width, out), torch.randn(3, 5), axes=axes, mode=mode)


@pytest.mark.parametrize("function", [at(3, 1, 0, 2, 7, 5, 4, 6), lambda x: x.flip(-1)])
def test_without_a_pattern_the_dim_is_frozen(function: Change) -> None:
    model = Between(function, 8, 8).eval()
    assert not couple(capture(model, torch.randn(3, 5))).axes


class Shared(nn.Module):
    """One constant is an index here and a number there: it cannot be renumbered."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        swapped = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
        return self.b(torch.tanh(self.a(x))[..., swapped]) + self.c(swapped.float())


def test_an_index_that_is_also_a_number_freezes_what_it_looks_into() -> None:
    coupling = couple(capture(Shared().eval(), torch.randn(3, 5)))
    assert not any(m.tensor.startswith("a.") for axis in coupling.axes.values() for m in axis.members)


class Table(nn.Module):
    """Learned positions, of which an input uses as many as it is long."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.head = nn.Linear(5, 8), nn.Parameter(torch.randn(20, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x) + self.places[: x.shape[1]])


def test_rows_for_longer_inputs_stay() -> None:
    torch.manual_seed(0)
    model, inputs = Table().eval(), torch.randn(2, 6, 5)
    coupling = couple(capture(model, inputs))
    assert {a.id: a.size for a in coupling.axes.values()} == {"embed:out": 8}
    assert ("places", "unread", 14) in {(f.tensor, f.reason, f.size) for f in coupling.frozen}
    small = assert_exact(model, inputs, coupling, half_of(coupling))
    assert small.places.shape == (20, 4)
    assert (
        assert_exact(model, inputs, coupling, random_share(coupling, 1), "hybrid")(torch.randn(1, 15, 5)).shape[1] == 15
    )
