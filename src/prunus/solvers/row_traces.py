"""The order in which each row of a weight loses its inputs, many rows at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.solvers.patterns import NofM
from prunus.solvers.problem import triangle

_VALUES = 2**25
"""Entries of the low-rank changes of the rows that are traced together: 256 MiB in float64."""


@dataclass(frozen=True, slots=True)
class Traces:
    """The input that each row loses in each step, and the error that this adds.

    Shapes: order, rises (O, steps); width is I.
    """

    order: Tensor
    rises: Tensor
    width: int

    def after(self, steps: list[int]) -> Tensor:
        """Return the mask after the given number of steps of each row. Shapes: → (O, I), bool."""
        taken = torch.arange(self.order.shape[1], device=self.order.device) < torch.tensor(
            steps, device=self.order.device
        ).reshape(-1, 1)
        mask = torch.ones(len(self.order), self.width, dtype=torch.bool, device=self.order.device)
        return mask.scatter(1, self.order, ~taken)

    def last(self) -> Tensor:
        """Return the mask after all steps. Shapes: → (O, I), bool."""
        return self.after([self.order.shape[1]] * len(self.order))

    def cheapest(self, count: int) -> Tensor:
        """Return the mask after the ``count`` steps that add least, in the order of each row. Shapes: → (O, I), bool.

        A step is taken after those before it in its row, so it costs at least as much as each of them.
        """
        rows = len(self.order)
        cost = torch.cummax(self.rises, 1).values
        # Sorted step by step over all rows: a stable sort then never takes a later step of a row first.
        chosen = torch.argsort(cost.T.reshape(-1), stable=True)[:count] % max(1, rows)
        return self.after(torch.bincount(chosen, minlength=rows).tolist())


def trace_rows(weight: Tensor, inverse: Tensor, *, at_once: int = 1, pattern: NofM | None = None) -> Traces:
    """Remove the inputs of every row, the least w_p²/[H⁻¹]_pp first.

    All rows remove equally many inputs at a time. Half of the inputs are removed by low-rank changes of the inverse,
    which is then written out for the remaining half, and so on: at most a third of the memory traffic of plain
    elimination.

    Args:
        weight: rows of the matrix.
        inverse: H⁻¹, shared by all rows at the start.
        at_once: inputs that are chosen from the same scores.
        pattern: stop in every group of M once N are left; without it all inputs are removed.

    Shapes: weight (O, I), inverse (I, I).
    """
    width = weight.shape[1]
    rows = max(1, _VALUES // max(1, width * width))
    parts = [_trace(part, inverse, at_once, pattern) for part in torch.split(weight, rows)]
    return Traces(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), width)


def _trace(weight: Tensor, shared: Tensor, at_once: int, pattern: NofM | None) -> tuple[Tensor, Tensor]:
    state = _Rows(weight, shared, pattern)
    left = int(state.room[0].sum()) if len(weight) else 0
    while left:
        steps = min(left, -(-state.w.shape[1] // 2))
        # In groups of M the next choice depends on the last one.
        state.remove(steps, at_once if pattern is None else 1)
        left -= steps
    nothing = weight.new_zeros(len(weight), 0)
    return torch.cat([nothing.long(), *state.order], 1), torch.cat([nothing, *state.rises], 1)


class _Rows:
    """The state of some rows during elimination; all have lost equally many inputs, but different ones."""

    def __init__(self, weight: Tensor, shared: Tensor, pattern: NofM | None) -> None:
        rows, width = weight.shape
        self.w, self.inverse = weight.clone(), shared.expand(rows, width, width)
        self.name = torch.arange(width, device=weight.device).expand(rows, width)
        span = width if pattern is None else pattern.m
        self.group = self.name // max(1, span)
        sizes = torch.bincount(self.group[0], minlength=1) if rows else self.name.new_zeros(1)
        stay = torch.tensor([0 if pattern is None else pattern.quota(int(n)) for n in sizes], device=weight.device)
        self.room = (sizes - stay).expand(rows, len(sizes)).clone()
        self.order: list[Tensor] = []
        self.rises: list[Tensor] = []

    def remove(self, steps: int, at_once: int) -> None:
        """Remove ``steps`` inputs of every row by low-rank changes, then write out the inverse of the others."""
        change = self.w.new_zeros(len(self.w), steps, self.w.shape[1])
        diagonal = self.inverse.diagonal(dim1=1, dim2=2).clone()
        removed = torch.zeros_like(self.w, dtype=torch.bool)
        for t in range(0, steps, at_once):
            scores = self.w.square() / diagonal
            closed = removed | (self.room.gather(1, self.group) <= 0)
            count = min(at_once, steps - t)
            chosen = scores.masked_fill(closed, torch.inf).topk(count, dim=1, largest=False).indices
            new, rise = self._step(chosen, change[:, :t])
            change[:, t : t + count] = new
            diagonal -= new.square().sum(1)
            removed.scatter_(1, chosen, True)
            diagonal[removed] = 1.0
            self.w[removed] = 0.0
            self.room.scatter_add_(1, self.group.gather(1, chosen), -torch.ones_like(chosen))
            self.order.append(self.name.gather(1, chosen))
            self.rises.append(rise)
        self._shrink(removed, change)

    def _step(self, chosen: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Eliminate inputs of every row. Shapes: chosen (O, k), change (O, t, I) → (O, k, I), (O, k)."""
        rows = torch.arange(len(self.w), device=self.w.device)[:, None]
        read = change.gather(2, chosen[:, None, :].expand(-1, change.shape[1], -1))
        column = self.inverse[rows, chosen] - read.mT @ change
        own = column.gather(2, chosen[:, None, :].expand(-1, chosen.shape[1], -1))
        lower = triangle(own)
        new = torch.linalg.solve_triangular(lower, column, upper=False)
        value = torch.linalg.solve_triangular(lower, self.w.gather(1, chosen)[:, :, None], upper=False)
        self.w -= (value.mT @ new)[:, 0]
        return new, value[:, :, 0].square()

    def _shrink(self, removed: Tensor, change: Tensor) -> None:
        rows, left = len(removed), int((~removed[0]).sum())
        stays = (~removed).nonzero()[:, 1].reshape(rows, left)
        change = change.gather(2, stays[:, None, :].expand(-1, change.shape[1], -1))
        own = torch.arange(rows, device=removed.device)[:, None, None]
        self.inverse = self.inverse[own, stays[:, :, None], stays[:, None, :]].baddbmm_(change.mT, change, alpha=-1)
        self.w, self.name = self.w.gather(1, stays), self.name.gather(1, stays)
        self.group = self.group.gather(1, stays)
