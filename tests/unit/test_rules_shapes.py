"""Joins, cuts, views, slices, repeats, einsum and in-place ops: the axes are the right ones and cuts are exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from factories_cuts import prove

torch.set_num_threads(1)


class Between(nn.Module):
    """A function between two linear layers, over x (2, 4, 6)."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], width: int, out: int) -> None:
        super().__init__()
        self.a = nn.Linear(6, width)
        self.b = nn.Linear(out, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(torch.tanh(self.a(x))))


def _chunk_and_mix(x: torch.Tensor) -> torch.Tensor:
    a, b, c = x.chunk(3, -1)
    return torch.cat([c, a * b], -1)


def _split_unequal(x: torch.Tensor) -> torch.Tensor:
    a, b, c = x.split([2, 7, 3], -1)
    return torch.cat([b, c, a], -1)


def _in_place(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y.copy_(x).mul_(2.0).add_(x.exp())
    y[..., :5] += 1.0
    return y.relu_()


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    a, b = x[..., :6], x[..., 6:]
    return x * 0.5 + torch.cat([-b, a], -1) * 0.25


def _interleaved(x: torch.Tensor) -> torch.Tensor:
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([-b, a], -1).flatten(-2)


def _split_dim(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (3, 4)).permute(0, 1, 3, 2).reshape(2, 4, 12)


def _merge_patches(x: torch.Tensor) -> torch.Tensor:
    grid = x.view(2, 2, 2, 12)
    parts = [grid[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.cat(parts, -1).view(2, 1, 48)


# name → (function, width before, width after, axes)
CASES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int, int, dict[str, int]]] = {
    "chunk": (_chunk_and_mix, 12, 8, {"a:out[0]": 4, "a:out[1]": 4}),
    "split": (_split_unequal, 12, 12, {"a:out[0]": 2, "a:out[1]": 7, "a:out[2]": 3}),
    "cat twice": (lambda x: torch.cat([x, x], -1), 12, 24, {"a:out": 12}),
    "in-place": (_in_place, 12, 12, {"a:out[0]": 5, "a:out[1]": 7}),
    "rotate half": (_rotate_half, 12, 12, {"a:out": 6}),
    "interleaved": (_interleaved, 12, 12, {"a:out[0]": 6}),
    "view and permute": (_split_dim, 12, 12, {"a:out[0]": 3, "a:out[1]": 4}),
    "negative slice": (lambda x: x[..., -5:], 12, 5, {"a:out[0]": 7, "a:out[1]": 5}),
    "narrow": (lambda x: x.narrow(-1, 2, 6), 12, 6, {"a:out[0]": 2, "a:out[1]": 6, "a:out[2]": 4}),
    "repeat": (lambda x: x.repeat(1, 1, 3), 4, 12, {"a:out": 4, "b:in[0]": 3}),
    "repeat interleave": (lambda x: x.repeat_interleave(3, -1), 4, 12, {"a:out": 4, "b:in[1]": 3}),
    "expand": (
        lambda x: x.unsqueeze(2).expand(2, 4, 3, 4).reshape(2, 4, 12),
        4,
        12,
        {"a:out": 4, "b:in[0]": 3},
    ),
    "glu": (lambda x: F.glu(x, -1), 12, 6, {"a:out": 6}),
    "einsum": (lambda x: torch.einsum("bnc,bmc->bnm", x, x) @ x, 12, 12, {"a:out": 12}),
    "einsum with dots": (lambda x: torch.einsum("...c,...c->...c", x, x), 12, 12, {"a:out": 12}),
    "matmul of transposes": (lambda x: x @ (x.transpose(1, 2) @ x), 12, 12, {"a:out": 12}),
    "roll tokens": (lambda x: x.roll(1, 1), 12, 12, {"a:out": 12}),
    "select a factor": (lambda x: x.view(2, 4, 3, 4)[:, :, 1], 12, 4, {"a:out[1]": 4}),
    "unbind a factor": (lambda x: sum(x.view(2, 4, 3, 4).unbind(2)), 12, 4, {"a:out[1]": 4}),
    "patch merging": (_merge_patches, 12, 48, {"a:out": 12}),
    "ragged shuffle": (
        lambda x: x.view(2, 4, 2, 5).transpose(2, 3).reshape(2, 4, 10)[..., :5],
        10,
        5,
        {"a:out[0]": 2, "a:out[1]": 2},
    ),
    "where and masks": (lambda x: torch.where(x > 0, x, x * 0.1).masked_fill(x > 0.9, 0.5), 12, 12, {"a:out": 12}),
    "softmax freezes": (lambda x: x.softmax(-1), 12, 12, {}),
    "sort freezes": (lambda x: x.sort(-1).values, 12, 12, {}),
    "norm by hand": (lambda x: x / x.pow(2).mean(-1, keepdim=True).sqrt(), 12, 12, {"a:out": 12}),
    "maximum over features": (lambda x: x * x.amax(-1, keepdim=True), 12, 12, {"a:out": 12}),
    "cumulative tokens": (lambda x: x.cumsum(1), 12, 12, {"a:out": 12}),
    "index tokens": (lambda x: x[:, torch.tensor([2, 0, 1])], 12, 12, {"a:out": 12}),
}


@pytest.mark.parametrize("name", CASES)
def test_shape_ops_are_cut_exactly(name: str) -> None:
    function, width, out, axes = CASES[name]
    torch.manual_seed(0)
    net = Between(function, width, out)
    if axes:
        prove(net, torch.randn(2, 4, 6), axes=axes)
        return
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    assert not couple(capture(net, torch.randn(2, 4, 6))).axes
