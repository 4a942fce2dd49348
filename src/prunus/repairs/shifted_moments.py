"""Moments of the patches of a convolution without the patches: windows that are shifted share all but their edges.

The moment of the patches holds a block G(i, j) = Σ_t x(st + di) x(st + dj)ᵀ for every pair of taps i, j; t runs over
the T windows, s is the stride and d the dilation. With a = lcm(s, d)/d and b = lcm(s, d)/s a shift by a taps is a shift
by b windows:

    G(i + a, j + a) = G(i, j) − Σ_{t<b} x(st + di) x(st + dj)ᵀ + Σ_{T≤t<T+b} x(st + di) x(st + dj)ᵀ

So only the pairs with a tap below a are full products: 2k − 1 of k² at stride 1. A kernel of several dims takes
its dims one after another; the edges are kernels of one dim less. The result is exact up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from prunus.repairs.moments import Sums

_COPIED = 2.0
"""A product of shifted windows costs so many times as much as one of rows, because each copies its windows."""
_LEAST_WORK = 1e9
"""Multiplications below which patches are made: they take a moment."""
_BLOCK = 512  # rows of the moment that are made symmetric at once
_VALUES = 1 << 24  # values of shifted windows that are copied at once


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a convolution along one dim.

    Attributes:
        taps: positions k of the kernel.
        count: windows T.
        stride, dilation: distance of windows, and of taps.
    """

    taps: int
    count: int
    stride: int
    dilation: int

    @property
    def period(self) -> int:
        """The number a of taps after which blocks repeat."""
        return math.lcm(self.stride, self.dilation) // self.dilation

    @property
    def edge(self) -> int:
        """The number b of windows by which a shift of `period` taps moves them."""
        return math.lcm(self.stride, self.dilation) // self.stride

    def pairs(self, *, square: bool) -> list[tuple[int, int]]:
        """Return the pairs of taps whose blocks are full products; with ``square`` none below the diagonal."""
        every = product(range(self.taps), repeat=2)
        return [(i, j) for i, j in every if min(i, j) < self.period and (i <= j or not square)]

    def shifts(self, *, square: bool) -> list[tuple[int, int]]:
        """Return the pairs whose blocks follow from those `period` taps before, in that order."""
        every = product(range(self.taps), repeat=2)
        return [(i, j) for i, j in every if min(i, j) >= self.period and (i <= j or not square)]

    def seen(self, values: Tensor, dim: int, tap: int, first: int, count: int) -> Tensor:
        """Return what a tap reads in ``count`` windows from the ``first`` on."""
        start = first * self.stride + tap * self.dilation
        index = (slice(None),) * dim
        return values[(*index, slice(start, start + (count - 1) * self.stride + 1, self.stride))]

    def padded(self) -> int:
        """Return the least size of a dim in which the edges exist."""
        return (self.count + self.edge - 1) * self.stride + (self.taps - 1) * self.dilation + 1


def shifted_products(dims: Sequence[Windows], *, square: bool = True) -> int:
    """Return how many rows of one sample are multiplied in all products."""
    if not dims:
        return 1
    first, rest = dims[0], dims[1:]
    full = len(first.pairs(square=square)) * first.count
    return (full + len(first.shifts(square=square)) * 2 * first.edge) * shifted_products(rest, square=False)


def pays(dims: Sequence[Windows], samples: int, channels: int, most: int) -> bool:
    """Return True where shifted windows cost less than the products of at most ``most`` rows of patches.

    Args:
        dims: the kernel's dims.
        samples: number of inputs.
        channels: of one group.
        most: rows that are drawn where there are more.
    """
    taps = math.prod(d.taps for d in dims)
    rows = min(samples * math.prod(d.count for d in dims), most)
    if 2 * rows <= taps * channels or channels < 4 or taps == 1:
        return False  # so few rows are kept as they are; so few channels make no matrix products
    products = rows * taps * taps / 2
    return products * channels * channels > _LEAST_WORK and _COPIED * samples * shifted_products(dims) < products


