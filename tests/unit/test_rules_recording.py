"""What the recorder sees: tensors made on the way, objects in the results, names of axes, the reference of a proof."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from factories_cuts import assert_exact, half_of, prove
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.graph.ir import INPUT, TENSOR

torch.set_num_threads(1)


class Adding(nn.Module):
    """Adds what a function makes to a hidden layer."""

    def __init__(self, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.make = nn.Linear(5, 8), nn.Linear(8, 3), make

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(y + self.make(y))


MADE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros": lambda y: torch.zeros(4, 8),
    "ones": lambda y: torch.ones(8, device=y.device),
    "full": lambda y: torch.full((4, 1), 0.5),
    "zeros_like": lambda y: torch.zeros_like(y),
    "full_like": lambda y: torch.full_like(y, 2.0),
    "new_ones": lambda y: y.new_ones(4, 8),
    "empty, filled": lambda y: torch.empty(4, 8).fill_(0.25),
    "eye": lambda y: torch.eye(4)[:, :1],
    "arange": lambda y: torch.arange(4.0)[:, None],
    "scalar": lambda y: torch.scalar_tensor(2.0),
    "tensor": lambda y: torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
}


@pytest.mark.parametrize("name", MADE)
def test_tensors_made_on_the_way_follow_the_cut(name: str) -> None:
    net, inputs = Adding(MADE[name]).eval(), torch.randn(4, 5)
    assert capture(net, inputs).how == "record on fake tensors"
    prove(net, inputs, axes={"a:out": 8})


UNSEEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "data": lambda y: torch.tanh(y.data),
    "data of a view": lambda y: torch.tanh(y[:, :].data),
    "numpy and back": lambda y: torch.tanh(torch.from_numpy(y.detach().numpy())),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_no_op_hands_over_is_found_by_its_memory(name: str) -> None:
    coupling = prove(Adding(UNSEEN[name]), torch.randn(4, 5), axes={"a:out": 8})
    assert not coupling.graph.constants
    assert bool(coupling.graph.notes) == ("numpy" in name)


def test_positions_along_an_axis_are_a_constant_that_is_cut() -> None:
    coupling = prove(Adding(lambda _: torch.arange(8.0)), torch.randn(4, 5), axes={"a:out": 8})
    assert [i.kind for i in coupling.graph.tensors.values()].count("constant") == 1


class Cache:
    """A plain object that holds tensors, as language models return."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.seen = 0


class Caching(nn.Module):
    """Returns an object with its inner state beside the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        cache = Cache()
        cache.keys.append(torch.tanh(self.a(x)))
        cache.seen = len(x)
        return self.b(cache.keys[0]), cache


def test_a_cache_among_the_results_is_rebuilt_and_follows_the_cut() -> None:
    net, inputs = Caching(), torch.randn(4, 5)
    coupling = prove(net, inputs, axes={"a:out": 8})
    small = assert_exact(net, inputs, coupling, half_of(coupling))
    _, cache = small(inputs)
    assert type(cache) is Cache
    assert cache.seen == 4
    assert cache.keys[0].shape == (4, 4)
    assert cache.keys[0].requires_grad


def test_a_distribution_is_a_result_and_stays_whole() -> None:
    class Guess(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.distributions.Normal:
            y = self.b(torch.tanh(self.a(x)))
            return torch.distributions.Normal(y, torch.ones_like(y), validate_args=False)

    net, inputs = Guess(), torch.randn(4, 5)
    coupling = prove(net, inputs, axes={"a:out": 8})
    small = assert_exact(net, inputs, coupling, half_of(coupling))
    assert small(inputs).mean.shape == (4, 3)


def test_what_is_not_zero_at_zero_stays_out_of_sums() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(x) * torch.sigmoid(self.a(x)).sum(-1, keepdim=True)

    prove(Gate(), torch.randn(4, 5), axes={"a:out": 8})


def test_a_rate_that_divides_may_go() -> None:
    class Rates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
            self.register_buffer("rates", torch.rand(8) + 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x) * torch.cos(1 / self.rates))

    coupling = prove(Rates(), torch.randn(4, 5), axes={"a:out": 8})
    assert "rates" in {m.tensor for m in coupling.axis("a:out").members}


def test_outputs_are_protected_unless_told_otherwise() -> None:
    net, inputs = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6)).eval(), torch.randn(4, 5)
    graph = capture(net, inputs)
    assert list(couple(graph).axes) == ["0:out"]
    free = couple(graph, protect_outputs=False)
    assert {a.id: a.size for a in free.axes.values()} == {"0:out": 8, "2:out": 6}
    assert free.coverage() == 1.0
    assert_exact(net, inputs, free, half_of(free))


def test_double_precision_literals_are_no_obstacle() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x.to(torch.float32)).float()
            return self.b(torch.nn.functional.softplus(y, beta=1.0).to(torch.float32))

    prove(Careful(), torch.randn(4, 5), axes={"a:out": 8})


def test_every_node_has_a_source_line_and_a_module() -> None:
    graph = capture(Caching(), torch.randn(4, 5))
    steps = [n for n in graph.nodes if n.op not in (INPUT, TENSOR)]
    assert steps
    assert all("test_rules_recording.py" in n.source for n in steps)
    assert {graph.module_of(n) for n in steps} == {"", "a", "b"}
