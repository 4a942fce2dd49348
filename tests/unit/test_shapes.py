"""Shapes by formula: the same sizes, strides, types and aliases that fake tensors find the long way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from prunus.graph import observer
from prunus.graph.capture import capture
from prunus.graph.ir import Graph
from prunus.graph.shapes import by_formula

a = torch.ops.aten
X, Y = torch.randn(2, 6, 8, 8), torch.randn(1, 6, 1, 1)
T, W = torch.randn(2, 5, 6), torch.randn(4, 6)
V = torch.ones(6)
LAST = X.to(memory_format=torch.channels_last)


def gru(**options: Any) -> tuple[Any, ...]:
    """Return the arguments of the op below a GRU of 6 inputs and 4 units, on T."""
    net = nn.GRU(6, 4, **options)
    ways, batch = 1 + net.bidirectional, T.shape[0 if net.batch_first else 1]
    state = torch.zeros(net.num_layers * ways, batch, 4)
    weights = [w.detach() for w in net.parameters()]
    return (T, state, weights, net.bias, net.num_layers, 0.0, False, net.bidirectional, net.batch_first)


ANSWERED = [
    (a.relu.default, (X,)),
    (a.gelu.default, (T,)),
    (a.relu_.default, (X,)),
    (a.softmax.int, (T, -1)),
    (a.dropout.default, (T, 0.1, False)),
    (a.batch_norm.default, (X, V, V, V, V, False, 0.1, 1e-5, True)),
    (a.layer_norm.default, (T, [6], V, V)),
    (a.layer_norm.default, (T, [6])),
    (a.add.Tensor, (X, Y)),
    (a.add.Tensor, (Y, X)),
    (a.mul.Tensor, (T, V)),
    (a.div.Tensor, (T, 2)),
    (a.sub.Tensor, (torch.randn(3, 1), torch.randn(1, 4))),
    (a.mul_.Tensor, (X, Y)),
    (a.linear.default, (T, W)),
    (a.linear.default, (T, W, torch.ones(4))),
    (a.linear.default, (T.transpose(0, 1), W, torch.ones(4))),
    (a.linear.default, (torch.randn(2, 3, 6, 5).transpose(2, 3), W)),
    (a.linear.default, (torch.randn(6, 7).t(), W)),
    (a.conv1d.default, (T.transpose(1, 2).contiguous(), torch.randn(4, 6, 3), None, [1], [1])),
    (a.conv2d.default, (X, torch.randn(4, 3, 3, 3), torch.ones(4), [2, 2], [1, 1], [1, 1], 2)),
    (a.conv2d.default, (X, torch.randn(4, 6, 3, 3), None, [1, 1], [2, 2], [3, 3])),
    (a.conv2d.default, (X, torch.randn(4, 6, 1, 1))),
    (a.conv2d.default, (LAST, torch.randn(4, 6, 3, 3))),
    (
        a.conv2d.default,
        (X.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), torch.randn(6, 1, 3, 3), V, [2], [1], [1], 6),
    ),
    (a.conv2d.default, (LAST, torch.randn(4, 6, 8, 8))),
    (a.conv2d.default, (LAST, torch.randn(1, 6, 3, 3))),
    (a.conv2d.default, (LAST[:1], torch.randn(1, 6, 8, 8))),
    (a.mul.Tensor, (torch.randn(6, 1, 1), LAST)),
    (a.mul.Tensor, (LAST, torch.randn(8))),
    (a.add.Tensor, (LAST, LAST.clone())),
    (a.add.Tensor, (LAST, Y)),
    (a.add.Tensor, (LAST, 2)),
    (a.gelu.default, (LAST,)),
    (a.conv3d.default, (torch.randn(1, 2, 4, 4, 4), torch.randn(3, 2, 2, 2, 2))),
    (a.adaptive_avg_pool2d.default, (X, [1, 1])),
    (a.adaptive_avg_pool2d.default, (X, [3, 2])),
    (a.cat.default, ([X, X], 1)),
    (a.cat.default, ([T, T, T], -1)),
    (a.view.default, (X, [2, 6, 64])),
    (a.reshape.default, (X.transpose(1, 2), [2, -1])),
    (a.reshape.default, (X, [2, 6, 8, 8])),
    (a.flatten.using_ints, (X, 1)),
    (a.permute.default, (X, [0, 2, 3, 1])),
    (a.transpose.int, (X, 1, -1)),
    (a.unsqueeze.default, (T, 1)),
    (a.squeeze.dim, (Y, 2)),
    (a.select.int, (X, 1, -1)),
    (a.slice.Tensor, (X, 1, 1, None, 2)),
    (a.split.Tensor, (X, 4, 1)),
    (a.chunk.default, (X, 2, 1)),
    (a.unbind.int, (X, 1)),
    (a.expand.default, (Y, [2, -1, 8, 8])),
    (a.contiguous.default, (X,)),
    (a.contiguous.default, (X.transpose(1, 2),)),
    (a.matmul.default, (T, T.transpose(1, 2))),
    (a.matmul.default, (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5, 4))),
    (a.bmm.default, (T, T.transpose(1, 2))),
    (a.roll.default, (X, [1, 2], [2, 3])),
    (a.gru.input, gru()),
    (a.gru.input, gru(batch_first=True, bias=False)),
    (a.gru.input, (T.transpose(0, 1), *gru()[1:-1], True)),
    (a.gru.input, gru(batch_first=True, num_layers=2, bidirectional=True)),
]


@pytest.mark.parametrize(("func", "args"), ANSWERED, ids=[str(func) for func, _ in ANSWERED])
def test_the_formula_is_what_torch_says(func: Any, args: tuple[Any, ...]) -> None:
    with FakeTensorMode() as mode, torch.no_grad():
        one, two = (torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, args) for _ in range(2))
        expected = observer._stand_in(func)(*one)
    with mode, torch.no_grad():
        found = by_formula(func, two, {})
    assert found is not None
    assert _described(found, two) == _described(expected, one)


def _described(out: Any, args: Any) -> Any:
    inputs = [x for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, torch.Tensor)]
    results = list(out) if isinstance(out, (tuple, list)) else [out]
    return [
        (
            type(r).__name__,
            r.shape,
            r.stride(),
            r.storage_offset(),
            r.dtype,
            r.device,
            r.requires_grad,
            [r is x for x in inputs],
            [r.untyped_storage()._cdata == x.untyped_storage()._cdata for x in inputs],
        )
        for r in results
    ]


LEFT = [
    (a.relu.default, (torch.ones(3, dtype=torch.int64),)),
    (a.add.Tensor, (X, torch.ones(1, dtype=torch.float64))),
    (a.add.Tensor, (X, torch.randn(3))),
    (a.linear.default, (T, torch.randn(4, 5))),
    (a.conv2d.default, (X, torch.randn(4, 5, 3, 3))),
    (a.conv2d.default, (X, torch.randn(4, 6, 11, 11))),
    (a.add.Tensor, (LAST, X)),
    (a.mul.Tensor, (LAST, torch.randn(6, 8, 1))),
    (a.conv2d.default, (LAST[:, :1], torch.randn(4, 1, 3, 3))),
    (a.dropout.default, (T, 0.1, True)),
    (a.batch_norm.default, (X, V, V, V, V, True, 0.1, 1e-5, True)),
    (a.cat.default, ([X, T], 1)),
    (a.cumsum.default, (T, 1)),
    (a.gru.input, (*gru()[:5], 0.5, True, False, False)),
    (
        a.gru.input,
        (T.double(), *(x.double() for x in gru()[1:2]), [w.double() for w in gru()[2][:3]] + gru()[2][3:], *gru()[3:]),
    ),
]


@pytest.mark.parametrize(("func", "args"), LEFT, ids=[f"{i} {func}" for i, (func, _) in enumerate(LEFT)])
def test_the_rest_is_left_to_torch(func: Any, args: tuple[Any, ...]) -> None:
    with FakeTensorMode() as mode, torch.no_grad():
        fake = torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, args)
        assert by_formula(func, fake, {}) is None


def test_values_that_are_known_stay_known() -> None:
    with FakeTensorMode():
        assert by_formula(a.sqrt.default, (torch.tensor(4.0),), {}) is None
        assert by_formula(a.sqrt.default, (torch.ones(1),), {}) is not None


def test_autocast_is_left_to_torch() -> None:
    with FakeTensorMode() as mode, torch.autocast("cpu", torch.bfloat16):
        assert by_formula(a.relu.default, (mode.from_tensor(X),), {}) is None


class Mixed(torch.nn.Module):
    """Convolutions, attention by hand, views, and a number computed while running."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8)
        self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scale = float(torch.tensor(4.0).sqrt())
        weights = (q @ k.transpose(-2, -1) / scale).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(x.shape))
        return torch.cat([x, x[..., ::2]], -1) * 2


def test_the_graph_is_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Mixed().eval(), torch.randn(2, 3, 8, 8)
    quick = capture(model, x)
    answered: list[Any] = []
    long_way: Callable[..., Any] = lambda func, *_: answered.append(func)  # noqa: E731
    monkeypatch.setattr("prunus.graph.shapes.by_formula", long_way)
    slow = capture(model, x)
    assert len(answered) > 20
    assert quick.how == slow.how == "record on fake tensors"
    assert _program(quick) == _program(slow)


def _program(graph: Graph) -> list[Any]:
    return [(n.name, n.op, n.args, n.outputs, n.call) for n in graph.nodes]
