"""One consumer during removal: H⁻¹ and W of the remaining inputs, as a fixed part and low-rank changes."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.solvers.consumers import Consumer, blocks, rows_of, traces, unit_columns
from prunus.solvers.problem import damped, inverse, triangle

_RANK = 256
"""Rank of the pending changes at which one matrix product applies them, without the removed inputs."""


class Leaving:
    """The state of group OBS in one consumer.

    H⁻¹ = H₀⁻¹ − UUᵀ and F = F₀ − VUᵀ; removing the inputs B adds U_B = H⁻¹_{:,B}L⁻ᵀ and V_B = F_B L⁻ᵀ, with
    LLᵀ = H⁻¹_BB, and costs ‖V_B‖². Only the diagonal blocks of H⁻¹ and FᵀF, which scores need, are kept up to date.
    ``root`` holds Fᵀ.
    """

    def __init__(self, consumer: Consumer, units: int, damping: float) -> None:
        moment = consumer.moment.detach().to(consumer.dtype)
        self.units, self.unit = units, consumer.unit.to(moment.device).clone()
        self.inverse, self.root = inverse(damped(moment, damping)), consumer.root().T.contiguous()
        self._refresh()

    def scores(self) -> Tensor:
        """Return tr(F_B (H⁻¹_BB)⁻¹ F_Bᵀ) of every unit; 0 for one that feeds nothing here. Shapes: → (units,)."""
        if self.own.shape[1] == 1:
            return (self.energy / self.own)[:, 0, 0]
        return traces(self.own, self.energy)

    def remove(self, chosen: list[int]) -> Tensor:
        """Remove units in this order; return the error that each adds. Shapes: → (chosen,)."""
        columns = self.columns[chosen]
        owner = torch.arange(len(chosen), device=columns.device)[:, None].expand(columns.shape)
        real = columns < len(self.inverse)
        index, owner = columns[real], owner[real]
        rise = self.root.new_zeros(len(chosen))
        if len(index) == 0:
            return rise
        if self.rank + len(index) > self.left.shape[1]:
            self._flush(len(index))
            return self.remove(chosen)
        old, change = self.left[:, : self.rank], self.right[:, : self.rank]
        own = old[index]
        rows = self.inverse[index] - own @ old.T
        lower = triangle(rows[:, index])
        left = torch.linalg.solve_triangular(lower, rows, upper=False).T
        right = torch.linalg.solve_triangular(lower, self.root[index] - own @ change.T, upper=False).T
        self._settle(left, right, self.root @ right - old @ (change.T @ right))
        self.left[:, self.rank : self.rank + len(index)] = left
        self.right[:, self.rank : self.rank + len(index)] = right
        self.rank += len(index)
        self.unit[index] = self.units
        self._retire(chosen)
        return rise.index_add_(0, owner, right.square().sum(0))

    def _settle(self, left: Tensor, right: Tensor, product: Tensor) -> None:
        """Update the diagonal blocks. Shapes: left, product (I, k), right (O, k)."""
        mine, other = rows_of(left, self.columns), rows_of(product, self.columns)
        self.own -= mine @ mine.mT
        cross = other @ mine.mT
        self.energy += mine @ (right.T @ right) @ mine.mT - cross - cross.mT

    def _retire(self, chosen: list[int]) -> None:
        self.columns[chosen] = len(self.inverse)
        self.own[chosen] = torch.eye(self.own.shape[1]).to(self.own)
        self.energy[chosen] = 0

    def _flush(self, room: int) -> None:
        """Apply the low-rank changes and leave out the removed inputs."""
        stays = (self.unit < self.units).nonzero().reshape(-1)
        left = self.left[stays, : self.rank]
        self.inverse = self.inverse[stays][:, stays].addmm_(left, left.T, alpha=-1)
        self.root = self.root[stays].addmm_(left, self.right[:, : self.rank].T, alpha=-1)
        self.unit = self.unit[stays]
        self._refresh(room)

    def _refresh(self, room: int = 0) -> None:
        unit = torch.where(self.unit < self.units, self.unit, -1)
        self.columns = unit_columns(unit, self.units)
        if self.columns.shape[1] == 0:
            self.columns = torch.full((self.units, 1), len(self.unit), device=self.unit.device)
        size = min(len(self.unit), max(_RANK, room, self.columns.shape[1]))
        self.left = self.inverse.new_zeros(len(self.inverse), size)
        self.right = self.root.new_zeros(self.root.shape[1], size)
        self.rank = 0
        self.own = blocks(self.inverse, self.columns, fill=1.0)
        read = rows_of(self.root, self.columns)
        self.energy = read @ read.mT
