"""Equations of more than two sizes: uneven pieces, shuffles, sums, and which factor of a product stays whole."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_own_forward import keep_forward, terms_of
from prunus.graph.layout import Frozen
from prunus.surgery.keeping.step_directions import directions


class Pieces(nn.Module):
    """One layer for each piece of the channels, the last piece smaller than the others."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.size, self.stem, self.head = how, 8, nn.Linear(10, 22), nn.Linear(22, 3)
        # tensor_split makes the first piece larger, the others the last one smaller.
        widths = (8, 7, 7) if how == "tensor_split" else (8, 8, 6)
        self.layers = nn.ModuleList(nn.Linear(n, n) for n in widths)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        parts = {
            "chunk": lambda: x.chunk(3, -1),
            "split": lambda: x.split(self.size, -1),
            "tensor_split": lambda: x.tensor_split(3, -1),
        }[self.how]()
        return self.head(torch.cat([f(p).relu() for f, p in zip(self.layers, parts, strict=True)], -1))


@pytest.mark.parametrize("how", ["chunk", "split", "tensor_split"])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_uneven_pieces_lose_as_many_units(how: str, share: float) -> None:
    done = keep_forward(Pieces(how), (torch.randn(2, 4, 10),), share=share)
    widths = [layer.in_features for layer in done.model.layers]
    before = [layer.in_features for layer in Pieces(how).layers]
    assert len({b - w for b, w in zip(before, widths, strict=True)}) == 1
    assert widths[0] < before[0]
    assert done.check.on_example
    if how == "split":
        assert done.model.size == widths[0]


def test_a_size_of_pieces_that_the_code_writes_freezes_them() -> None:
    class Written(Pieces):
        def forward(self, x: Tensor) -> Tensor:
            parts = self.stem(x).split(8, -1)
            return self.head(torch.cat([f(p).relu() for f, p in zip(self.layers, parts, strict=True)], -1))

    _, own = terms_of(Written("split"), (torch.randn(2, 4, 10),))
    reasons = [why.reason for axis, why in own.frozen.items() if axis.startswith("stem")]
    assert any("the code writes 8 as split_size of split" in why for why in reasons)
    assert len(reasons) == 3  # the last piece too: it may not end up larger than the others


def test_borders_that_modules_hold_are_mended() -> None:
    class Borders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at, self.stem, self.head = (5, 12), nn.Linear(10, 20), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b, c = self.stem(x).tensor_split(self.at, -1)
            return self.head(torch.cat([c.relu(), a.tanh(), b], -1))

    done = keep_forward(Borders(), (torch.randn(2, 4, 10),))
    sizes = [int(done.plan.axes[f"stem:out[{i}]"].sum()) for i in range(3)]
    assert sizes == [2, 3, 4]
    assert done.model.at == (2, 5)