def shifted_moments(dims: Sequence[Windows], groups: int, inputs: Tensor, targets: Tensor) -> Sums:
    """Return the moments of all patches of a convolution's inputs and of its target outputs.

    Products are computed in the dtype of the inputs, at least float32; they are summed in float64.

    Args:
        dims: windows, one for each dim of the kernel.
        groups: of the convolution.
        inputs: (B, C, …), padded.
        targets: (B, O, …).
    """
    samples, channels = inputs.shape[:2]
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    inputs, targets = inputs.to(dtype), targets.to(dtype)
    wide = [max(0, d.padded() - n) for d, n in zip(dims, inputs.shape[2:], strict=True)]
    x = torch.nn.functional.pad(inputs, [n for size in reversed(wide) for n in (0, size)])
    x = x.reshape(samples, groups, channels // groups, *x.shape[2:]).movedim(0, 1).movedim(2, -1)
    for place, own in enumerate(dims):
        if own.taps == 1:
            x = own.seen(x, 2 + place, 0, 0, own.count)
    dims = [own if own.taps > 1 else replace(own, stride=1) for own in dims]
    x = x.contiguous()
    t = targets.reshape(samples, groups, -1, *targets.shape[2:]).movedim(0, 1).movedim(2, -1)
    t = t.reshape(groups, -1, t.shape[-1])
    count = t.shape[1]
    several = [own for own in dims if own.taps > 1]
    rank, single = len(several), [2 + place for place, own in enumerate(dims) if own.taps == 1]
    lines = x.movedim(single, tuple(range(2, 2 + len(single)))).contiguous()
    second = _blocks(several, lines, lines, square=True)  # (k…, k…, G, C, C)
    order = (2 * rank, 2 * rank + 1, *range(rank), 2 * rank + 2, *range(rank, 2 * rank))
    size = channels // groups * math.prod(d.taps for d in dims)
    gram = second.permute(order).reshape(groups, size, size).div_(count)
    del second
    _make_symmetric_(gram)
    mean, cross = _with_targets(dims, x, t)
    wide_targets = t.to(torch.float64)
    return Sums(count, mean, gram, wide_targets.mean(1), cross, wide_targets.square().mean(1))


def _with_targets(dims: Sequence[Windows], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[x] and E[t xᵀ]. Shapes: x (G, B, …, C), t (G, n, O) → (G, C·K), (G, O, C·K)."""
    means, crosses = [], []
    for taps in product(*(range(d.taps) for d in dims)):
        part = x
        for place, (d, tap) in enumerate(zip(dims, taps, strict=True)):
            part = d.seen(part, 2 + place, tap, 0, d.count)
        rows = part.reshape(len(x), -1, x.shape[-1])
        means.append(rows.mean(1, dtype=torch.float64))
        crosses.append((t.mT @ rows).to(torch.float64))
    mean, cross = torch.stack(means, -1), torch.stack(crosses, -1)
    return mean.flatten(1), cross.flatten(2).div_(t.shape[1])


def _blocks(dims: Sequence[Windows], x: Tensor, y: Tensor, *, square: bool) -> Tensor:
    """Return Σ over windows of x(i) y(j)ᵀ for every pair of taps, in float64.

    Shapes: (G, …, C) twice, the dims of ``dims`` before the last → (k…, k…, G, C, C).
    """
    if not dims:
        a, b = (v.reshape(len(v), -1, v.shape[-1]) for v in (x, y))
        return (a.mT @ b).to(torch.float64)
    if len(dims) == 1:
        return _line(dims[0], x, y, square=square)
    own, rest = dims[0], dims[1:]
    dim = x.dim() - 1 - len(dims)

    def block(i: int, j: int, first: int, count: int) -> Tensor:
        left, right = own.seen(x, dim, i, first, count), own.seen(y, dim, j, first, count)
        return _blocks(rest, left, right, square=False)

    found: dict[tuple[int, int], Tensor] = {}
    for i, j in own.pairs(square=square):
        found[i, j] = block(i, j, 0, own.count)
    for i, j in own.shifts(square=square):
        before = i - own.period, j - own.period
        left, entered = block(*before, 0, own.edge), block(*before, own.count, own.edge)
        found[i, j] = found[before] - left + entered
    if square:
        for i, j in [pair for pair in found if pair[0] < pair[1]]:
            found[j, i] = _turned(found[i, j], len(rest))
    rows = [torch.stack([found[i, j] for j in range(own.taps)]) for i in range(own.taps)]
    stacked = torch.stack(rows)  # (k, k, rest…, rest…, G, C, C)
    return stacked.movedim(1, 1 + len(rest))


def _line(own: Windows, x: Tensor, y: Tensor, *, square: bool) -> Tensor:
    """Return the blocks of the last dim, many taps in one product. Shapes: as in `_blocks` → (k, k, G, C, C)."""
    taps, period = own.taps, min(own.period, own.taps)
    found = torch.empty(taps, taps, len(x), x.shape[-1], y.shape[-1], dtype=torch.float64, device=x.device)
    for j in range(0 if square else period):
        found[period:, j] = _row(own, y, x, j, range(period, taps), 0, own.count).mT
    for i in range(taps):
        start = i if square else 0 if i < period else period
        if i < period:
            found[i, start:] = _row(own, x, y, i, range(start, taps), 0, own.count)
            continue
        before, others = i - period, range(start - period, taps - period)
        left = _row(own, x, y, before, others, 0, own.edge)
        entered = _row(own, x, y, before, others, own.count, own.edge)
        found[i, start:] = found[before, start - period : taps - period] - left + entered
    if square:
        for i in range(taps):
            found[i + 1 :, i] = found[i, i + 1 :].mT
    return found


def _row(own: Windows, x: Tensor, y: Tensor, tap: int, others: range, first: int, count: int) -> Tensor:
    """Return Σ over windows of x(tap) y(j)ᵀ for other taps j, in float64. Shapes: → (others, G, C, C)."""
    dim = x.dim() - 2
    left = own.seen(x, dim, tap, first, count).reshape(len(x), -1, x.shape[-1]).mT
    step = max(1, _VALUES // max(1, left.shape[0] * left.shape[2] * y.shape[-1]))
    parts = [torch.zeros(0, len(x), x.shape[-1], y.shape[-1], dtype=torch.float64, device=x.device)]
    for start in range(0, len(others), step):
        some = others[start : start + step]
        right = torch.stack([own.seen(y, dim, j, first, count) for j in some], -2)
        product_ = left @ right.reshape(len(x), -1, len(some) * y.shape[-1])
        blocks = product_.reshape(len(x), left.shape[1], len(some), -1)
        parts.append(blocks.movedim(2, 0).to(torch.float64))
    return torch.cat(parts)


def _make_symmetric_(gram: Tensor) -> None:
    """Copy what is above the diagonal below it."""
    for start in range(0, gram.shape[1], _BLOCK):
        stop = start + _BLOCK
        own = gram[:, start:stop, start:stop]
        own.copy_(own.triu() + own.triu(1).mT)
        gram[:, stop:, start:stop] = gram[:, start:stop, stop:].mT


def _turned(block: Tensor, rank: int) -> Tensor:
    """Return the block of the taps in the other order. Shapes: (k…, k…, G, C, C) → the same."""
    order = (*range(rank, 2 * rank), *range(rank), 2 * rank, 2 * rank + 2, 2 * rank + 1)
    return block.permute(order)