class Shuffled(nn.Module):
    """Half of the channels pass by; the other half is computed; then they are shuffled."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 2 * width, 1), nn.Conv2d(2 * width, 4, 1)
        self.branches = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, F.relu(branch(b))], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x)


def test_shuffled_halves_of_halves_lose_units_together() -> None:
    done = keep_forward(Shuffled(24, 3), (torch.randn(2, 3, 5, 5),))
    assert not done.own.frozen
    assert done.model.stem.out_channels == 24
    assert [b.out_channels for b in done.model.branches] == [12, 12, 12]


def test_a_width_that_is_a_sum_follows_its_parts() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(10, 6), nn.Linear(10, 15), nn.Linear(10, 21)
            self.left, self.right = nn.Linear(21, 3), nn.Linear(21, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat([self.a(x), self.b(x)], -1)
            return self.left(h) + self.right(self.c(x).relu().reshape(*x.shape[:2], h.shape[-1]))

    done = keep_forward(Joined(), (torch.randn(2, 4, 10),))
    tie = done.own.ties[0]
    assert len(done.own.ties) == 1
    assert tie.units["a:out"] + tie.units["b:out"] == tie.units["c:out"]
    small = done.model
    assert small.a.out_features + small.b.out_features == small.c.out_features < 21


def test_heads_stay_whole_where_their_width_cannot() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.groups, self.stem, self.mix = 4, nn.Linear(10, 44), nn.Linear(44, 44)
            self.layers, self.head = nn.ModuleList(nn.Linear(n, n) for n in (15, 15, 14)), nn.Linear(44, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = torch.cat([p * f(p).tanh() for f, p in zip(self.layers, x.chunk(3, -1), strict=True)], -1)
            b, t, c = x.shape
            # The product of (sums over groups) × (sums over widths) keeps both factors apart.
            h = self.mix(x).view(b, t, self.groups, -1)
            return self.head(x + (h.sum(-1, keepdim=True) * h.tanh()).reshape(b, t, c).relu().sum(-1, keepdim=True))

    done = keep_forward(Grouped(), (torch.randn(2, 4, 10),), head_dims="free", share=0.67)
    assert "sizes must agree" in done.own.frozen["mix:out[0]"].reason
    assert [sorted(t.units.values()) for t in done.own.ties] == [[3, 4, 4, 4]]
    assert done.model.groups == 4
    assert done.model.mix.out_features == 4 * 8


def test_a_size_that_stays_is_told_with_its_number() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.mix, self.out = 4, nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            b, t, c = x.shape
            h = self.mix(x).view(b, t, self.heads, -1).softmax(-1)
            return self.out(h.reshape(b, t, c))

    coupling, own = terms_of(Bare(), (torch.randn(2, 5, 12),))
    why = own.frozen["mix:out[0]"]
    assert why.reason == "sizes must agree: shape is input_0.shape[2], and that is 12 whatever is cut"
    assert "test_own_forward_sums.py" in coupling.graph.node(why.node).source


def test_equal_pieces_of_heads_leave_heads_and_widths_free() -> None:
    class Packed(nn.Module):
        """One layer for queries, keys and values, cut in three by ``chunk``: |H|·|D| = |H|·|E|."""

        def __init__(self) -> None:
            super().__init__()
            self.heads, self.qkv, self.out = 4, nn.Linear(10, 72), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            b, t, _ = x.shape
            q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
            return self.out(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))

    done = keep_forward(Packed(), (torch.randn(2, 5, 10),), head_dims="free")
    assert not done.own.frozen
    assert [sorted(t.units) for t in done.own.ties] == [["qkv:out[1]", "qkv:out[2]"]]
    assert (done.model.heads, done.model.out.in_features) == (2, 2 * 3)


@pytest.mark.parametrize("seed", range(20))
def test_steps_solve_random_systems(seed: int) -> None:
    generator = random.Random(seed)
    sizes = [generator.randint(12, 60) for _ in range(6)]
    hidden = [generator.randint(1, 3) for _ in range(6)]
    rows = []
    for _ in range(generator.randint(1, 4)):
        a, b, c = generator.sample(range(6), 3)
        rows.append(
            ({a: hidden[b] * hidden[c], b: hidden[a] * hidden[c], c: -2 * hidden[a] * hidden[b]}, Frozen("one"))
        )
    groups, stuck = directions(rows, sizes, lambda step: True)
    assert not stuck  # the hidden solution removes units of every axis
    steps = {a: n for group in groups for a, n in group.items()}
    assert steps.keys() == {a for row, _ in rows for a in row}
    assert all(n > 0 for n in steps.values())
    assert all(sum(c * steps[a] for a, c in row.items()) == 0 for row, _ in rows)
    assert all(math.gcd(*group.values()) == 1 for group in groups)


def test_systems_without_a_positive_solution_name_what_is_stuck() -> None:
    rows = [({0: 1, 1: 1}, Frozen("sum")), ({2: 1, 3: -2}, Frozen("double"))]
    groups, stuck = directions(rows, [8, 8, 8, 4], lambda step: True)
    assert {a: why.reason for a, why in stuck.items()} == {0: "sum", 1: "sum"}
    assert groups == []  # what is stuck is a number from then on; the rest is solved anew
    assert directions(rows[1:], [8, 8, 8, 4], lambda step: True) == ([{2: 2, 3: 1}], {})
